"""What can go wrong at the kernel boundary, besides OSError."""


class BpfError(Exception):
    """An eBPF program or map is not what it has to be."""


class ToolchainError(BpfError):
    """The compiler or its header tree is missing; the message names the package."""


class LayoutError(BpfError):
    """A struct in C and its packing in Python differ in size."""
