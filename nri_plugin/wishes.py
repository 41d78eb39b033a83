"""What the owner of a pod wants for one of its containers, from the pod's annotations; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nri_plugin import values
from nri_plugin.annotation import PREFIX
from nri_plugin.annotations import BY_NAME, DEFAULTS
from nri_plugin.reasons import NONE, Reason

RUNTIME_HANDLER = "zeropod"
"""Pods of this runtime class are wanted without any annotation, as with the original."""

LONGEST = 4096
"""Characters of a value; Kubernetes allows 256 KiB, and what is in it is reported and shown."""

MOST_NAMES = 64
"""Names of containers that are reported for one pod; no pod has that many."""

MOST_PROBLEMS = 3
"""Mistakes that one reason tells."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted for one container.

    Attributes:
        policy: fields of the report's Policy, all of them.
        reason: why the container is to be left alone; empty if it is not.
    """

    policy: Mapping[str, Any]
    reason: Reason = NONE


def read(pod: Mapping[str, str], runtime_handler: str, container: str) -> Wish | None:
    """Return what a pod's annotations mean for a container, None if the pod wants nothing of us."""
    ours = {key.removeprefix(PREFIX): pod[key] for key in sorted(pod) if key.startswith(PREFIX)}
    said = [name for name in ours if name not in BY_NAME or not BY_NAME[name].silent]
    if not said and runtime_handler != RUNTIME_HANDLER:
        return None
    parsed, problems = _parse(ours)
    problems = problems or list(_contradictions(ours, parsed))
    named = {one for name, value in parsed.items() for one in BY_NAME[name].mentions(value)}
    names = tuple(sorted(named)[:MOST_NAMES])
    if problems:
        more = len(problems) - MOST_PROBLEMS
        told = "; also, ".join(problems[:MOST_PROBLEMS]) + (
            f"; and {more} more" if more > 0 else ""
        )
        return _left_alone(Reason("annotation", told), names)
    chosen = parsed.get("container-names")
    if chosen and container not in chosen:
        key = PREFIX + "container-names"
        text = f"it is not named in {key}: {_shown(ours['container-names'])!r}"
        return _left_alone(Reason("not-named", text), names)
    fields = dict(DEFAULTS)
    wishes = []
    for name, value in parsed.items():
        one = BY_NAME[name]
        meant = one.meant(value, container)
        if one.field:
            fields[one.field] = meant
        if meant != one.meant(one.value(""), container) and not one.note:
            wishes.append(f"{name}={_shown(' '.join(ours[name].split()), 60)}")
    fields |= {"names": names, "wishes": tuple(wishes), "notes": tuple(_notes(parsed))}
    return Wish(fields)


def _left_alone(reason: Reason, names: tuple[str, ...]) -> Wish:
    # If it does run under a supervisor, by another version of the plugin, it must not sleep against what was wished.
    notes = (f"it never sleeps by itself: {reason}",)
    return Wish({**DEFAULTS, "scaledown": 0.0, "names": names, "notes": notes}, reason)


def _parse(ours: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values that are written, and what is wrong with others."""
    parsed: dict[str, Any] = {}
    problems = []
    for name, text in ours.items():
        one = BY_NAME.get(name)
        if one is None:
            guess = values.suggestion(name, BY_NAME)
            problems.append(
                f"{_item(name, text)}: there is no such annotation{guess}; "
                "correct the key or remove it (docs/annotations.md has all)"
            )
        elif not one.silent and len(text) > LONGEST:
            problems.append(f"{_item(name, text)}: it is longer than {LONGEST} characters")
        elif text.strip() and not one.silent:
            try:
                parsed[name] = one.value(text)
            except ValueError as error:
                problems.append(f"{_item(name, text)}: {error}")
    return parsed, problems


def _contradictions(ours: Mapping[str, str], parsed: Mapping[str, Any]) -> Iterator[str]:
    """Tell which values cannot be granted beside each other."""

    def both(first: str, second: str) -> str:
        return (
            f"{_item(first, ours[first])} and {_item(second, ours[second])} contradict each other"
        )

    mapped = {port for listed in parsed.get("ports-map", {}).values() for port in listed}
    ignored = [n for n in parsed.get("ignore-ports", ()) if {f"tcp/{n}", f"udp/{n}"} & mapped]
    if ignored:
        yield (
            f"{both('ports-map', 'ignore-ports')}: port {ignored[0]} cannot wake a container and be ignored; "
            "name it in one of them"
        )
    chosen = parsed.get("container-names")
    kept = [
        name for name in parsed.get("portless-containers", ()) if chosen and name not in chosen
    ]
    if kept:
        yield (
            f"{both('portless-containers', 'container-names')}: {kept[0]} cannot sleep unless both name it"
        )
    if parsed.get("disable-checkpointing") and parsed.get("connections") == "keep":
        yield (
            f"{both('disable-checkpointing', 'connections')}: an application that is ended keeps no connection; "
            'remove one, or write "wait" or "close"'
        )


_OF_IMAGES = ("pre-dump", "lazy-restore", "max-image-size", "on-failure")
"""What has no meaning where there is no image."""


def _notes(parsed: Mapping[str, Any]) -> Iterator[str]:
    """Tell which values are accepted and change nothing."""
    for name, value in parsed.items():
        one = BY_NAME[name]
        if value == one.value(""):
            continue
        if one.note:
            yield f"{one.key} changes nothing: {one.note}"
        elif name in _OF_IMAGES and parsed.get("disable-checkpointing"):
            beside = PREFIX + "disable-checkpointing"
            yield f"{one.key} changes nothing: there is no image where {beside} is true"


def _item(name: str, text: str) -> str:
    return f"annotation {PREFIX}{name[:80]}: {_shown(text)!r}"


def _shown(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
