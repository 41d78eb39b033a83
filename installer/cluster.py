"""What the cluster is told of a node, and asked to take off it: a condition, a label, a taint.

The standard library is enough for three requests. What is denied or does not answer is told and no failure: a node that
can run zeropod does so without its API server, too.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONDITION = "ZeropodReady"
LABEL = "zeropod.ctrox.dev/node"
TAINT = "zeropod.ctrox.dev/not-ready"

TIMEOUT = 3.0
"""Seconds for one request."""

PAUSE = 1.0

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ClusterError(Exception):
    """The API server said no, or nothing; the text says what and what to do.

    Attributes:
        status: HTTP's; 0 if there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A node's object in its cluster.

    Attributes:
        name: The node's.
        server: URL of the API server.
        account: Directory with our token and the server's CA.
        role: The ClusterRole that has our rights, for people.
        clock: Seconds.
        pause: Waits so many seconds.
    """

    name: str
    server: str
    account: Path = ACCOUNT
    role: str = "zeropod-node"
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    @classmethod
    def of(
        cls, environment: Mapping[str, str], account: Path = ACCOUNT, **more: Any
    ) -> Cluster | None:
        """Return the one that we run in as a pod; None if we do not, or were not told our node."""
        name, host = environment.get("NODE_NAME"), environment.get("KUBERNETES_SERVICE_HOST")
        if not name or not host or not (account / "token").exists():
            return None
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        return cls(name, server, account, **more)

    def ready(self, *, ready: bool, reason: str, message: str, patience: float = 0.0) -> None:
        """Say whether the node can run zeropod, in the condition that `kubectl describe node` shows.

        Args:
            ready: Whether it can.
            reason: In CamelCase.
            message: What was found, and what to do.
            patience: Seconds in which an API server that does not answer is asked again.

        Raises:
            ClusterError: It was not said.
        """
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = str(ready)
        known = self._patiently(patience, self._node).get("status", {}).get("conditions", [])
        same = [one for one in known if one.get("type") == CONDITION and one["status"] == status]
        since = same[0].get("lastTransitionTime", now) if same else now
        condition = {
            "type": CONDITION,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since,
        }
        self._condition(condition)

    def labelled(self) -> bool:
        """Say whether the node has the label that brings our DaemonSet to it."""
        return LABEL in self._node()["metadata"].get("labels", {})

    def unlabel(self) -> None:
        """Take that label off: the DaemonSet's pod on this node ends."""
        self._patch("", MERGE, {"metadata": {"labels": {LABEL: None}}})

    def clear(self) -> None:
        """Take condition and taint off."""
        self._condition({"$patch": "delete", "type": CONDITION})
        for _ in range(5):
            node = self._node()
            taints = node.get("spec", {}).get("taints", [])
            others = [taint for taint in taints if taint.get("key") != TAINT]
            if len(others) == len(taints):
                return
            version = node["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "spec": {"taints": others or None}}
            try:
                self._patch("", MERGE, body)
            except ClusterError as error:
                if error.status != 409:  # somebody else has changed the node meanwhile
                    raise
            else:
                return
        raise ClusterError(f"taint {TAINT}: others change node {self.name} all the time", 409)

    def _condition(self, condition: Mapping[str, str]) -> None:
        self._patch("/status", STRATEGIC, {"status": {"conditions": [condition]}})

    def _patiently(self, seconds: float, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        deadline = self.clock() + seconds
        while True:
            try:
                return ask()
            except ClusterError as error:
                if error.status not in {0, 429, 500, 503, 504} or self.clock() > deadline:
                    raise
                self.pause(PAUSE)

    def _node(self) -> dict[str, Any]:
        return self._request("GET", "", "")

    def _patch(self, below: str, kind: str, body: Mapping[str, Any]) -> None:
        self._request("PATCH", below, kind, json.dumps(body).encode())

    def _request(
        self, verb: str, below: str, kind: str, body: bytes | None = None
    ) -> dict[str, Any]:
        url = f"{self.server}/api/v1/nodes/{urllib.parse.quote(self.name, safe='')}{below}"
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = kind
        request = urllib.request.Request(url, body, headers, method=verb)  # noqa: S310 - https, see above
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler({})  # what a pod may have set is for the outside
        ]
        if self.server.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=self._trust()))
        opener = urllib.request.build_opener(*handlers)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise self._told(verb, below, error) from error
        except (OSError, ValueError) as error:
            message = f"the API server at {self.server} does not answer: {error}"
            raise ClusterError(message) from error

    def _told(self, verb: str, below: str, error: urllib.error.HTTPError) -> ClusterError:
        with error:
            try:
                said = str(json.load(error).get("message", ""))
            except (OSError, ValueError):
                said = ""
        what = f"{verb.lower()} nodes{below}"
        if error.code in {401, 403} and "ValidatingAdmissionPolicy" not in said:
            return ClusterError(
                f"we may not {what}: grant that in ClusterRole {self.role} (apply the manifests again); "
                f"the server said: {said or error.reason}",
                error.code,
            )
        return ClusterError(f"{what} {self.name}: {said or error.reason}", error.code)

    def _token(self) -> str:
        try:
            return (self.account / "token").read_text(encoding="utf-8").strip()
        except OSError as error:
            message = f"{self.account}/token cannot be read: {error}"
            raise ClusterError(message) from error

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        except OSError as error:
            message = f"{self.account}/ca.crt cannot be read: {error}"
            raise ClusterError(message) from error
