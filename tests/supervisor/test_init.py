"""The supervisor starts an application, forwards, reaps and ends as it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.containers import (
    ARM,
    ASLEEP,
    FREEZE,
    HURRY,
    LISTENER,
    START,
    Container,
    Gate,
    python,
    until,
)

Start = Callable[..., Container]

CATCHABLE = sorted(set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP})


@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status(container: Start, status: int) -> None:
    """The container ends with the application's exit status."""
    assert container("sh", "-c", f"exit {status}").end() == status


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL, 40])
def test_death_by_signal(container: Start, signo: int) -> None:
    """The container of an application that a signal killed ends with 128 and the signal's number."""
    code = f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {int(signo)})"
    assert container(*python(code)).end() == 128 + signo


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["/nowhere/at/all"], 127, "/nowhere/at/all: not found"),
        (["nowhere"], 127, "nowhere: not found"),
        ([""], 127, ": not found"),
        (["/usr"], 126, "/usr: permission denied"),
        (["/tmp/plain"], 126, "/tmp/plain: permission denied"),
        (["/tmp/empty"], 126, "/tmp/empty: exec format error"),
        (["/tmp/plain/x"], 126, "/tmp/plain/x: not a directory"),
    ],
)
def test_cannot_execute(container: Start, argv: list[str], status: int, message: str) -> None:
    """A program that cannot be executed ends the container as a shell has it: 127 not found, 126 otherwise."""
    before = "echo > tmp/plain; : > tmp/empty; chmod 755 tmp/empty"
    one = container(*argv, before=before)
    assert one.end() == status
    assert one.said() == f"zeropod-init: {message}\n"


@pytest.mark.parametrize("argv", [[], ["--"], ["true"], ["-c", "true"], ["true", "--"]])
def test_bad_arguments(container: Start, argv: list[str]) -> None:
    """Anything but `-- PROGRAM ...` is refused with 64 and the usage."""
    one = container(*argv, raw=True)
    assert one.end() == 64
    assert "usage:" in one.said()


def test_not_process_one(build: Callable[..., Path]) -> None:
    """Started as any other process than 1 it refuses with 64."""
    done = subprocess.run(
        [build() / "zeropod-init", "--", "true"], capture_output=True, check=False
    )
    assert done.returncode == 64
    assert b"process 1" in done.stderr


def test_last_path_wins_and_is_searched_in_order(container: Start) -> None:
    """A name without a slash is found in the last PATH, past directories that do not exist or do not let it run."""
    before = (
        "mkdir tmp/a tmp/b tmp/c; echo > tmp/a/thing; echo '#!/bin/sh\necho wrong' > tmp/c/thing;"
        "echo '#!/bin/sh\necho right' > tmp/b/thing; chmod 755 tmp/b/thing tmp/c/thing"
    )
    environment = ["PATH=/tmp/c", "PATH=/nowhere:/tmp/a:/tmp/b:/tmp/c"]
    # Two variables of one name need an execve of our own making.
    code = f"""
        import ctypes
        c = ctypes.CDLL(None)
        strings = lambda *s: (ctypes.c_char_p * (len(s) + 1))(*(x.encode() for x in s), None)
        c.execve(b"/.zeropod/init", strings("/.zeropod/init", "--", "thing"), strings(*{environment!r}))
    """
    one = container(raw=True, before=before, through=python(code))
    assert one.line() == "right"


def test_same_process_attributes(container: Start, tmp_path: Path) -> None:
    """The application gets what a container's process is given, a session of its own, and default signals."""
    code = """
        import ctypes, os, resource, signal, sys
        reaper = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(reaper))
        ignored = [int(s) for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]
        print(sys.argv[1:4], os.environ["COLOUR"], os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE), oct(os.umask(0)))
        print(os.getppid(), os.getsid(0) == os.getpgid(0) == os.getpid(), reaper.value, signal.pthread_sigmask(0, []), ignored)
        print(os.read(int(sys.argv[4]), 10), os.read(0, 10), [n for n in range(99) if os.path.lexists(f"/proc/self/fd/{n}")])
    """
    extra, write_end = os.pipe()
    os.write(write_end, b"more")
    os.close(write_end)
    given = tmp_path / "stdin"
    given.write_text("zero")
    # Ignored signals are inherited; Python itself ignores SIGPIPE (13) and SIGXFSZ (25).
    through = (
        "sh",
        "-c",
        'trap "" CHLD USR2 PIPE; cd /tmp; umask 27; ulimit -n 333; exec "$@"',
        "sh",
    )
    with given.open() as stdin:
        one = container(
            *python(code),
            "a",
            "",
            "b c",
            str(extra),
            through=through,
            stdin=stdin,
            pass_fds=[extra],
            env={**os.environ, "COLOUR": "blue"},
        )
    os.close(extra)
    assert one.line() == "['a', '', 'b c'] blue /tmp (333, 333) 0o27"
    assert one.line() == "1 True 1 set() [13, 25]"
    assert one.line() == f"b'more' b'zero' [0, 1, 2, {extra}]"


def test_holds_nothing_but_stdio(container: Start) -> None:
    """The supervisor closes the other descriptors that it inherited, so that their other ends see the application's end."""
    read_end, write_end = os.pipe()
    one = container("sh", "-c", "echo up; exec sleep 100", pass_fds=[write_end])
    os.close(write_end)
    assert one.line() == "up"
    one.reach("run")
    assert sorted(os.listdir(f"/proc/{one.pid}/fd")) == ["0", "1", "2"]
    os.close(read_end)


