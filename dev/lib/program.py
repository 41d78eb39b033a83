"""How every `dev/` program begins and ends."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Callable, NoReturn, Optional

from dev.lib.errors import DevError

log = logging.getLogger("dev")


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a program and exits with its status.

    1 and a message when something went wrong, 130 when interrupted; a SIGTERM ends it like a ctrl-C,
    so that nodes are stopped on the way out.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = main()
    except (DevError, OSError) as error:
        log.debug("", exc_info=True)
        print("%s: %s" % (sys.argv[0], error), file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _interrupt(number: int, frame: Optional[FrameType]) -> NoReturn:
    raise KeyboardInterrupt
