"""The conversation with criu: what is asked for, and what is made of silence, refusal and death."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpointer import criu
from checkpointer.criu import Session
from checkpointer.errors import CriuError

pytest.importorskip("pycriu", reason="needs Debian's python3-pycriu")


class Peer:
    """Plays criu on the other end of a socket; the pidfd is that of a pipe that stands for its life."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.alive, self._life = os.pipe()

    def says(self, **fields: Any) -> None:
        """Send an answer."""
        self.theirs.send(criu.rpc().criu_resp(**fields).SerializeToString())

    def asks(self, script: str) -> None:
        """Send a notification."""
        answer = criu.rpc().criu_resp(type=criu.rpc().NOTIFY, success=True)
        answer.notify.script = script
        self.theirs.send(answer.SerializeToString())

    def heard(self) -> Any:
        """Return the next message from our side."""
        return criu.rpc().criu_req.FromString(self.theirs.recv(1 << 20))

    def dies(self) -> None:
        """End, with the socket still open in somebody else's hands."""
        os.close(self._life)
        self._life = -1

    def close(self) -> None:
        """Give everything back."""
        self.ours.close()
        self.theirs.close()
        os.close(self.alive)
        if self._life >= 0:
            os.close(self._life)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A criu to talk to."""
    found = Peer()
    yield found
    found.close()


def session(peer: Peer, seconds: float = 5.0) -> Session:
    """A conversation with it."""
    return Session(peer.ours, peer.alive, time.monotonic() + seconds)


def agree(_: str) -> bool:
    """Let criu go on."""
    return True


def test_notifications_are_answered_as_the_callback_says(peer: Peer) -> None:
    """Criu hears the callback's yes or no, in order, and its answer is returned."""
    request = criu.dump_request(2)
    peer.asks("pre-dump")
    peer.asks("post-dump")
    peer.says(type=criu.rpc().DUMP, success=True)
    answer = session(peer).call(request, lambda script: script == "pre-dump")
    assert answer.success
    assert peer.heard() == request
    assert [peer.heard().notify_success for _ in range(2)] == [True, False]


def test_a_refusal_tells_why(peer: Peer) -> None:
    """Criu's own words and number are in the error."""
    peer.says(type=criu.rpc().DUMP, success=False, cr_errno=17, cr_errmsg="a\nError: b\n")
    with pytest.raises(CriuError, match="Error: b") as caught:
        session(peer).call(criu.dump_request(2), agree)
    assert (caught.value.errno, caught.value.gone, caught.value.hung) == (17, False, False)


def test_a_closed_socket_is_the_end_of_criu(peer: Peer) -> None:
    """An end of file is told apart from a refusal."""
    peer.theirs.close()
    with pytest.raises(CriuError) as caught:
        session(peer).call(criu.dump_request(2), agree)
    assert caught.value.gone


def test_a_dead_criu_is_noticed_although_its_socket_lives(peer: Peer) -> None:
    """Half-restored tasks may keep the socket open; the pidfd tells."""
    peer.dies()
    with pytest.raises(CriuError) as caught:
        session(peer).call(criu.dump_request(2), agree)
    assert caught.value.gone


def test_what_criu_said_before_it_ended_counts(peer: Peer) -> None:
    """An answer that waits in the socket is read although criu has ended meanwhile."""
    peer.says(type=criu.rpc().DUMP, success=True)
    peer.dies()
    assert session(peer).call(criu.dump_request(2), agree).success


def test_silence_ends_in_time(peer: Peer) -> None:
    """A criu that says nothing is given up when the time is over."""
    with pytest.raises(CriuError) as caught:
        session(peer, 0.2).call(criu.dump_request(2), agree)
    assert caught.value.hung


def test_requests_name_directories_by_descriptor() -> None:
    """Nothing in a request can be looked up inside a container."""
    for request in (criu.dump_request(2), criu.restore_request(["pipe:[1]"], lazy=False)):
        assert request.opts.images_dir == "/proc/self/fd/4"
        assert request.opts.images_dir_fd == -1
        assert "/" not in request.opts.log_file
    inherited = criu.restore_request(["pipe:[1]", "pipe:[2]"], lazy=True).opts
    assert [(one.key, one.fd) for one in inherited.inherit_fd] == [
        ("pipe:[1]", 5),
        ("pipe:[2]", 6),
    ]
    assert inherited.lazy_pages


def test_telling_lines_are_errors_and_warnings(tmp_path: Path) -> None:
    """Of a long log a dozen lines that matter are left; a missing log has none."""
    log = tmp_path / "dump.log"
    noise = "(00.000001) Dumping\n(00.000002)     12: Error (x.c:1): inner\n"
    log.write_text(noise + "".join(f"(00.1) Error (y.c:{n}): no\n" for n in range(20)) + "Error\n")
    lines = criu.telling(log)
    assert lines == tuple(f"(00.1) Error (y.c:{n}): no" for n in range(8, 20))
    log.write_text(noise)
    assert criu.telling(log) == ("(00.000002)     12: Error (x.c:1): inner",)
    log.write_text("Dumping\n     8: Error (x.c:1): inner\nWarn  (y.c:2): odd\n")
    assert criu.telling(log) == ("     8: Error (x.c:1): inner", "Warn  (y.c:2): odd")
    assert criu.telling(tmp_path / "none") == ()
