"""What a daemon that has just started makes of a container it finds: the table of docs/architecture.md, as a function.

Truth is read back, not remembered: whether an application lives, what the supervisor shows as its name, whether an
image is committed and how far a restore of it came.
"""

import dataclasses
import enum

from checkpointer.images import Fence
from checkpointer.supervisor import State as Supervisor


class Verdict(enum.Enum):
    """What to do with a container found at start."""

    RUNNING = enum.auto()  # it runs; an image is stale
    RESUME = (
        enum.auto()
    )  # a sleep was cut off before its kill, a wake after its restore, or it stands still: go on
    ASLEEP = enum.auto()  # hold its packets again
    OFF = enum.auto()  # hold its packets again; no image is wanted
    END = enum.auto()  # an end was cut off: bring it to its end
    STARTING = enum.auto()  # it was being started afresh: let its packets in when it listens
    RESTORE = enum.auto()  # a restore was cut off before anything of it ran: wake it
    EXITED = enum.auto()  # it ended by itself; the exit is on its way
    LOST = enum.auto()  # must be impossible


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What was read back.

    Attributes:
        application: Whether the supervisor has a living application.
        supervisor: Its published state.
        fence: How far the committed image was used; None if there is no image.
        held: Whether packets are held for an application that is started afresh instead of restored.
    """

    application: bool
    supervisor: Supervisor
    fence: Fence | None = None
    held: bool = False


def judge(found: Found) -> Verdict:
    """The verdict on one container whose criu processes have all ended."""
    if found.supervisor is Supervisor.OFF:
        return Verdict.OFF
    if found.supervisor is Supervisor.ENDING:
        return Verdict.END
    at_rest = found.supervisor in {Supervisor.ARMED, Supervisor.ASLEEP}
    if found.application:
        if found.supervisor is Supervisor.FROZEN:
            # Nobody knows whether the last look at its sockets was taken, and it costs little to let it go on.
            return Verdict.RESUME
        if found.supervisor is Supervisor.RUN and found.held:
            return Verdict.STARTING
        half_restored = found.fence is Fence.BEGUN and found.supervisor is Supervisor.ASLEEP
        if half_restored:
            return Verdict.RESTORE
        return Verdict.RESUME if at_rest else Verdict.RUNNING
    if not at_rest:
        return Verdict.EXITED
    match found.fence:
        case None:
            return Verdict.LOST
        case Fence.NONE:
            return Verdict.ASLEEP
        case Fence.BEGUN:
            return Verdict.RESTORE
        case Fence.RELEASED:
            # It was let go from the image and is gone: the supervisor knows how it ended and says so on RESUME.
            return Verdict.RESUME
