"""From the API's pods and events to the containers that may sleep; pure."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PREFIX = "zeropod.ctrox.dev/"
STATUS = "status.zeropod.ctrox.dev/"
RUNTIME_CLASS = "zeropod"
GONE = "DELETED"

Object = Mapping[str, Any]
"""A Kubernetes object as JSON has it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sleeper:
    """A container that may sleep, as the API shows it.

    Attributes:
        namespace: Of its pod.
        pod: Its pod's name.
        container: Its name.
        state: Its status label: RUNNING or SCALED_DOWN; empty without a label.
        restarts: How often it was restarted.
        created: When its pod was, in RFC 3339.
        node: Where it runs; empty until that is known.
        scaledown: Its scaledown-duration, as written or as the default.
    """

    namespace: str
    pod: str
    container: str
    state: str
    restarts: int
    created: str
    node: str
    scaledown: str

    @property
    def title(self) -> str:
        """As the daemon writes it."""
        return f"{self.namespace}/{self.pod}/{self.container}"


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """The latest that zeropod said of a container in an event."""

    reason: str
    message: str
    time: str
    warning: bool


def asks(pod: Object) -> bool:
    """Whether a pod wants zeropod: an annotation, a status label or the runtime class."""
    metadata = pod.get("metadata", {})
    return (
        any(key.startswith(PREFIX) for key in metadata.get("annotations") or {})
        or any(key.startswith(STATUS) for key in metadata.get("labels") or {})
        or pod.get("spec", {}).get("runtimeClassName") == RUNTIME_CLASS
    )


def of_pod(pod: Object) -> list[Sleeper]:
    """The containers of a pod that may sleep, in the order of its specification."""
    if not asks(pod):
        return []
    metadata, spec = pod["metadata"], pod.get("spec", {})
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    chosen = [name.strip() for name in annotations.get(PREFIX + "container-names", "").split(",")]
    chosen = [name for name in chosen if name]
    restarts = _restarts(pod.get("status", {}))
    found = []
    for container in [*_sidecars(spec), *spec.get("containers", [])]:
        name = container["name"]
        state = labels.get(STATUS + name, "")
        if chosen and name not in chosen and not state:
            continue
        found.append(
            Sleeper(
                namespace=metadata.get("namespace", ""),
                pod=metadata["name"],
                container=name,
                state=state,
                restarts=restarts.get(name, 0),
                created=metadata.get("creationTimestamp") or "",
                node=spec.get("nodeName") or "",
                scaledown=annotations.get(PREFIX + "scaledown-duration", "").strip() or "1m",
            )
        )
    return found


def changes(before: Sequence[Sleeper], after: Sequence[Sleeper]) -> list[Sleeper]:
    """Those that are new or whose state is another now, and those that are gone, as DELETED."""
    states = {one.title: one.state for one in before}
    present = {one.title for one in after}
    gone = [dataclasses.replace(one, state=GONE) for one in before if one.title not in present]
    return gone + [one for one in after if states.get(one.title) != one.state]


def told(events: Iterable[Object]) -> dict[str, Told]:
    """What zeropod's latest event on each container says, by title."""
    latest: dict[str, Told] = {}
    for event in events:
        about = event.get("involvedObject") or event.get("regarding") or {}
        container = _container(about.get("fieldPath") or "")
        if about.get("kind") != "Pod" or not container or "zeropod" not in _author(event):
            continue
        title = f"{about.get('namespace', '')}/{about.get('name', '')}/{container}"
        one = Told(
            reason=event.get("reason") or "",
            message=event.get("message") or event.get("note") or "",
            time=_time(event),
            warning=event.get("type") == "Warning",
        )
        if title not in latest or _later(one.time, latest[title].time):
            latest[title] = one
    return latest


def age(since: str, now: dt.datetime) -> str:
    """Time since an RFC 3339 time, as kubectl writes it (k8s.io/apimachinery, duration.HumanDuration)."""
    begun = _moment(since)
    if begun is None:
        return "<unknown>"
    return span(int((now - begun).total_seconds()))


def span(seconds: int) -> str:
    """Seconds, as kubectl writes them."""
    seconds = max(0, seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d")


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def _sidecars(spec: Object) -> list[Object]:
    return [one for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]


def _restarts(status: Object) -> dict[str, int]:
    seen = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    return {one["name"]: int(one.get("restartCount", 0)) for one in seen}


def _container(path: str) -> str:
    """The name in `spec.containers{name}`."""
    head, _, rest = path.partition("{")
    return rest.removesuffix("}") if head in {"spec.containers", "spec.initContainers"} else ""


def _author(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    return " ".join(
        (
            event.get("reportingComponent") or "",
            event.get("reportingController") or "",
            source.get("component") or "",
        )
    )


def _time(event: Object) -> str:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
        event.get("metadata", {}).get("creationTimestamp"),
    )
    return next((time for time in times if time), "")


def _later(one: str, other: str) -> bool:
    a, b = _moment(one), _moment(other)
    return a is not None and (b is None or a > b)


def _moment(text: str) -> dt.datetime | None:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None
