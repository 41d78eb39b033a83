"""Structured logs: an event name and fields, one line each; key=value for people, JSON for programs.

`log.info("wake.complete", extra={"pod": ..., "ms": ...})` is all a caller needs to know. The container an actor works
for is bound once (`bound`), so that no call has to repeat it.
"""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

bound: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("bound")

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given by `extra`, after what is bound in the context."""
    own = {k: v for k, v in record.__dict__.items() if k not in _PLAIN}
    return bound.get({}) | own


class Text(logging.Formatter):
    """`12:34:56.789 info wake.complete pod=default/web/nginx ms=9.1`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        pairs = "".join(f" {key}={_plain(value)}" for key, value in fields(record).items())
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        line = f"{clock} {record.levelname.lower()} {record.getMessage()}{pairs}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (RFC 3339), level, event, then the fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _plain(value: Any) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    # Quoted like JSON if it could be mistaken for more than one word or line, or would write more than itself.
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)


def set_up(style: str, level: str) -> None:
    """Log to standard error, which is where a container's runtime collects from."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if style == "json" else Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
