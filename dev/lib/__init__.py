"""The parts behind `dev/node`, `dev/test`, `dev/demo` and `dev/bench`.

Everything here but `cri` runs on the host's own Python (>= 3.9) with the standard library only.
"""
