"""What is under way and what was made on a node, written down before it is done.

An installation that is cut off at any point, by a kill or a loss of power, is completed by the next one, and an
uninstallation knows what to take away. It lies with the files that we ship, readable by root alone: configurations
hold the passwords of registries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from installer.errors import InstallError
from installer.host import Host

NAME, FAILURE = "installed.json", "failed.json"


class Journal:
    """The journal of a node.

    Args:
        host: The node.
        directory: Where our files are.
    """

    def __init__(self, host: Host, directory: str) -> None:
        self._host = host
        self._directory = directory
        self._path = f"{directory}/{NAME}"
        self._known = self._read()

    @property
    def failure(self) -> str:
        """Where the last failure is."""
        return f"{self._directory}/{FAILURE}"

    @property
    def pending(self) -> dict[str, str | None] | None:
        """Files of containerd's that it has perhaps not read yet, with what they said before; None: nothing is pending."""
        found: dict[str, str | None] | None = self._known.get("pending")
        return found

    @property
    def directories(self) -> list[str]:
        """Directories that we made, the outermost first."""
        return list(self._known.get("directories", ()))

    @property
    def mounts(self) -> list[str]:
        """Where we mounted something."""
        return list(self._known.get("mounts", ()))

    def begin(self, before: Iterable[tuple[str, str | None]]) -> None:
        """Files are about to be changed; what they said before the first change is what counts."""
        self._known["pending"] = dict(before) | (self.pending or {})
        self._write()

    def end(self) -> None:
        """Containerd was seen to run with what the files say."""
        self._known.pop("pending", None)
        self._write()
        self._host.remove(self.failure)

    def fail(self, what: str, problem: str, when: float) -> None:
        """Containerd was seen not to run with what the files said."""
        text = json.dumps({"what": what, "problem": problem, "when": when})
        self._host.write(self.failure, text + "\n", mode=0o600)

    def failed(self, what: str, since: float) -> str:
        """Say how that failed, if it was the last thing that did, and not before `since`; else ""."""
        try:
            known = json.loads(self._host.read(self.failure) or "{}")
        except ValueError:
            return ""
        if known.get("what") != what or not float(known.get("when", 0)) >= since:
            return ""
        return str(known.get("problem"))

    def making(self, *directories: str) -> None:
        """Directories are about to be made."""
        self._add("directories", directories)

    def mounting(self, path: str) -> None:
        """Something is about to be mounted."""
        self._add("mounts", [path])

    def close(self) -> None:
        """Everything was taken away."""
        self._host.remove(self.failure)
        self._host.remove(self._path)

    def _add(self, key: str, values: Iterable[str]) -> None:
        known = self._known.get(key, [])
        fresh = [value for value in values if value not in known]
        if fresh:
            self._known[key] = [*known, *fresh]
            self._write()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._host.read(self._path) or "{}")
        except ValueError as error:
            raise InstallError(
                f"{self._path} is damaged: {error}", "remove it and run this again"
            ) from error
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        made = [one for one in self._host.missing(self._path) if one not in self.directories]
        if made:
            self._known["directories"] = [*made, *self.directories]
        self._host.write(self._path, json.dumps(self._known, indent=1) + "\n", mode=0o600)
