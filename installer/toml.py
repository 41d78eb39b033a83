"""Small edits of TOML that keep everything else as it is: comments, order, white space.

Every edit is proved: the edited text is parsed, and has to be what was there plus what was wanted. A file that is odd
enough to break that is left alone, with the lines to write by hand.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from installer.errors import InstallError

Table = Mapping[str, Any]

BEGIN = "# >>> zeropod: written by its installer, taken out again by its uninstallation"
END = "# <<< zeropod"
WAS = "# zeropod: was "
"""Behind a line that was changed: what it was, to put it back."""
ADDED = "# zeropod: added"


def parse(text: str, path: str) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        InstallError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InstallError(
            f"{path} is not TOML: {error}", "mend it; containerd cannot read it either"
        ) from error


def loose(text: str) -> dict[str, Any]:
    """Return what a file says, nothing if it is no TOML: where it only matters what else it says."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def dumps(prefix: Sequence[str], table: Table) -> str:
    """Return a table and those in it as text, with the header of each."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, prefix))}]"] if plain or not table else []
    lines += [f"  {_key(key)} = {_value(value)}" for key, value in plain.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += dumps((*prefix, key), value)
    return text


def merged(base: Table, extra: Table) -> dict[str, Any]:
    """Return `base` with the values of `extra`, table by table."""
    result = copy.deepcopy(dict(base))
    for key, value in extra.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = merged(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a table with one value at a path."""
    for key in reversed(path):
        value = {key: value}
    return value  # type: ignore[no-any-return] # a path has at least one part


def at(table: Table, path: Sequence[str]) -> Any:
    """Return the value at a path, None if there is none."""
    found: Any = table
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def append(text: str, block: str) -> str:
    """Add lines at the end, between our marks."""
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{BEGIN}\n{block}{END}\n"


def assign(text: str, table: Sequence[str], key: str, value: Any) -> str:
    """Set a key of a table that has a header of its own; what was there is kept in a comment."""
    lines = text.splitlines(keepends=True)
    header = re.compile(r"\s*\[\s*" + r"\s*\.\s*".join(map(_written, table)) + r"\s*\]\s*(#.*)?$")
    start = next((n for n, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        return text  # the proof will tell
    assignment = re.compile(rf"(\s*){_written(key)}\s*=\s*(.*?)\s*$")
    for number in range(start + 1, len(lines)):
        if lines[number].lstrip().startswith("["):
            break
        if found := assignment.match(lines[number]):
            lines[number] = f"{found[1]}{_key(key)} = {_value(value)} {WAS}{found[2]}\n"
            return "".join(lines)
    if not lines[start].endswith("\n"):
        lines[start] += "\n"
    lines.insert(start + 1, f"  {_key(key)} = {_value(value)} {ADDED}\n")
    return "".join(lines)


def restored(text: str) -> str:
    """Take out everything that was appended or assigned here."""
    kept: list[str] = []
    ours = False
    for line in text.splitlines(keepends=True):
        if line.rstrip("\n") == BEGIN:
            ours = True
        elif line.rstrip("\n") == END:
            ours = False
        elif not ours and not line.rstrip("\n").endswith(ADDED):
            before, mark, was = line.partition(f" {WAS}")
            kept.append(f"{before.partition('=')[0].rstrip()} = {was}" if mark else line)
    return "".join(kept)


def prove(text: str, expected: Table, path: str, by_hand: str) -> None:
    """See that an edited text says what it should.

    Raises:
        InstallError: it does not; the remedy has the lines to write by hand.
    """
    try:
        right = tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise InstallError(
            f"{path} is written in a way that cannot be edited safely",
            f"make it say the following yourself, restart containerd and run this again:\n{by_hand}",
        )


def _written(key: str) -> str:
    """Match a key however it is quoted."""
    plain = re.escape(key)
    return rf"(?:\"{plain}\"|'{plain}'|{plain})"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # Strings, numbers and booleans are written as in JSON; ensure_ascii would write surrogates, which TOML has not.
    return json.dumps(value, ensure_ascii=False)
