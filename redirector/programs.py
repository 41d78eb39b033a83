"""The pinned programs as filters."""

from __future__ import annotations

from bpf import pins
from bpf.pins import Pins
from redirector import filters
from redirector.filters import Filter


class Programs:
    """Descriptors of the pinned programs, as filters."""

    def __init__(self, where: Pins, maps_id: int) -> None:
        self._fds = {name: where.program(name) for name in pins.PROGRAMS}
        self._maps_id = str(maps_id)
        self._build = where.programs.name.removeprefix("programs-")[:8]

    def filter(self, program: str, classid: int) -> Filter:
        """Return the filter that runs `program` for a slot or a hold."""
        name = f"{filters.PREFIX}{program}:{self._maps_id}:{self._build}"
        return Filter(name, classid, self._fds[program])

    def is_foreign(self, found: Filter | None) -> bool:
        """Tell whether a filter of ours works on other maps, e.g. of an older layout."""
        return found is not None and found.name.split(":")[1:2] != [self._maps_id]
