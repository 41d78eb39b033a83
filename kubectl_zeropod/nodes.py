"""The daemons of a cluster, asked through `zeropod -o json` in their own pods."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from kubectl_zeropod import cluster, errors
from kubectl_zeropod.printing import clean
from kubectl_zeropod.sleepers import Object

_QUICK, _SLOW = 45.0, 120.0
"""Seconds; the second for sleeps and wakes, longer than `zeropod` on the node waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One command for one daemon.

    Attributes:
        words: `why`, `sleep`, ...
        slow: It may have to wait for criu.
    """

    words: tuple[str, ...]
    slow: bool = False


class Nodes:
    """The pods of zeropod, by node; looked up once."""

    def __init__(self, where: cluster.Cluster) -> None:
        self._cluster = where
        self._by_node: dict[str, Object] | None = None

    def pods(self) -> dict[str, Object]:
        """Zeropod's pod on each node that has one; one that ends counts only if there is no other."""
        if self._by_node is None:
            found = sorted(
                filter(_has_daemon, self._cluster.system_pods()), key=_ending, reverse=True
            )
            self._by_node = {pod.get("spec", {}).get("nodeName", ""): pod for pod in found}
            self._by_node.pop("", None)
        return self._by_node

    def look(self, targets: Sequence[Object]) -> None:
        """Look the pods up before several threads ask; a refusal is told to each that asks."""
        if targets:
            with contextlib.suppress(errors.DeniedError):
                self.pods()

    def ask(self, node: str, ask: Ask) -> Any:
        """What the daemon of a node answers, from its JSON.

        Raises:
            errors.NoDaemonError: There is none, or it does not answer.
            errors.NotFoundError: It knows no such container.
            errors.PluginError: It says why it cannot be done.
        """
        pod = self.pods().get(node)
        if pod is None:
            raise errors.NoDaemonError(
                f"node {node} has no pod of zeropod in namespace {cluster.SYSTEM}; "
                f"kubectl label node {node} {cluster.NODE_LABEL}=true brings one"
            )
        try:
            ran = self._cluster.run(
                cluster.SYSTEM,
                pod["metadata"]["name"],
                cluster.CHECKPOINTER,
                ["zeropod", *ask.words, "--output", "json"],
                timeout=_SLOW if ask.slow else _QUICK,
            )
        except errors.DeniedError:
            raise
        except errors.PluginError as error:
            text = f"node {node}: {error}; kubectl zeropod doctor looks for the cause"
            raise errors.NoDaemonError(text) from error
        if ran.status == 0:
            return json.loads(ran.out)
        raise _failed(node, ran)


def reference(namespace: str, pod: str, container: str = "") -> str:
    """NAMESPACE/POD[/CONTAINER], as `zeropod` takes it."""
    return "/".join(part for part in (namespace, pod, container) if part)


def ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    conditions: Sequence[Object] = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _has_daemon(pod: Object) -> bool:
    """The pods that uninstall zeropod have none."""
    return any(one["name"] == cluster.CHECKPOINTER for one in pod["spec"]["containers"])


def _ending(pod: Object) -> bool:
    """Deleted, or evicted and kept to be looked at."""
    ended = pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}
    return ended or bool(pod["metadata"].get("deletionTimestamp"))


def _failed(node: str, ran: cluster.Ran) -> errors.PluginError:
    said = clean(ran.err.strip().removeprefix("zeropod: "))
    if ran.status is None:
        return errors.NoDaemonError(f"node {node}: {said or ran.reason}")
    kinds = {errors.NOT_FOUND: errors.NotFoundError, errors.NO_DAEMON: errors.NoDaemonError}
    kind = kinds.get(ran.status, errors.PluginError)
    return kind(f"node {node}: {said or f'exit status {ran.status}'}")
