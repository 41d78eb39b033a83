"""The daemon's HTTP server, in threads of its own: metrics for Prometheus, and the kubelet's questions on its health."""

import errno
import logging
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self
from wsgiref import simple_server

import prometheus_client
from prometheus_client import registry

from checkpointer.errors import CheckpointerError

log = logging.getLogger(__name__)

Answer = Callable[[str], tuple[bool, str] | None]
"""From a path to whether all is well, and a text; None if the path is nothing."""


EACH, MOST = 8, 256
"""Connections at a time from one address, and from all: every pod of a cluster can reach a port of a pod, and one that
opened connections without an end would take the daemon's descriptors, without which nobody wakes, and the kubelet's place."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin one; what is too much is closed."""
        peer = str(client_address[0])
        with self._lock:
            if self._open[peer] >= EACH or self._open.total() >= MOST:
                self.shutdown_request(request)
                return
            self._open[peer] += 1
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._over(peer)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one, and be rid of it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._over(str(client_address[0]))

    def _over(self, peer: str) -> None:
        with self._lock:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, which can take longer than a probe waits."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _ServerV6(_Server):
    """All addresses are those of IPv4, too."""

    address_family: int = socket.AF_INET6

    def server_bind(self) -> None:
        """Bind to both families where the address means both."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(simple_server.WSGIRequestHandler):
    """Says nothing of requests, and does not wait for ever for one."""

    timeout: ClassVar[float | None] = 30.0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Log nothing."""

    def address_string(self) -> str:
        """The peer's address, without asking a name server for its name."""
        return str(self.client_address[0])


class Scrape:
    """Serves metrics and health until it is closed.

    Args:
        address: `HOST:PORT`, `:PORT` for all addresses, `[V6]:PORT`; an empty one serves nothing.
        collector: Asked at each scrape.
        health: Asked for each path; what it does not know are metrics.

    Raises:
        CheckpointerError: The address is none, or is taken.
    """

    def __init__(
        self, address: str, collector: registry.Collector, health: Answer = lambda _: None
    ) -> None:
        self._server = None
        if not address:
            return
        host, port = split(address)
        only = registry.CollectorRegistry()
        only.register(collector)
        application = _application(prometheus_client.make_wsgi_app(only), health)
        try:
            self._server = _bound(host, port)
        except OSError as error:
            raise CheckpointerError(
                f"metrics cannot be served at {address} (--metrics-addr): {error}"
            ) from error
        self._server.set_app(application)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="scrape", daemon=True
        )
        self._thread.start()
        log.info("metrics.served", extra={"address": address})

    @property
    def port(self) -> int:
        """Where it listens; 0 if it serves nothing."""
        return self._server.server_port if self._server is not None else 0

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bound(host: str, port: int) -> _Server:
    if ":" not in host:
        return _Server((host, port), _Handler)
    try:
        return _ServerV6((host, port), _Handler)
    except OSError as error:
        if host != "::" or error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
        return _Server(("0.0.0.0", port), _Handler)  # noqa: S104 - a node without IPv6; all addresses were asked for


def _application(metrics: Any, health: Answer) -> Any:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        found = health(environ.get("PATH_INFO", ""))
        if found is None:
            answered: Iterable[bytes] = metrics(environ, start_response)
            return answered
        well, text = found
        status = "200 OK" if well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]

    return answer


def split(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        CheckpointerError: It is none.
    """
    host, colon, port = address.rpartition(":")
    if (
        not colon
        or not port.isdecimal()
        or int(port) > 65535
        or (":" in host and not host.startswith("["))
    ):
        raise CheckpointerError(
            f"--metrics-addr {address!r} is no address; write HOST:PORT, for example :9419 or 127.0.0.1:9419"
        )
    return host.strip("[]") or "::", int(port)
