"""The API server as this plugin needs it: pods, their events, nodes, and programs run in pods."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import kubernetes.client
import kubernetes.config
import kubernetes.stream
import kubernetes.watch
import urllib3.exceptions
import yaml
from kubernetes.config import kube_config

from kubectl_zeropod import errors
from kubectl_zeropod.sleepers import Object

SYSTEM = "zeropod-system"
"""Where zeropod runs."""

NODE_PODS = "app.kubernetes.io/name=zeropod"
CHECKPOINTER = "checkpointer"
"""The container with the daemon and the node's command line."""

NODE_LABEL = "zeropod.ctrox.dev/node"

OBSERVER = "ClusterRole `view` grants it: get, list and watch on pods, list on events"
OPERATOR = (
    "Role `zeropod-operator` of manifests/kubectl/operator.yaml grants it: list on pods, get and create on "
    f"pods/exec, in namespace {SYSTEM}"
)
DOCTOR = "ClusterRole `zeropod-operator` of manifests/kubectl/operator.yaml grants it"
"""Remedies for what is denied."""

_OUT, _ERR, _END = 1, 2, 3
"""Channels of an exec session (v4.channel.k8s.io); the last brings a Status object."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """A program that was run in a container.

    Attributes:
        status: Its exit status; None if it was not started, or was cut off.
        out: What it printed.
        err: What it complained about.
        reason: Why there is no exit status, in the server's words.
    """

    status: int | None
    out: str
    err: str
    reason: str = ""


class Cluster:
    """A cluster and the rights of one user in it.

    Args:
        kubeconfig: A file instead of $KUBECONFIG or ~/.kube/config.
        context: One of its contexts instead of the current one.
        call: Seconds for one answer of the API server.
        watch: Seconds until a watch ends and is begun again where it was.
    """

    def __init__(
        self,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        call: float = 30.0,
        watch: int = 240,
    ) -> None:
        self._call = call
        self._watch = watch
        self._configuration = kubernetes.client.Configuration()
        self.namespace = "default"
        try:
            self._load(kubeconfig, context)
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError) as error:
            raise errors.PluginError(f"the kubeconfig cannot be used: {error}") from error
        self._core = kubernetes.client.CoreV1Api(self._client())

    def close(self) -> None:
        """Close what is open to the server."""
        _close(self._core)

    def pods(self, namespace: str | None, selector: str = "") -> list[Object]:
        """Pods of a namespace; None for all."""
        return self._items(self._pods(namespace), OBSERVER, label_selector=selector)

    def pod(self, namespace: str, name: str) -> Object:
        """One pod.

        Raises:
            errors.NotFoundError: There is none.
        """
        found: Object = self._read(OBSERVER, self._core.read_namespaced_pod, name, namespace)
        return found

    def events(self, namespace: str | None) -> list[Object]:
        """Events on the pods of a namespace; None for all."""
        listing: Any = self._core.list_event_for_all_namespaces
        if namespace is not None:
            listing = _in(self._core.list_namespaced_event, namespace)
        return self._items(listing, OBSERVER, field_selector="involvedObject.kind=Pod")

    def nodes(self) -> list[Object]:
        """All nodes."""
        return self._items(self._core.list_node, DOCTOR)

    def system_pods(self) -> list[Object]:
        """The pods of zeropod itself, one a node."""
        return self._items(self._pods(SYSTEM), OPERATOR, label_selector=NODE_PODS)

    def watch(
        self, namespace: str | None, selector: str = ""
    ) -> Iterator[tuple[str, Sequence[Object]]]:
        """Pods as they are, then each as it changes; does not end.

        Yields:
            (LISTED, all pods), at first and after an outage; (ADDED, MODIFIED or DELETED, one pod).
        """
        version = ""
        listing = self._pods(namespace)
        while True:
            if not version:
                whole = self._read(OBSERVER, listing, label_selector=selector)
                version = whole["metadata"]["resourceVersion"]
                yield "LISTED", whole.get("items") or []
            stream = kubernetes.watch.Watch(return_type="object").stream(
                listing,
                label_selector=selector,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=self._watch,
                # Whoever does not end it by then has lost the connection: a laptop that slept, a firewall that forgot.
                _request_timeout=(self._call, self._watch + self._call),
            )
            try:
                for event in stream:
                    version = event["raw_object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], [event["raw_object"]]
            except kubernetes.client.ApiException as error:
                if error.status != 410:
                    raise _translated(error, OBSERVER) from error
                version = ""  # too long ago: from the beginning
            except (urllib3.exceptions.HTTPError, OSError):
                time.sleep(1.0)  # the server went away; it is asked again

    def run(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: list[str],
        *,
        timeout: float,
        remedy: str = OPERATOR,
    ) -> Ran:
        """Run a program in a container to its end, or for so many seconds."""
        # A client of its own: `stream` changes the one it is given for the time of the call.
        core = kubernetes.client.CoreV1Api(self._client())
        try:
            session = kubernetes.stream.stream(
                core.connect_get_namespaced_pod_exec,
                pod,
                namespace,
                container=container,
                command=command,
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        except kubernetes.client.ApiException as error:
            raise _handshake(error, f"{namespace}/{pod}", remedy) from error
        finally:
            _close(core)
        try:
            return _collect(session, time.monotonic() + timeout)
        finally:
            # Not session.close(): that says good-bye once more to who has hung up, and then leaves the socket open.
            session.sock.shutdown()

    def _load(self, kubeconfig: str | None, context: str | None) -> None:
        try:
            kubernetes.config.load_kube_config(
                kubeconfig, context, client_configuration=self._configuration
            )
        except kubernetes.config.ConfigException:
            if kubeconfig or context:
                raise
            self._load_of_pod()
            return
        merged = kube_config.KubeConfigMerger(
            kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
        ).config
        name = context or merged["current-context"]
        chosen = merged["contexts"].get_with_name(name)["context"]
        self.namespace = chosen.safe_get("namespace") or "default"

    def _load_of_pod(self) -> None:
        """In a pod there is no kubeconfig, but a service account."""
        try:
            kubernetes.config.load_incluster_config(client_configuration=self._configuration)
        except kubernetes.config.ConfigException as error:
            text = "there is none: set $KUBECONFIG or give --kubeconfig FILE"
            raise kubernetes.config.ConfigException(text) from error

    def _client(self) -> Any:
        return kubernetes.client.ApiClient(self._configuration)

    def _pods(self, namespace: str | None) -> Any:
        if namespace is None:
            return self._core.list_pod_for_all_namespaces
        return _in(self._core.list_namespaced_pod, namespace)

    def _items(self, listing: Any, remedy: str, **options: str) -> list[Object]:
        found: list[Object] = []
        while True:
            page = self._read(remedy, listing, limit=500, **options)
            found += page.get("items") or []
            token = page.get("metadata", {}).get("continue")
            if not token:
                return found
            options["_continue"] = token

    def _read(self, remedy: str, call: Any, *words: str, **options: Any) -> Any:
        """The JSON that a call of the client answers, without a detour over the client's classes."""
        try:
            answer = call(*words, _preload_content=False, _request_timeout=self._call, **options)
            return json.loads(answer.data)
        except kubernetes.client.ApiException as error:
            raise _translated(error, remedy) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise errors.PluginError(f"the API server does not answer: {_root(error)}") from error


