"""The labels by which `kubectl get pods -L` and selectors see who sleeps; pure."""

from __future__ import annotations

from collections.abc import Mapping

from checkpointer.kubernetes.pods import STATUS, Pod


def changes(pod: Pod, statuses: Mapping[str, str]) -> dict[str, str | None]:
    """What is to become of a pod's labels, as a merge patch has it: None takes a label away.

    Args:
        pod: As the API server knows it.
        statuses: What its managed containers are.
    """
    if pod.leaving:
        return {}
    wanted: dict[str, str | None] = {
        STATUS + name: status
        for name, status in statuses.items()
        if pod.statuses.get(name) != status
    }
    return wanted | {STATUS + name: None for name in pod.statuses if name not in statuses}
