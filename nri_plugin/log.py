"""One line per event: a dotted name and fields.

`log.info("container.injected", extra={"pod": ..., "ms": ...})` prints key=value pairs for people
or one JSON object for programs. Requests themselves are never logged: they hold every container's
environment, and so its secrets.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(*, style: str, level: str) -> None:
    """Send all logs to standard error.

    Args:
        style: "text" or "json".
        level: name of the least severe level to print.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if style == "json" else Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Text(logging.Formatter):
    """`10:05:01.123 info container.injected pod=default/web ms=1.4`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback follows on lines of its own."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        pairs = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname.lower()} {record.getMessage()}{pairs}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class Json(logging.Formatter):
    """One object: time (RFC 3339), level, event, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """What the caller passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _plain(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    # Quoted like JSON if it could be mistaken for more than one word or line.
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)
