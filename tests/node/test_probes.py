"""The kubelet's probes: awake they are no activity, whatever anybody else pretends to be."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from node import kubelets, sleepers
from node.kubelets import AGENT, Kubelet, Probing
from node.sleepers import SCALEDOWN, Sleeper

from dev import cri

Pods = Callable[..., cri.Pod]

PREFIX = "zeropod.ctrox.dev/"

WEB = 8080

#: A web server beside the one that is asked expressions.
HTTP = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        memory.setdefault("seen", []).append([self.path, self.headers.get("User-Agent")])
        body = b"page"
        self.send_response(204 if self.path == "/empty" else 200)
        self.send_header("Content-Length", str(0 if self.path == "/empty" else len(body)))
        self.end_headers()
        if self.path != "/empty":
            self.wfile.write(body)
    def log_message(self, *_):
        pass
class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
web = Web(("::", 8080), Page)
threading.Thread(target=web.serve_forever, args=(0.1,), daemon=True).start()
"""


@pytest.fixture(scope="module")
def kubelet() -> Iterator[Kubelet]:
    """One that the daemon knows."""
    with kubelets.heard() as one:
        yield one


def web(pods: Pods, scaledown: str = "2s", **wanted: str) -> Sleeper:
    """A container with a web server."""
    named = {PREFIX + name.replace("_", "-"): value for name, value in wanted.items()}
    pod = pods(annotations={SCALEDOWN: scaledown, **named})
    return sleepers.python(pods, HTTP, pod=pod)


def address(one: Sleeper, family: str) -> str:
    """Of its pod."""
    return one.ip if family == "ipv4" else one.container.pod.ip6


def fetch(ip: str, path: str = "/", agent: str = "somebody/1") -> str:
    """What another client of the same node gets."""
    request = urllib.request.Request(f"http://{ip}:{WEB}{path}", headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


# --- awake -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_probes_do_not_keep_awake(pods: Pods, kubelet: Kubelet, family: str) -> None:
    """The application answers them, and sleeps when nobody else asks, though they come five times a second."""
    one = web(pods)
    ip = address(one, family)
    assert kubelet.http(ip, WEB) == "HTTP/1.1 200 OK"
    assert one.ask("memory['seen']") == [["/", AGENT]]
    with Probing(kubelet, 0.2, "http", ip, WEB):
        one.reach("ASLEEP")
    one.unharmed()


@pytest.mark.annotation("disable-probe-detection")
def test_probes_count_where_their_detection_is_disabled(pods: Pods, kubelet: Kubelet) -> None:
    """They keep it awake as everybody's requests do."""
    one = web(pods, disable_probe_detection="true")
    with Probing(kubelet, 0.2, "http", one.ip, WEB):
        time.sleep(5)
        assert one.info()["sleeps"] == 0
    one.reach("ASLEEP")


def test_somebody_else_who_looks_like_a_probe_keeps_awake(pods: Pods, kubelet: Kubelet) -> None:
    """A client on the same node, with the kubelet's address and its User-Agent."""
    del kubelet
    one = web(pods)
    for _ in range(25):
        assert fetch(one.ip, agent=AGENT) == "page"
        time.sleep(0.2)
    assert one.info()["sleeps"] == 0
    one.reach("ASLEEP")
