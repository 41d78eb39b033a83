"""What stands in the way of an installation, always with what to do."""


class InstallError(Exception):
    """The node is as it was; the text says what was found and what to do.

    Attributes:
        problem: What was found.
        remedy: What the person at the keyboard can do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class UnfitError(InstallError):
    """A check has failed without which nothing works."""


class AsleepError(InstallError):
    """Containers sleep here, and their memory would be lost."""
