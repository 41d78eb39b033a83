"""What can go wrong while freezing and thawing; every error is a sentence for people and the evidence behind it."""

from __future__ import annotations

import enum
from pathlib import Path


class Outcome(enum.Enum):
    """What became of the application when a dump failed."""

    RUNNING = enum.auto()  # it runs on, the supervisor knows, no image exists
    LOST = enum.auto()  # it did not survive, or could not be put right: the container has to fail


class CheckpointerError(Exception):
    """Base of this package's errors.

    Attributes:
        reason: One sentence: what failed and why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(CheckpointerError):
    """Raised inside a dump's `frozen` callback to call the dump off; the application resumes."""


class Missing(CheckpointerError):
    """A package of the distribution is not installed; the reason names it."""


class SupervisorError(CheckpointerError):
    """The supervisor does not answer, or has died."""


class ZygoteError(CheckpointerError):
    """No criu could be started: the bundle, the zygote or a namespace is at fault."""


class ImageError(CheckpointerError):
    """An image cannot be written, or must not be used."""


class EvidenceError(CheckpointerError):
    """An error for which criu left a log.

    Attributes:
        lines: The telling lines of criu's log, oldest first, at most a dozen.
        log: Where the log was kept, if it was.
    """

    def __init__(self, reason: str, lines: tuple[str, ...] = (), log: Path | None = None) -> None:
        super().__init__(reason)
        self.lines = lines
        self.log = log

    def __str__(self) -> str:
        return ": ".join([self.reason, *self.lines[-1:]])


class CriuError(EvidenceError):
    """Criu said no, went away, or did not answer in time.

    Attributes:
        errno: criu's cr_errno, 0 when it gave none.
        gone: criu ended without an answer.
        hung: criu was still there when the time was up.
    """

    def __init__(
        self, reason: str, *, errno: int = 0, gone: bool = False, hung: bool = False
    ) -> None:
        super().__init__(reason)
        self.errno = errno
        self.gone = gone
        self.hung = hung


class DumpError(EvidenceError):
    """A dump failed.

    Attributes:
        outcome: What became of the application.
        refused: It was called off by the caller's `frozen`; nothing is wrong.
    """

    def __init__(
        self,
        reason: str,
        lines: tuple[str, ...] = (),
        log: Path | None = None,
        *,
        outcome: Outcome = Outcome.RUNNING,
        refused: bool = False,
    ) -> None:
        super().__init__(reason, lines, log)
        self.outcome = outcome
        self.refused = refused


class RestoreError(EvidenceError):
    """A restore failed and nothing of the tree is left.

    Attributes:
        retry: The application has not run: the same image may be restored again.
    """

    def __init__(
        self,
        reason: str,
        lines: tuple[str, ...] = (),
        log: Path | None = None,
        *,
        retry: bool = True,
    ) -> None:
        super().__init__(reason, lines, log)
        self.retry = retry
