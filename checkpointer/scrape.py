"""The HTTP server for Prometheus: prometheus-client's, in a thread of its own, over one collector."""

import logging
from types import TracebackType
from typing import Self

import prometheus_client
from prometheus_client import registry

from checkpointer.errors import CheckpointerError

log = logging.getLogger(__name__)


class Scrape:
    """Serves metrics until it is closed.

    Args:
        address: `HOST:PORT`, `:PORT` for all addresses, `[V6]:PORT`; an empty one serves nothing.
        collector: Asked at each scrape.

    Raises:
        CheckpointerError: The address is none, or is taken.
    """

    def __init__(self, address: str, collector: registry.Collector) -> None:
        self._server = None
        if not address:
            return
        host, port = split(address)
        only = registry.CollectorRegistry()
        only.register(collector)
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                port, addr=host, registry=only
            )
        except OSError as error:
            raise CheckpointerError(
                f"metrics cannot be served at {address} (--metrics-addr): {error}"
            ) from error
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
            f"--metrics-addr {address!r} is no address; write HOST:PORT, for example :8080 or 127.0.0.1:8080"
        )
    return host.strip("[]") or "::", int(port)
