"""What the kubelet's probes are told."""

import asyncio
import contextlib
import socket
import threading
import urllib.error
import urllib.request

import pytest

from checkpointer import errors, health, metrics, scrape
from dev import patience


def passed():
    """Nothing is wrong."""


def refused():
    raise errors.ZygoteError("no criu\ncould be started")


def mistaken():
    raise KeyError("surprise")


def in_turn(*looks):
    """A check that finds something else each time."""
    left = list(looks)

    def look():
        found = left.pop(0)
        found()

    return health.Check("b", look)


def asked(path, *, live=passed, ready=passed):
    checks = health.Health([health.Check("a", live)], [health.Check("b", ready)])
    return checks.answer(path)


def test_all_is_well():
    """A line for each thing, as Kubernetes' own programs answer."""
    assert asked("/readyz") == (True, "[+]a ok\n[+]b ok\nreadyz passed\n")
    assert asked("/healthz") == (True, "[+]a ok\nhealthz passed\n")
    assert asked("/metrics") is None


def test_what_a_wake_needs_is_no_reason_for_a_restart():
    """Only what a new daemon would mend is."""
    well, text = asked("/readyz", ready=refused)
    assert not well
    assert "[-]b failed: no criu could be started\n" in text
    assert asked("/healthz", ready=refused)[0]
    assert not asked("/healthz", live=refused)[0]
    assert not asked("/readyz", live=refused)[0]


def test_a_mistake_of_ours_is_no_all_clear(caplog):
    """And is in the log."""
    assert not asked("/readyz", ready=mistaken)[0]
    assert "health.broke" in caplog.text


def test_only_what_changes_is_logged(caplog):
    """A probe comes every few seconds."""
    checks = health.Health([], [in_turn(passed, refused, refused, passed, passed)])
    caplog.set_level("INFO")
    for _ in range(5):
        checks.answer("/readyz")

    assert [r.getMessage() for r in caplog.records] == ["health.failed", "health.mended"]


def test_what_is_done_for_an_answer_is_not_done_for_each():
    """Whoever reaches the port would keep the node busy starting what cannot be started."""
    tries = []

    def fails():
        tries.append(1)
        refused()

    look = health.kept(fails, 3600.0)
    for _ in range(3):
        with pytest.raises(errors.ZygoteError):
            look()
    assert len(tries) == 1
    always = health.kept(fails, 0.0)
    for _ in range(2):
        with pytest.raises(errors.ZygoteError):
            always()
    assert len(tries) == 3


async def test_the_event_loop_answers():
    """While it does; a blocked one is found out."""
    loop, done = asyncio.get_running_loop(), threading.Event()
    await asyncio.to_thread(health.answers, loop)
    found = []

    def look():
        try:
            health.answers(loop, 0.05)
        except health.Unfit as unfit:
            found.append(unfit.reason)
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    done.wait()  # blocks the loop
    thread.join()

    assert "event loop" in found[0]


def test_an_event_loop_that_is_closed_is_no_mistake():
    """The daemon is going down."""
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(health.Unfit, match="going down"):
        health.answers(loop)


def test_images_have_to_be_usable(tmp_path):
    """The directory exists and can be written to."""
    health.writable(tmp_path)
    with pytest.raises(health.Unfit, match="No such file"):
        health.writable(tmp_path / "gone")


def test_the_files_of_managed_containers_have_to_be_there(tmp_path):
    """Both of them."""
    (tmp_path / "init").touch()
    with pytest.raises(health.Unfit, match="wake is missing"):
        health.there(tmp_path / "init")
    (tmp_path / "wake").touch()
    health.there(tmp_path / "init")


def test_pins_have_to_be_there(tmp_path):
    """Somebody may have unmounted the file system, or removed them."""
    with pytest.raises(health.Unfit, match="nothing is pinned"):
        health.pinned(tmp_path / "gone")
    with pytest.raises(health.Unfit, match="nothing is pinned"):
        health.pinned(tmp_path)
    (tmp_path / "program").touch()
    health.pinned(tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_it_is_served_beside_the_metrics(host):
    """With the status that a probe looks at; on all addresses, too."""
    checks = health.Health([], [in_turn(passed, refused)])
    exposition = metrics.Exposition(metrics.View)
    with scrape.Scrape(f"{host}:0", exposition, checks.answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            assert answer.read().decode().endswith("readyz passed\n")
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(f"{url}/readyz")
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert b"zeropod_plugin_connected" in answer.read()

    assert told.value.code == 503
    told.value.close()


def request(port, source="127.0.0.1"):
    """What somebody who asks for /healthz gets."""
    with socket.create_connection(("127.0.0.1", port), 20, (source, 0)) as line:
        line.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(65536):
                data += piece
        return data


def test_who_opens_connections_without_an_end_takes_nobody_elses_place():
    """Another pod, that is: the kubelet is answered all the same, and the other one too when it has closed some."""
    checks = health.Health([health.Check("a", passed)], [])
    exposition = metrics.Exposition(metrics.View)
    with scrape.Scrape("127.0.0.1:0", exposition, checks.answer) as server:
        idle = [
            socket.create_connection(("127.0.0.1", server.port)) for _ in range(scrape.EACH + 5)
        ]
        assert request(server.port) == b""
        assert b"healthz passed" in request(server.port, "127.0.0.2")
        for line in idle:
            line.close()
        patience.until(lambda: b"healthz passed" in request(server.port), 20)
