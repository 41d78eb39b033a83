"""Hold and replay: packets of a sleeping container wait in a TAP device and come back untouched.

Knows network namespaces, ports and connections; neither pods' names nor processes. Imports `bpf`.
"""
