"""What can go wrong for who runs `kubectl zeropod`; every message names what, and what to do next."""

DONE, FAILED, USAGE, NOT_FOUND, NO_DAEMON, DENIED = range(6)
"""Exit codes; the first five are those of `zeropod` on the node."""


class PluginError(Exception):
    """It could not be done; the text is for people."""

    code = FAILED


class NotFoundError(PluginError):
    """There is no such pod, container or node."""

    code = NOT_FOUND


class NoDaemonError(PluginError):
    """Nobody answers for the pod's node."""

    code = NO_DAEMON


class DeniedError(PluginError):
    """The API server refuses.

    Args:
        server: Its own words, which name user, verb, resource and namespace.
        remedy: Which role grants it.
    """

    code = DENIED

    def __init__(self, server: str, remedy: str) -> None:
        super().__init__(f"{server}; {remedy}")
        self.server = server
        self.remedy = remedy
