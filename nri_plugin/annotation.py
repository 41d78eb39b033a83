"""One annotation: how it is written, what it means, and what is to be known of it; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PREFIX = "zeropod.ctrox.dev/"

ORIGINAL = "original"
OURS = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotation.

    Attributes:
        name: of the key, without the prefix.
        origin: `ORIGINAL` if the original zeropod has it, else `OURS`.
        form: how its value is written.
        parse: from a written value that is not empty to what it means.
        default: what is meant if it is missing or empty, as written; "" where there is nothing to write.
        example: a value.
        text: what it does, for the reference.
        field: of the report's Policy; "" if the daemon need not know.
        pick: what the value means for the container of a name, where it speaks of several.
        note: why anything but the default changes nothing; "" if it does.
        mentions: the containers that a value names.
        silent: written by the original's own manager: no wish of anybody.
        since: version in which it got this meaning.
    """

    name: str
    origin: str
    form: str
    parse: Callable[[str], Any]
    default: str
    example: str
    text: str
    field: str = ""
    pick: Callable[[Any, str], Any] | None = None
    note: str = ""
    mentions: Callable[[Any], tuple[str, ...]] = lambda _: ()
    silent: bool = False
    since: str = "0.1"

    @property
    def key(self) -> str:
        """As it stands in a pod."""
        return PREFIX + self.name

    def value(self, text: str) -> Any:
        """Read what is written; nothing but white space means the default, as with the original.

        Raises:
            ValueError: it means nothing; the text says what is allowed.
        """
        written = text.strip() or self.default
        return self.parse(written) if written else ()

    def meant(self, value: Any, container: str) -> Any:
        """Return what a value says of one container."""
        return self.pick(value, container) if self.pick else value
