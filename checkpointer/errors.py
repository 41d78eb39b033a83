"""What can go wrong while freezing and thawing; every error is a sentence for people and the evidence behind it."""

from __future__ import annotations

import enum
from pathlib import Path

from checkpointer.kinds import Kind, is_full, tells_full


class Outcome(enum.Enum):
    """What became of the application when a dump failed."""

    RUNNING = enum.auto()  # it runs on, the supervisor knows, no image exists
    LOST = enum.auto()  # it did not survive, or could not be put right: the container has to fail


class CheckpointerError(Exception):
    """Base of this package's errors.

    Attributes:
        reason: One sentence: what failed and why.
        kind: The same as a stable word, for metrics.
    """

    usual = Kind.INTERNAL

    def __init__(self, reason: str, *, kind: Kind | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind or self.usual


class Refused(CheckpointerError):
    """Raised inside a dump's `frozen` callback to call the dump off; the application resumes."""

    usual = Kind.UNSUPPORTED


class NoRoom(CheckpointerError):
    """The application does not fit now; nothing of it is left, and its image is whole."""

    usual = Kind.NO_ROOM_NODE


class Missing(CheckpointerError):
    """A package of the distribution is not installed; the reason names it."""


class SupervisorError(CheckpointerError):
    """The supervisor does not answer, or has died."""

    usual = Kind.SUPERVISOR


class ZygoteError(CheckpointerError):
    """No criu could be started: the bundle, the zygote or a namespace is at fault."""

    usual = Kind.NO_CRIU


class CellError(CheckpointerError):
    """The application's processes could not be gathered in a cgroup, stopped or ended there."""

    usual = Kind.CGROUP


class ImageError(CheckpointerError):
    """An image cannot be written, or must not be used."""

    usual = Kind.IMAGE_CORRUPT


class EvidenceError(CheckpointerError):
    """An error for which criu left a log.

    Attributes:
        lines: The telling lines of criu's log, oldest first, at most a dozen.
        log: Where the log was kept, if it was.
    """

    def __init__(
        self,
        reason: str,
        lines: tuple[str, ...] = (),
        log: Path | None = None,
        *,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(reason, kind=kind)
        self.lines = lines
        self.log = log

    def __str__(self) -> str:
        """The reason, and of criu's lines the one that tells most, if it is not the same."""
        line = _most_telling(self.lines)
        return self.reason if line in self.reason else f"{self.reason}: {line}"


_CONSEQUENCES = ("Dumping FAILED", "Restoring FAILED", "script error", "action scripts failed")


def _most_telling(lines: tuple[str, ...]) -> str:
    """The first error of criu's; what comes after it, also where we have said no, is a consequence. "" if there is none."""
    for line in lines:
        _, found, text = line.partition("Error ")
        if found and not any(words in text for words in _CONSEQUENCES):
            return found + text
    return ""


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
        kind = Kind.CRIU_KILLED if gone else Kind.CRIU_HUNG if hung else Kind.CRIU_FAILED
        super().__init__(reason, kind=kind)
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
        kind: Kind | None = None,
        outcome: Outcome = Outcome.RUNNING,
        refused: bool = False,
    ) -> None:
        super().__init__(reason, lines, log, kind=Kind.LOST if outcome is Outcome.LOST else kind)
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
        kind: Kind | None = None,
        retry: bool = True,
    ) -> None:
        super().__init__(reason, lines, log, kind=kind)
        self.retry = retry


def reason_of(error: BaseException) -> str:
    """Return one sentence on any error."""
    return getattr(error, "reason", None) or str(error) or type(error).__name__


def kind_of(error: BaseException, lines: tuple[str, ...] = ()) -> Kind:
    """Return the kind of any error; `lines` are criu's, which may know better."""
    found = error.kind if isinstance(error, CheckpointerError) else Kind.INTERNAL
    if is_full(error) or (found in _CRIUS and any(map(tells_full, (str(error), *lines)))):
        return Kind.DISK_FULL
    return found


_CRIUS = frozenset({Kind.CRIU_FAILED, Kind.CRIU_KILLED})
