"""A web server in a managed pod, asked by the kubelet and by others."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

from node import sleepers
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


def sleeps_on(one: Sleeper) -> None:
    """It has not been woken."""
    now = one.info()
    assert (now["state"], now["wakes"]) == ("ASLEEP", 0), now
