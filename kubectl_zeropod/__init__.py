"""`kubectl zeropod`: what sleeps in a cluster, why, and a hand on the switch. Runs on a user's machine, needs no daemon code."""
