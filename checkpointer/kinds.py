"""What can stand in the way of a sleep or a wake, as stable words: labels of metrics, and the first thing to search for.

docs/failures.md says of each what becomes of the application and what to do; a unit test compares the two.
"""

import enum
import errno

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
)  # strerror(3), as criu's log quotes it


RETIRED = "uninstalled"
"""The kind of containers that the daemon has let go before an uninstallation; they run on."""


class Kind(enum.StrEnum):
    """Why a sleep was refused, why a sleep or a wake failed, or why a wake is held."""

    # A sleep is refused: nothing was touched, or everything is as it was.
    UNSUPPORTED = "unsupported"  # something that criu cannot bring back
    NOT_RUNNING = "not-running"  # the application is starting or ending
    NO_PORT = "no-port"  # nothing could wake it
    PORTS = "ports"  # its pod has more than the node's tables are to hold
    TIME_WAIT = (
        "time-wait"  # a port could not be opened again beside connections that ended a moment ago
    )
    PAGES_COMING = "pages-coming"  # the last wake is not over
    DISK_LOW = "disk-low"  # the file system of the images would have too few bytes left
    INODES_LOW = "inodes-low"  # or too few files
    IMAGE_BUDGET = "image-budget"  # all images together would be too large for the node
    IMAGE_SIZE = "image-size"  # this one would be too large for its owner

    # A wake is held: it is tried again for as long as the container lives.
    NO_ROOM_CONTAINER = "no-room-container"  # memory limit of the container
    NO_ROOM_POD = "no-room-pod"  # memory limit above the container
    NO_ROOM_NODE = "no-room-node"  # memory of the node
    NO_ROOM_TASKS = "no-room-tasks"  # pids limit
    PID_TAKEN = "pid-taken"  # another process in the container has a pid of the application's

    # Either fails, or a wake is held.
    DISK_FULL = "disk-full"

    # Either fails.
    CRIU_FAILED = "criu-failed"  # criu said no
    CRIU_HUNG = "criu-hung"  # it did not answer in time and was ended
    CRIU_KILLED = "criu-killed"  # it ended without an answer
    NO_CRIU = "no-criu"  # none could be started
    CGROUP = "cgroup"  # the application's processes could not be gathered, stopped or ended as one
    SUPERVISOR = "supervisor"  # the container's PID 1 does not answer
    IMAGE_UNWRITABLE = (
        "image-unwritable"  # the file system failed in another way than by being full
    )
    LOST = "lost"  # the application did not survive, which must be impossible
    INTERNAL = "internal"  # a mistake of ours

    # A wake fails.
    IMAGE_MISSING = "image-missing"
    IMAGE_CORRUPT = "image-corrupt"  # it is not what was written
    IMAGE_FOREIGN = "image-foreign"  # of another container, boot or kernel
    IMAGE_VERSION = (
        "image-version"  # written by a version of zeropod that this one does not understand
    )
    IMAGE_USED = "image-used"  # the application has run from it
    START_SILENT = (
        "start-silent"  # started afresh, the application does not listen where the one before did
    )
    PAGE_DAEMON = "page-daemon"  # the process that loads pages behind the application ended early
    RIGHTS_CHANGED = (
        "rights-changed"  # restored tasks had other rights than before, and did not run
    )
    WRONG_CGROUP = (
        "wrong-cgroup"  # restored tasks were outside of the container's limits, and did not run
    )


def is_full(error: BaseException) -> bool:
    """Say whether an error is that of a file system or quota that is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def tells_full(text: str) -> bool:
    """Say whether a text, such as criu's log, tells of a full file system or quota."""
    return any(phrase in text for phrase in _FULL_TEXTS)
