"""The NRI plugin: puts the supervisor into the containers of pods that ask for it.

It is small and long-lived, because the runtime waits for it: handlers answer in milliseconds and
everything else is the daemon's work. It decides (annotations, refusals, circuit breaker), changes
a container's stored spec before it starts, and tells the daemon what is there.

Its absence never harms: a container created without it is a plain container.
"""
