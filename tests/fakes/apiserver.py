"""A Kubernetes API server over real HTTP: enough of it to list, watch, change and execute, and to refuse.

Objects are plain JSON in a store; `deny` takes rights away, `answer_exec` plays the containers, `requests` is what came.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455."""

Exec = Callable[[str, str, str, list[str]], tuple[int | str, str, str]]
"""(namespace, pod, container, command) -> (exit status, or why it was not started; stdout; stderr)."""


Trouble = Callable[[Any], bool]
"""Called with the handler of each request, to answer it badly; False if it has not."""


def away(handler: Any) -> bool:
    """Trouble: nobody answers."""
    handler.close_connection = True
    return True


def busy(code: int, after: str = "") -> Trouble:
    """Trouble: every request is answered with this status."""

    def answer(handler: Any) -> bool:
        status = Refused(code, "Busy", f"it is all too much ({code})").status
        handler._answer(status, code, {"Retry-After": after} if after else {})
        return True

    return answer


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


class ApiServer:
    """The store and its server; use `serving()`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.denied: set[tuple[str, str, str]] = set()
        self.used: set[tuple[str, str, str]] = set()
        self.answer_exec: Exec = lambda *_: ("no such container", "", "")
        self.trouble: Trouble = lambda _: False
        self.url = ""
        self.oldest = 0
        """Watches from before this version are answered with 410."""
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._changes: list[tuple[int, str, str, dict[str, Any]]] = []
        self._version = 0
        self._news = threading.Condition()
        self._cuts = 0
        self._calls = 0
        self._silent = False

    # --- for tests ---

    def put(self, resource: str, thing: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object; watchers are told."""
        metadata = thing["metadata"]
        key = resource, metadata.get("namespace", ""), metadata["name"]
        with self._news:
            kind = "MODIFIED" if key in self._objects else "ADDED"
            stored = copy.deepcopy(thing)
            self._store(kind, key, stored)
            return copy.deepcopy(stored)

    def drop(self, resource: str, namespace: str, name: str) -> None:
        """Delete an object; watchers are told."""
        with self._news:
            key = resource, namespace, name
            gone = self._objects.pop(key)
            self._tell("DELETED", resource, gone)

    def hang_up(self) -> None:
        """End all watches, as a server does that goes away."""
        with self._news:
            self._calls += 1
            self._news.notify_all()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Watches hear nothing of what happens in here, are ended after it, and cannot be resumed."""
        with self._news:
            self._silent = True
        yield
        with self._news:
            self._silent = False
            self.oldest = self._version
            # What they have not heard of they are not to hear on their way out.
            self._changes.clear()
        self.hang_up()

    def cut(self) -> None:
        """Break off all watches, in the middle of an answer."""
        with self._news:
            self._cuts += 1
            self._news.notify_all()

    def deny(self, verb: str, resource: str, namespace: str = "") -> None:
        """Take a right away, in one namespace or (empty) in all."""
        self.denied.add((verb, resource, namespace))

    def asked(self, text: str, *, but: str = "\0") -> int:
        """How many requests had this in their path, and not that; all as of one moment."""
        return sum(text in path and but not in path for _, path in list(self.requests))

    def kubeconfig(self, path: Path, namespace: str = "default") -> Path:
        """Write one for this server."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "jane", "user": {"token": "t"}}],
                    "contexts": [
                        {
                            "name": "fake",
                            "context": {"cluster": "fake", "user": "jane", "namespace": namespace},
                        }
                    ],
                }
            )
        )
        return path

    @contextmanager
    def serving(self) -> Iterator[ApiServer]:
        """Serve on a port of the loopback as long as the context lasts."""
        api = self

        class Handler(_Handler):
            server_api = api

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.hang_up()
            server.shutdown()
            server.server_close()
            thread.join()

    # --- for the handler ---

    def check(self, verb: str, resource: str, namespace: str) -> None:
        """Refuse what was denied, and note what was used."""
        self.used.add((verb, resource, namespace))
        if {(verb, resource, namespace), (verb, resource, "")} & self.denied:
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            message = f'{resource} is forbidden: User "jane" cannot {verb} resource "{resource}" in API group "" {where}'
            raise Refused(403, "Forbidden", message)

    def read(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        """One object."""
        with self._news:
            found = self._objects.get((resource, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found')
            return copy.deepcopy(found)

    def list(self, resource: str, namespace: str, query: dict[str, str]) -> dict[str, Any]:
        """All of a namespace, or (empty) of all; in pages if a limit is given."""
        with self._news:
            found = [
                copy.deepcopy(thing)
                for key, thing in sorted(self._objects.items())
                if key[0] == resource and namespace in ("", key[1]) and _selected(thing, query)
            ]
            metadata = {"resourceVersion": str(self._version)}
        begin, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(found)
        if begin + limit < len(found):
            metadata["continue"] = str(begin + limit)
        return {
            "kind": "List",
            "apiVersion": "v1",
            "metadata": metadata,
            "items": found[begin : begin + limit],
        }

    def era(self) -> tuple[int, int]:
        """How often watches were ended, and cut."""
        with self._news:
            return self._calls, self._cuts

    def changes(
        self, resource: str, namespace: str, query: dict[str, str], era: tuple[int, int]
    ) -> Iterator[Any]:
        """Events of a watch, until its time is up."""
        after = int(query.get("resourceVersion") or self._version)
        end = time.monotonic() + float(query.get("timeoutSeconds", 3600))
        if after < self.oldest:
            yield {"type": "ERROR", "object": Refused(410, "Expired", "too old").status}
            return
        call, cuts = era
        while True:
            with self._news:
                if self._cuts != cuts:
                    raise ConnectionResetError
                news = [change for change in self._changes if change[0] > after]
                over = call != self._calls or time.monotonic() > end
                if self._silent or not (news or over):
                    self._news.wait(0.5)
                    continue
            for version, kind, of, thing in news:
                after = version
                place = thing["metadata"].get("namespace", "")
                if of == resource and namespace in ("", place) and _selected(thing, query):
                    yield {"type": kind, "object": thing}
            if over:
                return

    def write(
        self,
        method: str,
        resource: str,
        namespace: str,
        name: str,
        body: Any,
        *,
        by_name: bool = False,
    ) -> dict[str, Any]:
        """Create, replace, patch (RFC 7386; `by_name`: lists of named things, too) or delete."""
        if method == "DELETE":
            self.read(resource, namespace, name)
            self.drop(resource, namespace, name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if method == "POST":
            metadata = body.setdefault("metadata", {})
            generated = f"{metadata.get('generateName', '')}{self._version + 1}"
            metadata.setdefault("name", generated)
            if namespace:
                metadata["namespace"] = namespace
            if (resource, namespace, metadata["name"]) in self._objects:
                raise Refused(
                    409, "AlreadyExists", f'{resource} "{metadata["name"]}" already exists'
                )
            return self.put(resource, body)
        if method == "PATCH":
            before = self.read(resource, namespace, name)
            uid = body.get("metadata", {}).get("uid")
            if uid is not None and uid != before["metadata"].get("uid"):
                text = f'Pod "{name}" is invalid: metadata.uid: Invalid value: "{uid}": field is immutable'
                raise Refused(422, "Invalid", text)
            seen = body.get("metadata", {}).get("resourceVersion")
            if seen is not None and seen != before["metadata"]["resourceVersion"]:
                raise Refused(409, "Conflict", "the object has been modified")
            after = _merged(before, body, by_name=by_name)
            return self.put(resource, after) if after != before else before
        self.read(resource, namespace, name)
        return self.put(resource, body)

    def _store(self, kind: str, key: tuple[str, str, str], thing: dict[str, Any]) -> None:
        self._objects[key] = thing
        self._tell(kind, key[0], thing)

    def _tell(self, kind: str, resource: str, thing: dict[str, Any]) -> None:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._changes.append((self._version, kind, resource, copy.deepcopy(thing)))
        self._news.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server_api: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: tests look at `requests`."""

    def _serve(self) -> None:
        # Before it is seen in `requests`: who waits for a watch may end it at once.
        self.era = self.server_api.era()
        self.server_api.requests.append((self.command, self.path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if not self.server_api.trouble(self):
                self.answer()
        except Refused as refused:
            self._answer(refused.status, refused.status["code"])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self) -> None:
        """Do what is asked."""
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        words = url.path.strip("/").split("/")
        self._route(words[2:] if words[0] == "api" else words[3:], query, self.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _route(self, words: list[str], query: dict[str, str], body: bytes) -> None:
        api, namespace = self.server_api, ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        resource, name, *rest = [*words, ""]
        sub = rest[0] if rest and rest[0] else ""
        full = f"{resource}/{sub}" if sub else resource
        if self.headers.get("Upgrade", "").lower() == "websocket":
            api.check("get", full, namespace)
            api.check("create", full, namespace)
            self._exec(namespace, name, api.read(resource, namespace, name))
        elif self.command == "GET" and name:
            api.check("get", full, namespace)
            self._answer(api.read(resource, namespace, name))
        elif self.command == "GET" and query.get("watch", "").lower() == "true":
            api.check("watch", full, namespace)
            self._watch(api.changes(resource, namespace, query, self.era))
        elif self.command == "GET":
            api.check("list", full, namespace)
            self._answer(api.list(resource, namespace, query))
        else:
            verb = {"POST": "create", "PUT": "update"}.get(self.command, self.command.lower())
            api.check(verb, full, namespace)
            content = json.loads(body) if body else {}
            by_name = "strategic" in self.headers.get("Content-Type", "")
            answer = api.write(self.command, resource, namespace, name, content, by_name=by_name)
            self._answer(answer)

    def _answer(self, value: Any, code: int = 200, headers: Mapping[str, str] = {}) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for header, text in headers.items():
            self.send_header(header, text)
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, changes: Iterator[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for change in changes:
            line = json.dumps(change).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _exec(self, namespace: str, name: str, pod: dict[str, Any]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        statuses = pod.get("status", {}).get("containerStatuses", [])
        if query["container"][0] not in [
            one["name"] for one in statuses if "running" in one["state"]
        ]:
            raise Refused(500, "InternalError", f'container not found ("{query["container"][0]}")')
        key = self.headers["Sec-WebSocket-Key"] + MAGIC
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for header, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ):
            self.send_header(header, value)
        self.end_headers()
        ended, out, err = self.server_api.answer_exec(
            namespace, name, query["container"][0], query["command"]
        )
        for channel, data in ((1, out.encode()), (2, err.encode()), (3, _ended(ended))):
            for begin in range(0, len(data), 1000):
                self._frame(0x2, bytes([channel]) + data[begin : begin + 1000])
        self._frame(0x8, struct.pack("!H", 1000))
        self.close_connection = True

    def _frame(self, code: int, data: bytes) -> None:
        length = bytes([len(data)]) if len(data) < 126 else struct.pack("!BH", 126, len(data))
        self.wfile.write(bytes([0x80 | code]) + length + data)


def _ended(how: int | str) -> bytes:
    """The Status object at the end of an exec."""
    if how == 0:
        return b'{"metadata":{},"status":"Success"}'
    if isinstance(how, str):
        status = {"status": "Failure", "reason": "InternalError", "message": how, "code": 500}
    else:
        status = {
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code: exit status {how}",
            "details": {"causes": [{"reason": "ExitCode", "message": str(how)}]},
        }
    return json.dumps(status).encode()


def _selected(thing: Any, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = term.partition("=")
        if labels.get(key) != value.lstrip("="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = thing
        for part in path.split("."):
            found = (found or {}).get(part)
        if (found or "") != value:
            return False
    return True


def _merged(old: Any, new: Any, *, by_name: bool = False) -> Any:
    if by_name and isinstance(new, list) and isinstance(old, list):
        changes = {one["name"]: one for one in new}
        return [_merged(one, changes.get(one["name"], {}), by_name=True) for one in old]
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    merged = dict(old)
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value, by_name=by_name)
    return merged
