"""The probes that a pod declares, and whether its containers are Ready; pure, from the API server's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from checkpointer.declared import Declared
from redirector.probes import Kind, Probe, Role

_FIELDS: Mapping[str, Role] = {
    "startupProbe": "startup",
    "readinessProbe": "readiness",
    "livenessProbe": "liveness",
}
_KINDS: Mapping[str, Kind] = {
    "httpGet": "http",
    "tcpSocket": "tcp",
    "grpc": "grpc",
    "exec": "exec",
}


def declared(
    spec: Mapping[str, Any], status: Mapping[str, Any], *, leaving: bool = False
) -> dict[str, Declared]:
    """Return what is declared, by container; sidecars are among them."""
    ready = {
        one["name"]: bool(one.get("ready"))
        for field in ("containerStatuses", "initContainerStatuses")
        for one in status.get(field) or []
    }
    found = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return {
        one["name"]: Declared(tuple(_probes(one)), ready.get(one["name"], False), leaving)
        for one in found
    }


def _probes(container: Mapping[str, Any]) -> Iterator[Probe]:
    for field, role in _FIELDS.items():
        probe = container.get(field) or {}
        for name, kind in _KINDS.items():
            if name in probe:
                asks = probe[name] or {}
                yield Probe(
                    role=role,
                    kind=kind,
                    port=_port(asks.get("port", 0), container),
                    path=asks.get("path") or "/",
                    tls=asks.get("scheme", "HTTP").upper() == "HTTPS",
                    service=asks.get("service") or "",
                    # The API server's defaults, which it fills in.
                    period=float(probe.get("periodSeconds") or 10),
                    failures=int(probe.get("failureThreshold") or 3),
                )


def _port(port: int | str, container: Mapping[str, Any]) -> int:
    """Return a port's number; 0 for a name that the container has not."""
    if isinstance(port, int):
        return port
    named = (
        one["containerPort"] for one in container.get("ports") or [] if one.get("name") == port
    )
    return int(next(named, 0))
