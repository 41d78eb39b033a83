"""Page daemons and their guardians: memory that comes in after the wake."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.containers import Container, python, until
from supervisor.zygotes import (
    COUNTER,
    LAZY,
    REQUEST,
    STDIN_INSIDE,
    Answer,
    Bundle,
    Zygote,
    ask,
    ended,
    send_to_sleep,
    wake,
)

Start = Callable[..., Container]


@pytest.fixture
def lazy(bundle: Bundle, tmp_path: Path) -> Iterator[Zygote]:
    """A zygote of guarded page daemons."""
    one = Zygote(bundle, tmp_path / "lazy.sock", LAZY, CRIU_ZYGOTE_GUARD="1")
    yield one
    one.close()


@pytest.fixture
def sleeping(container: Start, zygote: Zygote, images: Path) -> tuple[Container, int]:
    """A counter that was asked once and sleeps, and the hash of its ballast."""
    one = container(*python(COUNTER), through=STDIN_INSIDE, definitions="")
    assert one.line() == "ready"
    one.reach("run")
    ballast = ask(one)[1]
    send_to_sleep(zygote, one, images)
    return one, ballast


def serve_pages(lazy: Zygote, images: Path) -> Answer:
    """Requests a page daemon for the images and waits until it listens."""
    directory = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
    answer = lazy.request(b"d", [directory])
    os.close(directory)
    assert answer.step == 0
    until((images / "lazy-pages.socket").exists)
    return answer


def test_lazy_round_trip(
    sleeping: tuple[Container, int], zygote: Zygote, lazy: Zygote, images: Path
) -> None:
    """Restored lazily the memory is the same; once it is drained the status is 0, read-only, and the guardian is gone."""
    one, ballast = sleeping
    (images / "lazy.status").touch(0o600)  # as a daemon does, so that it takes no inode in the end
    pages = serve_pages(lazy, images)
    wake(zygote, one, images, lazily=True)
    assert ask(one) == (2, ballast, 1, 2)
    assert ended(pages.pidfd)
    until((images / "lazy.status").exists)
    until(lambda: (images / "lazy.status").read_text() == "0\n")
    assert (images / "lazy.status").stat().st_mode & 0o777 == 0o400
    assert pages.connection.recv(1) == b""
    until(lambda: not Path(f"/proc/{pages.guardian}").exists())


def test_guardian_writes_the_status_and_holds(
    sleeping: object, lazy: Zygote, images: Path
) -> None:
    """A page daemon that is killed leaves its status in the image directory and a guardian that still holds descriptors."""
    answer = serve_pages(lazy, images)
    assert Path(f"/proc/{answer.guardian}/comm").read_text() == "criu-guardian\n"
    assert sorted(os.listdir(f"/proc/{answer.guardian}/fd"), key=int) == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
    ]
    read_end, write_end = os.pipe()
    socket.send_fds(answer.connection, [b"hh"], [write_end, write_end])
    assert answer.connection.recv(1) == b"k"
    os.close(write_end)
    answer.connection.close()
    os.kill(answer.pid, signal.SIGKILL)
    until((images / "lazy.status").exists)
    until(lambda: (images / "lazy.status").read_text() == "137\n")
    assert (images / "lazy.status").stat().st_mode & 0o200
    os.set_blocking(read_end, False)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 1)  # the other end is still held
    os.kill(answer.guardian, signal.SIGKILL)
    os.set_blocking(read_end, True)
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_guardian_outlives_the_zygote(sleeping: object, lazy: Zygote, images: Path) -> None:
    """When the zygote is killed the page daemon and its guardian go on."""
    answer = serve_pages(lazy, images)
    lazy.close()
    assert not ended(answer.pidfd, 0.2)
    os.kill(answer.pid, signal.SIGKILL)
    until((images / "lazy.status").exists)
    os.kill(answer.guardian, signal.SIGKILL)


def test_guardian_needs_a_directory(lazy: Zygote) -> None:
    """A guarded request without an image directory is refused: there would be nowhere to write the status."""
    with socket.socket(socket.AF_UNIX) as some:
        assert lazy.request(b"r", [some.fileno()]).step == REQUEST
