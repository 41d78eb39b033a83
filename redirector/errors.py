"""What can go wrong in the redirector, besides OSError."""


class RedirectorError(Exception):
    """Something in a pod's datapath is not as it has to be."""


class LoadError(RedirectorError):
    """The eBPF programs could not be loaded; the message carries the loader's last words."""


class AttachError(RedirectorError):
    """A filter or device could not be put into the pod's network namespace."""


class BusyError(RedirectorError):
    """Another container of the pod is between phase 2 and its held set; try again later."""


class FullError(RedirectorError):
    """No slot or hold number is free."""


class AnsweringError(RedirectorError):
    """The responder cannot be started, or cannot listen in a pod."""
