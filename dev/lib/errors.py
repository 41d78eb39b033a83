"""The one error that `dev/` programs end with."""

from __future__ import annotations


class DevError(Exception):
    """Something a person has to know or do; the message is complete as it is."""
