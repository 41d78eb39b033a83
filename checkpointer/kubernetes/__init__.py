"""What the cluster sees of a node's containers: labels, events, and the requests of those that sleep.

Imported only where a flag asks for it. Nothing here is waited for by a sleep or a wake: what happens is noted, and
threads of their own bring the API server up to date, for as long as that takes.
"""
