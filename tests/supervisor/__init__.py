"""Tests of the supervisor and of the zygote: the real programs, as root."""
