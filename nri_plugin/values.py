"""Values of annotations: from text to what it means, or a `ValueError` that says what is allowed; pure.

The message completes a sentence that begins with key and value: "99999 is no port; write ...".
Items of lists may have white space around them; empty items are passed over, double ones are a
mistake: one of the two was meant to be another.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

MOST_ITEMS = 32
"""Addresses or ports in one list: they are looked through for every packet, or held one by one."""

_T = TypeVar("_T")

# --- one value ------------------------------------------------------------------------------------

_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # Go's strconv.ParseBool
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def boolean(text: str) -> bool:
    """Read what Go's strconv.ParseBool reads."""
    if text not in _TRUE + _FALSE:
        raise ValueError('it is neither "true" nor "false"')
    return text in _TRUE


def negated(text: str) -> bool:
    """Read a boolean that switches something off."""
    return not boolean(text)


def choice(*allowed: str) -> Callable[[str], str]:
    """Return a parser of one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            known = " or ".join(f'"{word}"' for word in allowed)
            raise ValueError(f"write {known}{suggestion(text, allowed)}")
        return text

    return parse


def automatic(text: str) -> str:
    """Read "auto" or a boolean, and return "auto", "true" or "false"."""
    if text == "auto":
        return text
    try:
        return "true" if boolean(text) else "false"
    except ValueError as error:
        raise ValueError('it is neither "auto" nor "true" nor "false"') from error


def integer(text: str) -> int:
    """Read what Go's strconv.Atoi reads."""
    if not re.fullmatch("[+-]?[0-9]{1,18}", text):
        raise ValueError("it is no whole number; write for example 1024")
    return int(text)


_QUANTITY = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_SUFFIXES = {
    **{suffix: Fraction(10) ** (3 * power) for power, suffix in enumerate("num", start=-3)},
    "": Fraction(1),
    **{suffix: Fraction(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Fraction(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def _quantity(text: str) -> tuple[Fraction, str] | None:
    """Read a Kubernetes quantity (k8s.io/apimachinery/pkg/api/resource); also return its suffix."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    suffix = found[2] or ""
    factor = _SUFFIXES.get(suffix) or Fraction(10) ** int(suffix[1:])
    return Fraction("0" + found[1].rstrip(".")) * factor, suffix


MOST_CORES = 1024


def cores(text: str) -> float:
    """Read an amount of CPU; 0 means none."""
    found = _quantity(text)
    if found is None or found[0] > MOST_CORES:
        raise ValueError('it is no amount of CPU; write for example "50m" (5 % of one core)')
    return float(found[0])


def size(text: str) -> int:
    """Read an amount of memory in bytes; 0 means none."""
    found = _quantity(text)
    if found is None or found[1] in tuple("num") or found[0] >= 2**63:
        raise ValueError('it is no amount of memory; write for example "512Mi" or "2Gi"')
    return -int(-found[0] // 1)


# --- lists ----------------------------------------------------------------------------------------

_NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def names(text: str) -> tuple[str, ...]:
    """Read a list of containers."""
    return _unique([name(item) for item in _items(text, ",", "container")])


def name(text: str) -> str:
    """Read the name of one container."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name of a container (small letters, digits and hyphens); "
            'write for example "web,worker"'
        )
    return text


def ports_by_container(text: str) -> Mapping[str, tuple[str, ...]]:
    """Read `c1=80,81;c2=53/udp` and return for example {"c1": ("tcp/80", ...), ...}."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in _items(text, ";", "container"):
        owner, equals, listed = entry.partition("=")
        if not equals or "=" in listed:
            raise ValueError(
                f'{entry[:80]!r} is not of the form container=ports; write for example "web=80,443;dns=53/udp"'
            )
        owner = name(owner.strip())
        if owner in found:
            raise ValueError(f"it names the container {owner} twice; write {owner}=80,81")
        found[owner] = _few(_unique([_port(item) for item in _items(listed, ",", "port")]))
    return found


def ports(text: str) -> tuple[int, ...]:
    """Read a list of port numbers."""
    return _few(_unique([_number(item, item) for item in _items(text, ",", "port")]))


def _port(text: str) -> str:
    number, slash, protocol = text.partition("/")
    protocol = protocol.strip().lower() if slash else "tcp"
    if protocol not in {"tcp", "udp"}:
        raise ValueError(
            f'{text[:80]!r}: the protocol is neither tcp nor udp; write "80" or "53/udp"'
        )
    return f"{protocol}/{_number(number.strip(), text)}"


def _number(text: str, item: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{item[:80]!r} is no port; allowed are numbers from 1 to 65535")
    return int(text)


def networks(text: str) -> tuple[str, ...]:
    """Read a list of addresses and CIDRs and return them as CIDRs."""
    return _few(_unique([_network(item) for item in _items(text, ",", "network")]))


def _network(text: str) -> str:
    problem = f"{text[:80]!r} is no address or network"
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValueError(
            f'{problem}; write for example "10.0.0.5,10.1.0.0/16,fd00::/8"'
        ) from error
    if getattr(found, "scope_id", None):
        raise ValueError(f"{problem} of the pod's peers: leave out the zone")
    if found.network.prefixlen == 0:
        raise ValueError(
            f"{text[:80]!r} is everybody, so that nothing would ever wake it; name some"
        )
    if found.ip != found.network.network_address:
        raise ValueError(
            f"{text[:80]!r} has bits set beyond its prefix; write {found.network} or {found.ip}"
        )
    return str(found.network)


# --- common to all --------------------------------------------------------------------------------


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if one of the known words resembles `text`, else ""."""
    close = difflib.get_close_matches(text[:80], list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _items(text: str, separator: str, what: str) -> list[str]:
    items = [item.strip() for item in text.split(separator)]
    found = [item for item in items if item]
    if not found:
        raise ValueError(f"it names no {what}; name one or leave the annotation out")
    return found


def _unique(items: Sequence[_T]) -> tuple[_T, ...]:
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(f"it names {item} twice; name it once")
    return tuple(items)


def _few(items: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(items) > MOST_ITEMS:
        raise ValueError(f"it has {len(items)} items; allowed are {MOST_ITEMS}")
    return items
