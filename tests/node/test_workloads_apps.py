"""Programs that people run, each asleep and awake again with its memory: Node.js, Go, Python, nginx, SSH."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Callable

import pytest
from node import workloads
from node.clients import Sleeper
from node.workloads import get

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

NODE = """
const http = require("http"), fs = require("fs"), dns = require("dns"), crypto = require("crypto");
let count = 0, ticks = 0;
setInterval(() => ticks++, 20);
const memory = crypto.randomBytes(20 << 20), digest = crypto.createHash("md5").update(memory).digest("hex");
// The pool of threads, a watch on the container's root, a worker: what programs have beside their event loop.
fs.readFile("/etc/passwd", () => {});
fs.watch("/tmp", () => {});
const { Worker } = require("worker_threads");
const worker = new Worker("require('worker_threads').parentPort.on('message', m => " +
  "require('worker_threads').parentPort.postMessage(m + 1))", { eval: true });
http.createServer((request, answer) => {
  worker.once("message", sum => answer.end(JSON.stringify({
    count: sum, ticks, same: crypto.createHash("md5").update(memory).digest("hex") == digest })));
  worker.postMessage(count++);
}).listen(8080, () => console.log("listening"));
"""


def cycles(one: Sleeper, ask: Callable[[], object], times: int = 3) -> None:
    """Sleep and wake by a request, several times."""
    for _ in range(times):
        one.sleep()
        assert one.state == "ASLEEP"
        ask()
        one.reach("RUNNING")
    one.check()


def test_node(pods: Pods) -> None:
    """Node.js: timers, a thread pool, a file watcher, a worker and 20 MB of memory."""
    one = workloads.start(pods, "node", ["node", "-e", NODE], "listening")
    asked = [0]

    def ask() -> None:
        said = json.loads(get(one.ip, 8080))
        asked[0] += 1
        assert (said["count"], said["same"]) == (asked[0], True)

    ask()
    before = json.loads(get(one.ip, 8080))["ticks"]
    asked[0] += 1
    cycles(one, ask)
    assert json.loads(get(one.ip, 8080))["ticks"] > before


def test_node_keeps_its_connections(pods: Pods) -> None:
    """A keep-alive connection of an HTTP client is used again after each sleep."""
    one = workloads.start(pods, "node", ["node", "-e", NODE.replace('"/tmp"', '"/"')], "listening")
    client = http.client.HTTPConnection(one.ip, 8080, timeout=15)
    client.connect()
    port = client.sock.getsockname()[1]

    def ask() -> None:
        client.request("GET", "/")
        assert client.getresponse().read()
        assert client.sock.getsockname()[1] == port

    ask()
    cycles(one, ask)
    client.close()


def test_go(pods: Pods) -> None:
    """A file server in Go, which would listen with MPTCP if its pod had that."""
    one = workloads.start(pods, "static", ["static", "-folder", "/etc"], "listening")
    asked = [0]

    def ask() -> None:
        asked[0] += 1
        assert get(one.ip, 8080, "/count") == f"{asked[0]}\n"
        assert "root:x:0" in get(one.ip, 8080, "/passwd")

    ask()
    cycles(one, ask)


PREFORK = """
import mmap, os, signal, socket, struct, sys, time
shared = mmap.mmap(-1, 4096)  # as an opcode cache has it
listener = socket.create_server(("", 8080), backlog=64)
def work(number):
    while True:
        client, _ = listener.accept()
        count = struct.unpack_from("Q", shared)[0] + 1
        struct.pack_into("Q", shared, 0, count)
        client.sendall(b"%d by %d\\n" % (count, number))
        client.close()
for number in range(4):
    if not os.fork():
        work(number)
print("listening", flush=True)
while True:
    pid, status = os.wait()  # a manager starts those anew that end
    if not os.fork():
        work(9)
"""


def test_prefork(pods: Pods) -> None:
    """Workers that wait in accept() on one socket and share memory, as PHP-FPM's and Apache's do."""
    one = workloads.start(pods, "servers", ["python3", "-c", PREFORK], "listening")
    asked = [0]

    def ask() -> None:
        for _ in range(8):
            asked[0] += 1
            with socket.create_connection((one.ip, 8080), timeout=15) as sock:
                count, _, worker = sock.makefile().readline().split()
                assert (int(count), worker in "0123") == (asked[0], True)

    ask()
    cycles(one, ask)
    assert len(one.tree()) == 5


UVLOOP = """
import asyncio, uvloop
count = 0
async def serve(reader, writer):
    global count
    while line := await reader.readline():
        count += 1
        writer.write(b"%d %s" % (count, line))
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8080)
    print("listening by", type(asyncio.get_running_loop()).__module__, flush=True)
    await server.serve_forever()
uvloop.run(main())
"""


@pytest.mark.annotation("allow-io-uring")
@pytest.mark.parametrize("unconfined", [False, True])
def test_uvloop(pods: Pods, *, unconfined: bool) -> None:
    """Python on uvloop, which has its own libuv and uses io_uring where it may, with and without a seccomp profile."""
    command = ["python3", "-c", UVLOOP]
    security = {"unconfined": unconfined}
    one = workloads.start(pods, "servers", command, "listening by uvloop", security=security)
    with socket.create_connection((one.ip, 8080), timeout=15) as kept:
        asked = [0]

        def ask() -> None:
            asked[0] += 1
            kept.sendall(b"hello\n")
            assert kept.recv(99) == b"%d hello\n" % asked[0]

        ask()
        cycles(one, ask)
    assert not rings(one)


def test_uvloop_with_io_uring(pods: Pods) -> None:
    """The same with `allow-io-uring` stays awake, and the reason names the annotation."""
    wish = {"zeropod.ctrox.dev/allow-io-uring": "true"}
    command = ["python3", "-c", UVLOOP]
    one = workloads.start(pods, "servers", command, "listening", annotations=wish)
    if not rings(one):
        pytest.skip("this kernel lets no container use io_uring")
    with pytest.raises(TtrpcError, match="allow-io-uring"):
        one.sleep()


def rings(one: Sleeper) -> int:
    """How many io_uring descriptors its processes have."""
    found = 0
    for pid in one.tree():
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # it works on while it is looked at
                found += "io_uring" in os.readlink(f"/proc/{pid}/fd/{fd}")
    return found