def _close(core: Any) -> None:
    core.api_client.rest_client.pool_manager.clear()
    core.api_client.close()


def _in(listing: Any, namespace: str) -> Any:
    """The listing of a namespace; a function with the docstring that kubernetes.watch looks at."""

    def call(*words: str, **options: Any) -> Any:
        return listing(namespace, *words, **options)

    call.__doc__ = listing.__doc__
    return call


def _collect(session: Any, deadline: float) -> Ran:
    while session.is_open() and time.monotonic() < deadline:
        session.update(timeout=max(0.0, deadline - time.monotonic()))
    out, err, end = (
        (session.read_channel(channel) or b"").decode("utf-8", "replace")
        for channel in (_OUT, _ERR, _END)
    )
    if not end:
        return Ran(None, out, err, "no answer in time" if session.is_open() else "cut off")
    return _ran(end, out, err)


def _ran(end: str, out: str, err: str) -> Ran:
    """How it ended, from the Status object on the error channel."""
    status = json.loads(end)
    if status.get("status") == "Success":
        return Ran(0, out, err)
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return Ran(int(cause["message"]), out, err)
    return Ran(None, out, err, status.get("message") or "not started")


def _translated(error: Any, remedy: str) -> errors.PluginError:
    said = _said(error.body) or error.reason or str(error.status)
    if error.status == 401:
        return errors.DeniedError(f"the API server does not know you ({said})", "log in again")
    return _by_status(error.status, said, remedy)


def _handshake(error: Any, where: str, remedy: str) -> errors.PluginError:
    """`stream` hides the answer to its handshake behind its own exception."""
    refused = error.__context__
    status = getattr(refused, "status_code", error.status)
    said = _said(getattr(refused, "resp_body", None)) or error.reason or ""
    if not status:
        return errors.NoDaemonError(f"no program can be run in pod {where}: {said}")
    return _by_status(status, said, remedy)


def _by_status(status: int, said: str, remedy: str) -> errors.PluginError:
    if status == 403:
        return errors.DeniedError(said, remedy)
    if status == 404:
        return errors.NotFoundError(said)
    return errors.PluginError(f"{said} (HTTP {status})")


def _said(body: bytes | str | None) -> str:
    """The message of a Status object; else what is there."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]


def _root(error: BaseException) -> str:
    """The first cause: urllib3 wraps it twice."""
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error)
