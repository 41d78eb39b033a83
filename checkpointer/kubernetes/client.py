"""The one door to the API server: JSON in, JSON out.

The official client reads the configuration, renews tokens and makes connections. Its typed calls are not used: they
take a hundred megabytes of models to say what a path and a dictionary say, and drop what they do not know. It is
synchronous; whoever calls is on a thread of its own. Nothing here forks: this process uses grpc, which does not survive
that, so a kubeconfig whose credentials come from a program is refused.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import urllib3
import yaml
from kubernetes import client, config

from checkpointer import api
from checkpointer.errors import CheckpointerError
from checkpointer.kubernetes import errors

log = logging.getLogger(__name__)

CONNECT, ANSWER = 5.0, 15.0
"""Seconds for a connection, and for an answer."""

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

_HEADERS = {"Accept": "application/json", "User-Agent": f"zeropod/{api.version()}"}

_KEEPALIVE = urllib3.connection.HTTPConnection.default_socket_options


class Configuration(Protocol):
    """What is used of the official client's."""

    host: str

    def auth_settings(self) -> dict[str, Any]:
        """Headers that prove who we are; renewed when it is time."""


class Client:
    """A connection pool to one API server; from any thread.

    Args:
        configuration: The official client's: address, certificates, token.

    Attributes:
        counts: Requests by verb, resource and status ("error" without an answer).
    """

    def __init__(self, configuration: Any) -> None:
        self._configuration: Configuration = configuration
        self._pool = client.rest.RESTClientObject(configuration).pool_manager
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, str, str]] = Counter()

    @classmethod
    def of(cls, kubeconfig: Path | None) -> Client:
        """The client of a kubeconfig, or of the pod that this runs in.

        Raises:
            CheckpointerError: There is none that can be used.
        """
        configuration = client.Configuration()
        configuration.socket_options = _socket_options()
        configuration.connection_pool_maxsize = 8
        try:
            if kubeconfig is None:
                config.load_incluster_config(client_configuration=configuration)
            else:
                _refuse_programs(kubeconfig)
                config.load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration
                )
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            where = f"--kubeconfig {kubeconfig}" if kubeconfig else "this pod's service account"
            raise CheckpointerError(
                f"the Kubernetes API cannot be used with {where}: {error}"
            ) from error
        return cls(configuration)

    def request(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        """Ask once and return the answer.

        Args:
            method: HTTP's.
            path: Of the object or list.
            verb: RBAC's, for counts.
            resource: The same, such as "pods/resize".
            query: Parameters.
            body: Sent as JSON.
            content: Its type.

        Raises:
            errors.ApiError: It was not done.
        """
        answer = self._ask(
            method,
            path,
            query,
            timeout=urllib3.Timeout(connect=CONNECT, read=ANSWER),
            counted=(verb, resource),
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content},
        )
        try:
            found: dict[str, Any] = json.loads(answer.data)
        except ValueError as error:
            raise errors.Unreachable(f"no JSON came from {path}: {error}") from error
        except urllib3.exceptions.HTTPError as error:
            raise errors.Unreachable(f"{path}: {error}") from error
        return found

    def watch(self, path: str, query: Mapping[str, str], seconds: float) -> Stream:
        """Begin to listen for changes, for so many seconds at the most.

        Raises:
            errors.ApiError: It was not begun.
        """
        answer = self._ask(
            "GET",
            path,
            {**query, "watch": "true", "timeoutSeconds": str(round(seconds))},
            # The server ends it in time; longer is a server that has forgotten us.
            timeout=urllib3.Timeout(connect=CONNECT, read=seconds + ANSWER),
            counted=("watch", path.rpartition("/")[2]),
        )
        return Stream(answer)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        timeout: urllib3.Timeout,
        counted: tuple[str, str],
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = self._configuration.host.rstrip("/") + path
        if query:
            url += "?" + urllib.parse.urlencode(query)
        status = "error"
        try:
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers={**_HEADERS, **self._identity(), **(headers or {})},
                timeout=timeout,
                retries=False,
                preload_content=False,
            )
            status = str(answer.status)
            if answer.status >= 300:
                message = _message(answer.data)
                after = answer.headers.get("Retry-After", "")
                raise errors.of(answer.status, message, after)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise errors.Unreachable(f"{path}: {error}") from error
        finally:
            with self._lock:
                self.counts[(*counted, status)] += 1
        return answer

    def _identity(self) -> dict[str, str]:
        try:
            with self._lock:  # it renews the token
                known = self._configuration.auth_settings().get("BearerToken", {}).get("value")
        except (config.ConfigException, OSError) as error:
            raise errors.Unauthorized(f"the token cannot be read: {error}") from error
        return {"Authorization": known} if known else {}


class Stream:
    """The lines of a watch."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Events as they come, until the server ends it.

        Raises:
            errors.Unreachable: It broke off.
        """
        rest = b""
        try:
            for part in self._answer.stream(amt=None):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise errors.Unreachable(f"the watch broke off: {error}") from error
        finally:
            self._answer.close()

    def end(self) -> None:
        """Let whoever iterates stop at once; from any thread."""
        try:
            self._answer.shutdown()
        except (ValueError, AttributeError, OSError) as error:
            log.debug("watch.unended", extra={"error": str(error)})  # it has ended by itself


def _message(data: bytes) -> str:
    """The sentence of a Status object, or what there is instead; clipped to protect logs."""
    text = data.decode(errors="replace")
    try:
        text = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:500]


def _socket_options() -> list[tuple[int, int, int]]:
    """A server that went away without a word is noticed within a minute, in the middle of a quiet watch, too."""
    return [
        *_KEEPALIVE,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 50_000),
    ]


def _refuse_programs(kubeconfig: Path) -> None:
    users = (yaml.safe_load(kubeconfig.read_text()) or {}).get("users") or []
    for user in users:
        if {"exec", "auth-provider"} & set(user.get("user") or {}):
            raise ValueError(
                f"user {user.get('name')!r} gets its credentials from a program, and this daemon must not start any; "
                "use a token or a client certificate"
            )
