"""Prepares a node: containerd's configuration, the files that containers and criu need, checks, and the way back.

Standard library only: it runs before anything else of ours does.
"""
