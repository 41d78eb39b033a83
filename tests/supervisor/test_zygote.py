"""The zygote: criu inside a container without anything of the container being believed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.containers import Container, Opens, python, until
from supervisor.zygotes import (
    COUNTER,
    REQUEST,
    STDIN_INSIDE,
    SWRK,
    Bundle,
    Worker,
    Zygote,
    ask,
    call,
    ended,
    rpc,
    send_to_sleep,
    wake,
)

Start = Callable[..., Container]


def test_round_trips_keep_memory_files_and_pipes(
    container: Start, zygote: Zygote, images: Path
) -> None:
    """Over three sleeps memory, an open file and the output pipe are kept, under the same pid, as the supervisor's child."""
    one = container(*python(COUNTER), through=STDIN_INSIDE, definitions="")
    assert one.line() == "ready"
    one.reach("run")
    ballast = ask(one)[1]
    for number in range(2, 5):
        send_to_sleep(zygote, one, images)
        assert one.children == []
        wake(zygote, one, images)
        assert ask(one) == (number, ballast, *range(1, number + 1))
        for image in images.iterdir():
            image.unlink()
    os.kill(one.children[0], signal.SIGTERM)
    assert one.end() == 128 + signal.SIGTERM


def test_death_between_restore_and_resume(container: Start, zygote: Zygote, images: Path) -> None:
    """An application that ends after its restore and before RESUME ends the container with its status."""
    code = COUNTER.replace("number += 1", "sys.exit(23)")
    one = container(*python(code), through=STDIN_INSIDE, definitions="")
    assert one.line() == "ready"
    one.reach("run")
    send_to_sleep(zygote, one, images)
    wake(zygote, one, images, resume=False)
    os.kill(one.children[0], signal.SIGUSR1)
    until(lambda: not one.children)
    assert one.state == "asleep"
    os.kill(one.pid, 61)
    assert one.end() == 23


def test_nothing_below_run_is_opened(container: Start, zygote: Zygote, images: Path) -> None:
    """A dump and a restore open nothing below the container's /run: a fifo in the cache's place hangs nobody."""
    one = container(
        *python(COUNTER), before="mkfifo run/criu.kdat", through=STDIN_INSIDE, definitions=""
    )
    assert one.line() == "ready"
    one.reach("run")
    opens = Opens(Path(f"/proc/{one.pid}/root/run"))
    send_to_sleep(zygote, one, images)
    wake(zygote, one, images)
    seen = opens.seen()
    assert "/tmp/kept" in seen  # the application's own file, so the watch does see
    assert [path for path in seen if path.startswith("/run")] == []
    assert os.listdir(f"/proc/{one.pid}/root/run") == ["criu.kdat"]
    opens.close()


def test_the_served_cache_is_believed(container: Start, zygote: Zygote, images: Path) -> None:
    """The worker does not probe the kernel: criu's log says that the cache was loaded."""
    one = container(*python(COUNTER), through=STDIN_INSIDE, definitions="")
    assert one.line() == "ready"
    one.reach("run")
    worker = Worker(zygote, one, images)
    request = rpc.criu_req(type=rpc.DUMP)
    request.opts.images_dir_fd = -1
    request.opts.images_dir = "/proc/self/fd/4"
    request.opts.log_file = "dump.log"
    request.opts.log_level = 4
    request.opts.pid = 4194304  # there is none: criu gets no further than its start
    assert not call(worker.channel, request).success
    worker.close()
    assert "Loaded kdat cache from /run/criu.kdat" in (images / "dump.log").read_text()