def test_a_signal_mask_is_passed_on(container: Start) -> None:
    """A mask that the runtime set is the application's too."""
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [10, 45]); os.execvp(sys.argv[1], sys.argv[1:])"
    one = container(
        *python("import signal; print(sorted(map(int, signal.pthread_sigmask(0, []))))"),
        through=python(block),
    )
    assert one.line() == "[10, 45]"


def test_every_catchable_signal_is_forwarded(container: Start) -> None:
    """Each of the catchable signals reaches the application, the orders' numbers sent from inside included."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    for signo in CATCHABLE:
        if not FREEZE <= signo <= HURRY:
            os.kill(one.pid, signo)
            assert one.line() == str(int(signo))


def test_queued_signals_keep_number_and_order(container: Start) -> None:
    """Real-time signals sent twice arrive twice."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    for _ in range(20):
        os.kill(one.pid, 50)
    assert [one.line() for _ in range(20)] == ["50"] * 20


def test_sigcont_continues_a_stopped_application(container: Start) -> None:
    """A stopped application keeps the container running, and SIGCONT to the container continues it."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    app = one.children[0]
    os.kill(app, signal.SIGSTOP)
    until(lambda: "stopped" in Path(f"/proc/{app}/status").read_text())
    os.kill(one.pid, signal.SIGCONT)
    assert one.line() == str(int(signal.SIGCONT))
    os.kill(one.pid, signal.SIGTSTP)
    assert one.line() == str(int(signal.SIGTSTP))
    assert one.state == "run"


def test_sigterm_before_the_application_is_up(container: Start) -> None:
    """SIGTERM sent while the application's program is still being executed ends the container with 143."""
    gates = []

    def prepare(own: Path) -> None:
        program = own / "program"
        program.write_bytes(Path("/bin/sleep").read_bytes())
        program.chmod(0o755)
        gates.append(Gate(program, Gate.EXECUTE))

    one = container("/.zeropod/program", "100", prepare=prepare)
    events = gates[0].wait(5)
    assert len(events) == 1
    assert one.state == "init"
    os.kill(one.pid, signal.SIGTERM)
    gates[0].answer(events[0], Gate.ALLOW)
    assert one.end() == 128 + signal.SIGTERM
    gates[0].close()


def test_a_storm_of_orphans(container: Start) -> None:
    """Ten thousand orphans at once are all reaped, and a signal in the midst of them is forwarded at once."""

    def prepare(own: Path) -> None:
        source = Path(__file__).with_name("storm.c")
        subprocess.run(
            ["gcc", "-static", "-Wall", "-Werror", "-o", own / "storm", source], check=True
        )

    one = container("/.zeropod/storm", prepare=prepare)
    assert one.line(60) == "ready"
    assert len(one.children) == 10_001
    os.kill(one.children[0], signal.SIGUSR1)
    os.kill(one.pid, signal.SIGUSR2)
    assert one.line(5) == str(int(signal.SIGUSR2))
    until(lambda: len(one.children) == 1, 30)
    assert one.state == "run"


def test_daemonised_grandchild_stays_in_the_tree(container: Start) -> None:
    """A daemonised process becomes the application's child, where a checkpoint finds it, and not the supervisor's."""
    one = container("sh", "-c", "(setsid sleep 100 & echo $!); exec sleep 100")
    assert one.line()
    one.reach("run")
    assert len(one.children) == 1
    app = one.children[0]
    until(lambda: Path(f"/proc/{app}/task/{app}/children").read_text().split())


def test_private_memory(container: Start) -> None:
    """The supervisor has less than 40 KB to itself, in a whole life of states too."""
    one = container("sleep", "100")
    one.reach("run")
    first = _private(one.pid)
    one.order(ARM, "armed")
    os.kill(one.children[0], signal.SIGKILL)
    one.order(ASLEEP, "asleep")
    os.kill(one.pid, signal.SIGURG)
    one.order(START, "run")
    assert first < 40
    assert _private(one.pid) < 40


def _private(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(kb) for kb in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE)
    )


HARDENED = (
    *("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
)


def test_hardened(container: Start) -> None:
    """As uid 1000 without any capability, with no_new_privs, a read-only root and no /proc: runs, forwards, goes to sleep."""
    one = container(
        *python(LISTENER), before="umount /proc; mount -o remount,ro /", through=HARDENED
    )
    assert one.line() == "ready"
    one.reach("run")
    status = Path(f"/proc/{one.children[0]}/status").read_text()
    for fact in (
        "Uid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ):
        assert fact in status
    os.kill(one.pid, signal.SIGHUP)
    assert one.line() == str(int(signal.SIGHUP))
    one.order(ARM, "armed")
    os.kill(one.children[0], signal.SIGKILL)
    one.order(ASLEEP, "asleep")
    one.order(START, "run")
    assert one.line() == "ready"


def test_the_list_of_system_calls_is_true() -> None:
    """The calls that the source lists for seccomp profiles are those that it makes."""
    source = (Path(__file__).parents[2] / "supervisor" / "zeropod-init.c").read_text()
    listed = re.search(r"^// System calls,[^:]*: ((?:.*\n//)*? .*?)\.", source, re.MULTILINE)
    assert listed
    names = set(re.findall(r"\w+", listed[1].replace("//", "")))
    assert names == set(re.findall(r"\bCALL\((\w+), ", source)) - {"n"}


def test_same_bytes_from_anywhere(build: Callable[..., Path], tmp_path: Path) -> None:
    """Built twice, in different directories, the programs are the same."""
    sources = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", Path(__file__).parents[2] / "supervisor", sources], check=True)
    subprocess.run(["make", "-s", "-C", sources, f"OUT={tmp_path / 'out'}"], check=True)
    for name in ("zeropod-init", "zygote.so"):
        assert (build() / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
