"""What a scrape sees of the daemon's talks with the Kubernetes API; empty where it has none."""

import dataclasses
from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric

from checkpointer import series


@dataclasses.dataclass(frozen=True, slots=True)
class ApiView:
    """The Kubernetes side at a moment.

    Attributes:
        requests: Requests by verb, resource and status.
        features: Features that are wanted, and whether they are on.
        synced: Whether the node's pods are known as they are; None if nobody needs to.
        pending: Pods and events of which the API server is still to be told.
        resizes: Changes of requests, by what they were or came to.
        unresized: Pods whose requests the kubelet has not put into force: by namespace, pod and its word.
    """

    requests: Mapping[tuple[str, str, str], int] = dataclasses.field(default_factory=dict)
    features: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    synced: bool | None = None
    pending: int = 0
    resizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unresized: Mapping[tuple[str, str, str], int] = dataclasses.field(default_factory=dict)


def families(view: ApiView) -> Iterator[Metric]:
    """Every family of the Kubernetes side; without series where none of its flags is set."""
    yield series.counters(
        "zeropod_api_requests",
        "Requests to the Kubernetes API by status; `error` had no answer.",
        ("verb", "resource", "code"),
        sorted(view.requests.items()),
    )
    yield series.gauges(
        "zeropod_api_feature_on",
        "0 for what a flag asks for and a missing right, or something else that a person has to mend, keeps off.",
        ("feature",),
        (((name,), on) for name, on in sorted(view.features.items())),
    )
    here = bool(view.features)
    yield series.gauges(
        "zeropod_api_synced",
        "1 while the node's pods are known as the Kubernetes API has them.",
        (),
        [((), view.synced)] if view.synced is not None else [],
    )
    yield series.gauges(
        "zeropod_api_pending",
        "Pods and events of which the Kubernetes API is still to be told.",
        (),
        [((), view.pending)] if here else [],
    )
    yield series.counters(
        "zeropod_resizes",
        "Changes of requests: `down`, `up`, those that the API server `rejected`, and those that the kubelet called "
        "`deferred` or `infeasible`.",
        ("result",),
        (((result,), count) for result, count in sorted(view.resizes.items())),
    )
    yield series.gauges(
        "zeropod_resize_pending",
        "Pods whose requests the kubelet has not put into force, with its word: Deferred or Infeasible.",
        ("namespace", "pod", "reason"),
        sorted(view.unresized.items()),
    )
