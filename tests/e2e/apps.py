"""A deployed application: is it asleep, what does it answer, was it ever restarted?"""

from __future__ import annotations

import json
from typing import Any

from e2e import kubectl, product, workloads

#: The pod from which everything is asked, and its containers.
CLIENT = "client"
CLIENTS = {"busybox": workloads.BUSYBOX, "redis": workloads.REDIS}


class App:
    """A pod with a Service in front of it, both of one name."""

    def __init__(self, name: str, *, by_label: bool = False) -> None:
        self.name = name
        self.by_label = by_label

    @property
    def pod(self) -> str:
        """The pod's name; that of the newest one, where a Deployment has made it."""
        if not self.by_label:
            return self.name
        found = kubectl.items("pods", "-n", workloads.NAMESPACE, "-l", f"app={self.name}")
        found.sort(key=lambda one: one["metadata"]["creationTimestamp"])
        return str(found[-1]["metadata"]["name"])

    def object(self) -> Any:
        """The pod as the API has it."""
        return kubectl.get("pod", "-n", workloads.NAMESPACE, self.pod)

    def ready(self, fast: float = 90.0) -> None:
        """Waits until all of its containers are ready."""

        def is_ready() -> bool:
            conditions = self.object()["status"].get("conditions", [])
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

        kubectl.until(is_ready, f"{self.name} is not ready", fast)

    def routed(self, *ports: int) -> None:
        """Waits until its Service leads to it: a while after it is ready."""
        for port in ports:
            words = ["nc", "-w", "2", self.address(), str(port), "-e", "true"]
            kubectl.until(lambda words=words: client(*words) == "", f"{self.name} is not reached")

    def restarts(self) -> int:
        """How often its containers were restarted, together."""
        return sum(one["restartCount"] for one in self.object()["status"]["containerStatuses"])

    def why(self) -> str:
        """What the daemon says of it."""
        return product.zeropod(self.object(), "why")[0]["text"]

    def states(self) -> dict[str, str]:
        """The state of each managed container."""
        return {one["container"]: one["state"] for one in product.zeropod(self.object(), "list")}

    def info(self, container: str = "") -> Any:
        """What the daemon knows of one container: of the only one."""
        found = product.zeropod(self.object(), "list")
        return next(one for one in found if container in ("", one["container"]))

    def reach(self, state: str, *containers: str, fast: float = 60.0) -> None:
        """Waits until these containers, or all, are in a state."""
        seen: dict[str, str] = {}

        def reached() -> bool:
            seen.clear()
            seen.update(self.states())
            chosen = containers or tuple(seen)
            return bool(chosen) and all(seen.get(name) == state for name in chosen)

        try:
            kubectl.until(reached, f"{self.name} is not {state}", fast)
        except AssertionError as error:
            raise AssertionError(f"{error}; {seen}; {self._explained()}") from None

    def asleep(self, *containers: str, fast: float = 60.0) -> None:
        """Waits until it sleeps."""
        self.reach("ASLEEP", *containers, fast=fast)

    def awake(self, *containers: str, fast: float = 60.0) -> None:
        """Waits until it runs."""
        self.reach("RUNNING", *containers, fast=fast)

    def _explained(self) -> str:
        try:
            return self.why()
        except (AssertionError, IndexError) as error:
            return str(error)

    def address(self) -> str:
        """That of its Service."""
        found = kubectl.get("service", "-n", workloads.NAMESPACE, self.name)
        return str(found["spec"]["clusterIP"])

    def fetch(self, path: str = "/", port: int = 80, *, fast: float = 40.0) -> str:
        """What it answers to a client in another pod, through its Service."""
        return client(
            "wget",
            "-q",
            "-T",
            f"{fast:.0f}",
            "-O",
            "-",
            f"http://{self.address()}:{port}{path}",
            fast=fast,
        )

    def deleted(self, *, fast: float = 60.0) -> str:
        """Delete its pod and wait for its end; all that its log said until then."""
        words = ["-n", workloads.NAMESPACE, self.pod]
        with kubectl.background("logs", "-f", *words) as running:
            kubectl.run("delete", "pod", *words, fast=fast)
            told, _ = running.communicate(timeout=90)
        assert not kubectl.exists("pod", *words)
        return told

    def redis(self, *command: str) -> str:
        """What redis answers to a client in another pod."""
        return client("redis-cli", "-h", self.address(), *command, container="redis").strip()


def client(*command: str, container: str = "busybox", fast: float = 40.0) -> str:
    """What a program in the client's pod prints."""
    return kubectl.run(*inside(container), *command, fast=fast)


def inside(container: str) -> list[str]:
    """How kubectl runs a program in the client's pod."""
    return ["exec", "-i", "-n", workloads.NAMESPACE, CLIENT, "-c", container, "--"]


def labels(app: App) -> dict[str, str]:
    """The labels by which its containers' states are seen."""
    prefix = "status." + workloads.PREFIX
    found = app.object()["metadata"]["labels"]
    return {key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)}


def events(app: App) -> list[Any]:
    """The events of its pod that we have written, oldest first."""
    selector = f"involvedObject.name={app.pod}"
    found = kubectl.items("events", "-n", workloads.NAMESPACE, "--field-selector", selector)
    ours = [
        one
        for one in found
        if "zeropod" in json.dumps([one.get("source"), one.get("reportingComponent")])
    ]
    return sorted(ours, key=lambda one: one["metadata"]["creationTimestamp"])
