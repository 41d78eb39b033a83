"""The kernel boundary: system calls, eBPF programs, their pinned maps and the loader.

Imports nothing of ours. Everything above speaks of ports and connections; what a struct looks like
in memory is known here only.
"""