def test_self_test_passes_and_fails(bundle: Bundle, tmp_path: Path) -> None:
    """The self-test succeeds with the bundle, and fails when another library is asked first."""
    environment = bundle.environment(CRIU_ZYGOTE_SELFTEST="1")
    assert subprocess.run(bundle.command(*SWRK), env=environment, check=False).returncode == 0
    (tmp_path / "first.c").write_text(
        "int creat64(const char *p, unsigned m) { return p[0] + (int)m; }\n"
    )
    first = tmp_path / "first.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-fno-builtin", "-w", "-o", first, tmp_path / "first.c"],
        check=True,
    )
    command = [f"{first}:{x}" if x == bundle.zygote else x for x in bundle.command(*SWRK)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 70
    assert b"creat64 is not ours" in done.stderr


def test_no_cache_no_service(bundle: Bundle) -> None:
    """Without the cache the zygote does not start: its workers would look for one in the container."""
    environment = bundle.environment(CRIU_ZYGOTE_FD="0", CRIU_KDAT="/nowhere")
    done = subprocess.run(bundle.command(*SWRK), env=environment, capture_output=True, check=False)
    assert done.returncode == 78
    assert b"/nowhere" in done.stderr


@pytest.mark.parametrize("kinds", [b"rx", b"x", b"rr", b"dd", b"n", b"m", b"i" * 49])
def test_malformed_requests_are_refused(zygote: Zygote, kinds: bytes) -> None:
    """A kind that is not known, one too many, and a descriptor that is not what its kind says are refused; nothing runs."""
    with socket.socket(socket.AF_UNIX) as some:
        answer = zygote.request(kinds, [some.fileno()] * len(kinds))
    assert (answer.step, answer.pid, answer.pidfd) == (REQUEST, 0, -1)
    assert answer.errno


def test_kinds_without_descriptors_are_refused(zygote: Zygote) -> None:
    """A request with fewer descriptors than kinds is refused."""
    with socket.socket(socket.AF_UNIX) as some:
        assert zygote.request(b"rd", [some.fileno()]).step == REQUEST


def test_a_silent_client_delays_nobody(zygote: Zygote, images: Path) -> None:
    """Clients that connect and say nothing, also more of them than are kept, do not keep others from being served."""
    silent = []
    for _ in range(80):
        silent.append(zygote.connect())
        time.sleep(0.001)  # the socket's own queue has room for 64
    assert zygote.request(b"d", [os.open(images, os.O_RDONLY)]).step == 0
    for one in silent:
        one.close()
    assert zygote.request(b"d", [os.open(images, os.O_RDONLY)]).step == 0


def test_without_descriptors_it_serves_and_rests(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    """When silent clients have taken every descriptor the oldest make room, and nothing is tried over and over."""
    one = Zygote(
        bundle, tmp_path / "few.sock", prefix=("/bin/sh", "-c", 'ulimit -n 72; exec "$@"', "sh")
    )
    try:
        silent = [one.connect() for _ in range(20)]
        directory = os.open(images, os.O_RDONLY)
        answer = one.request(b"d", [directory])
        os.close(directory)
        assert answer.step == 0
        before = cpu_ticks(one.process.pid)
        time.sleep(0.5)
        assert cpu_ticks(one.process.pid) - before < 0.2 * os.sysconf("SC_CLK_TCK")
        assert silent[0].recv(1) == b""  # hung up on
    finally:
        one.close()


def cpu_ticks(pid: int) -> int:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_lost_log_does_not_end_it(bundle: Bundle, tmp_path: Path) -> None:
    """Refusing a request when nobody reads its stderr any more does not end the zygote."""
    read_end, write_end = os.pipe()
    one = Zygote(bundle, tmp_path / "deaf.sock", stderr=write_end)
    os.close(read_end)
    os.close(write_end)
    with socket.socket(socket.AF_UNIX) as some:
        for _ in range(2):
            assert one.request(b"x", [some.fileno()]).step == REQUEST
    one.close()


def test_worker_keeps_nothing_of_the_zygote(
    container: Start, zygote: Zygote, images: Path
) -> None:
    """A waiting worker holds stdio, the rpc socket and the image directory, and is in the container's namespaces."""
    one = container("sleep", "100")
    one.reach("run")
    silent = zygote.connect()
    worker = Worker(zygote, one, images)
    pid = worker.answer.pid
    until(lambda: sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2", "3", "4"])
    assert os.readlink(f"/proc/{pid}/fd/4") == str(images)
    assert Path(f"/proc/{pid}/comm").read_text() == "criu\n"
    for space in ("mnt", "net", "pid"):
        assert os.readlink(f"/proc/{pid}/ns/{space}") == os.readlink(f"/proc/{one.pid}/ns/{space}")
    worker.close()
    silent.close()


def test_zygote_and_worker_are_not_dumpable(bundle: Bundle, tmp_path: Path) -> None:
    """Root with the same capabilities, but for SYS_PTRACE, cannot reach their files through /proc."""
    weaker = (shutil.which("setpriv") or "", "--bounding-set=-sys_ptrace")
    one = Zygote(bundle, tmp_path / "weak.sock", prefix=weaker)
    rpc_socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with rpc_socket, theirs, subprocess.Popen([*weaker, "sleep", "100"]) as other:
        answer = one.request(b"r", [theirs.fileno()])
        reached = {
            pid: subprocess.run(
                [*weaker, "readlink", f"/proc/{pid}/root"], capture_output=True, check=False
            ).returncode
            for pid in (other.pid, one.process.pid, answer.pid)
        }
        other.kill()
    one.close()
    assert reached == {other.pid: 0, one.process.pid: 1, answer.pid: 1}


def test_worker_leaves_no_zombie(container: Start, zygote: Zygote, images: Path) -> None:
    """A worker that ended is gone from the container's pid namespace, so that the container can end."""
    one = container("sleep", "100")
    one.reach("run")
    workers = [Worker(zygote, one, images) for _ in range(5)]
    pids = [worker.answer.pid for worker in workers]
    for worker in workers:
        worker.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    os.kill(one.pid, signal.SIGTERM)
    assert one.end() == 128 + signal.SIGTERM


def test_worker_in_its_cgroup(zygote: Zygote, cgroup: Path) -> None:
    """A worker is in the cgroup whose directory came with the request (v2), or whose cgroup.procs did."""
    for kind, path in ((b"g", cgroup), (b"c", cgroup / "cgroup.procs")):
        fd = os.open(path, os.O_RDONLY if kind == b"g" else os.O_WRONLY)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        answer = zygote.request(b"r" + kind, [theirs.fileno(), fd])
        assert answer.step == 0
        assert str(answer.pid) in (cgroup / "cgroup.procs").read_text().split()
        theirs.close()
        ours.close()
        assert ended(answer.pidfd)
        os.close(fd)
    until(lambda: not (cgroup / "cgroup.procs").read_text())


def test_a_cgroup_that_is_gone_is_an_error(zygote: Zygote, cgroup: Path) -> None:
    """A request for a cgroup that was removed says so, and nothing runs outside of it."""
    directory = os.open(cgroup, os.O_RDONLY)
    with (cgroup / "cgroup.procs").open("w") as procs:
        cgroup.rmdir()
        assert (
            zygote.request(b"g", [directory]).step,
            zygote.request(b"c", [procs.fileno()]).step,
        ) == (3, 4)
    os.close(directory)
    cgroup.mkdir()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """An empty cgroup of the second version."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2"))
    path = top / f"zeropod-test-{os.getpid()}"
    path.mkdir()
    yield path
    until(lambda: not (path / "cgroup.procs").read_text())
    path.rmdir()


def test_a_dead_container_is_an_error(container: Start, zygote: Zygote, images: Path) -> None:
    """The namespaces of a container that has ended give an answer that says what failed, and the zygote serves on."""
    one = container("sleep", "100")
    one.reach("run")
    spaces = [os.open(f"/proc/{one.pid}/ns/{n}", os.O_RDONLY) for n in ("net", "pid")]
    os.kill(one.pid, signal.SIGTERM)
    one.end()
    answer = zygote.request(b"nn", spaces)
    assert answer.step == 3
    assert zygote.request(b"d", [os.open(images, os.O_RDONLY)]).step == 0
