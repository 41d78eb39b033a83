"""The node's pods as the API server has them: one list, then one watch, for as long as the daemon lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from checkpointer.kubernetes import errors
from checkpointer.kubernetes.client import Client, Stream
from checkpointer.kubernetes.pods import Pod
from checkpointer.kubernetes.work import pause

log = logging.getLogger(__name__)

PATH = "/api/v1/pods"

SPAN = 540.0
"""Seconds for which one watch lasts; the next goes on where it ended."""

PAGE = 500
"""Pods in one answer."""

ANY, NEWEST = "0", ""
"""Which state is listed: what the API server's own cache has, where a node's pods are found by an index; or the latest, for
which it may read all pods of the cluster from its store. What the former lacks the watch tells."""

DENIED = 60.0
"""Seconds before a denied list is tried again."""

Changed = Callable[[str], None]


class Watch:
    """Pods by uid, kept up to date by a thread of its own.

    Args:
        client: To the API server.
        node: Whose pods.
        changed: Called with a pod's uid when it is new, has changed or is gone; must return at once.
        failed: Called when the server cannot be asked or denies it; with None when it answers again.
        span: Seconds for one watch.
    """

    def __init__(
        self,
        client: Client,
        node: str,
        changed: Changed,
        failed: Callable[[errors.ApiError | None], None],
        span: float = SPAN,
    ) -> None:
        self._client = client
        self._query = {"fieldSelector": f"spec.nodeName={node}"}
        self._changed = changed
        self._failed = failed
        self._span = span
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._failures = 0
        self._gone = 0
        self._thread = threading.Thread(target=self._run, name="pod watch", daemon=True)
        self.synced = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, and wait for that a moment; a server that does not answer does not keep the daemon."""
        self._stop.set()
        if (stream := self._stream) is not None:
            stream.end()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    def get(self, uid: str) -> Pod | None:
        """A pod of the node; None if the API server does not know it (yet, or any more)."""
        with self._lock:
            return self._pods.get(uid)

    def pods(self) -> list[Pod]:
        """All of them."""
        with self._lock:
            return list(self._pods.values())

    def put(self, thing: Mapping[str, Any]) -> Pod:
        """Take a pod from an answer to a change; the watch will say the same a moment later."""
        pod = Pod.of(thing)
        with self._lock:
            known = self._pods.get(pod.uid)
            if known is not None and pod.newer(known):
                self._pods[pod.uid] = pod
        return pod

    def forget(self, uid: str) -> None:
        """The server says that it is gone."""
        with self._lock:
            self._pods.pop(uid, None)
        self._changed(uid)

    def _run(self) -> None:
        version = ""
        since = ANY
        while not self._stop.is_set():
            try:
                version = version or self._list(since)
                version = self._follow(version)
            except errors.Gone:
                # Of a server whose cache is behind that may be true of what it has just listed.
                log.info("pods.relist")
                version, since = "", NEWEST
                self._gone += 1
                self._stop.wait(pause(self._gone))
            except errors.ApiError as error:
                version = self._ill(error, version)
            except Exception:
                log.exception("pods.broke")
                version = self._ill(errors.ApiError("a mistake of ours"), "")

    def _well(self) -> None:
        if not self.synced:
            log.info("pods.synced", extra={"pods": len(self._pods)})
        self.synced, self._failures = True, 0
        self._failed(None)

    def _ill(self, error: errors.ApiError, version: str) -> str:
        """Tell, wait, and return where to go on."""
        if self.synced or not self._failures:
            log.warning("pods.failed", extra={"reason": error.message, "status": error.status})
        self.synced = False
        self._failures += 1
        self._failed(error)
        late = DENIED if isinstance(error, errors.Denied) else pause(self._failures)
        self._stop.wait(max(late, getattr(error, "after", 0.0)))
        if isinstance(error, _Broken):
            return error.version
        # Only what broke off can be gone on with.
        return version if isinstance(error, errors.Unreachable) else ""

    def _list(self, since: str) -> str:
        found: dict[str, Pod] = {}
        query = {**self._query, "limit": str(PAGE)}
        if since:
            query["resourceVersion"] = since
        while True:
            answer = self._client.request("GET", PATH, verb="list", resource="pods", query=query)
            for thing in answer.get("items") or []:
                pod = Pod.of(thing)
                if (known := found.get(pod.uid)) is None or pod.newer(known):
                    found[pod.uid] = pod
            metadata = answer.get("metadata") or {}
            if not metadata.get("continue"):
                break
            query.pop("resourceVersion", None)  # it stands in the token
            query["continue"] = metadata["continue"]
        with self._lock:
            before, self._pods = self._pods, found
        for uid in {*before, *found}:
            if before.get(uid) != found.get(uid):
                self._changed(uid)
        return str(metadata["resourceVersion"])

    def _follow(self, version: str) -> str:
        """Take changes until the server ends the watch; return where the next one begins."""
        query = {**self._query, "resourceVersion": version, "allowWatchBookmarks": "true"}
        begun = time.monotonic()
        stream = self._client.watch(PATH, query, self._span)
        self._stream = stream
        self._well()
        try:
            if self._stop.is_set():
                return version
            for event in stream:
                version = self._take(event)
        except errors.Unreachable as error:
            # What came before that is not to be asked for again.
            if self._stop.is_set():
                return version
            raise _Broken(error, version) from error
        finally:
            self._stream = None
        if time.monotonic() - begun < 1.0:
            self._stop.wait(1.0)  # a server that ends watches at once is not to be stormed
        return version

    def _take(self, event: Mapping[str, Any]) -> str:
        thing = event.get("object") or {}
        if event.get("type") == "ERROR":
            raise errors.of(int(thing.get("code") or 500), str(thing.get("message", "")))
        version = str(thing["metadata"]["resourceVersion"])
        if event["type"] == "BOOKMARK":
            return version
        self._gone = 0
        pod = Pod.of(thing)
        with self._lock:
            known = self._pods.get(pod.uid)
            if event["type"] == "DELETED":
                if known is not None and known.object_uid == pod.object_uid:
                    del self._pods[pod.uid]
            elif known is None or pod.newer(known):
                self._pods[pod.uid] = pod
        self._changed(pod.uid)
        return version


class _Broken(errors.Unreachable):
    """A watch broke off.

    Attributes:
        version: Where it was.
    """

    def __init__(self, error: errors.Unreachable, version: str) -> None:
        super().__init__(error.message, error.status, error.after)
        self.version = version
