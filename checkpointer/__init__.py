"""The daemon: decides when a container sleeps and wakes, and does it with criu."""
