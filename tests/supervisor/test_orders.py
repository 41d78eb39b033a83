"""The supervisor's states: what the daemon orders, and what nobody else can."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.containers import (
    ARM,
    ASLEEP,
    END,
    FAIL,
    FREEZE,
    HURRY,
    LISTENER,
    RESUME,
    START,
    Container,
    Gate,
    python,
    until,
)

Start = Callable[..., Container]


@pytest.fixture
def listener(container: Start) -> Container:
    """A container whose application prints the signals that it gets. Its lease is one second."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    return one


def put_to_sleep(one: Container) -> None:
    """What the daemon and criu do, without an image."""
    one.order(ARM, "armed")
    os.kill(one.children[0], signal.SIGKILL)
    one.order(ASLEEP, "asleep")


@pytest.fixture
def gate(listener: Container) -> Iterator[Gate]:
    """The daemon's mark on the wake file of a container that was put to sleep."""
    one = Gate(listener.wake, Gate.OPEN)
    put_to_sleep(listener)
    yield one
    one.close()


def test_the_lease_runs_out(listener: Container) -> None:
    """Armed and forgotten, with the application alive, the container is back in run after the lease."""
    begun = time.monotonic()
    listener.order(ARM, "armed")
    listener.reach("run")
    assert time.monotonic() - begun > 0.8
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def test_arm_renews_the_lease(listener: Container) -> None:
    """ARM while armed starts the lease again."""
    listener.order(ARM, "armed")
    for _ in range(4):
        time.sleep(0.5)
        assert listener.state == "armed"
        os.kill(listener.pid, ARM)


def test_sigkill_while_armed_stays_armed(listener: Container) -> None:
    """An application killed by SIGKILL while armed leaves the container armed, also after the lease."""
    listener.order(ARM, "armed")
    os.kill(listener.children[0], signal.SIGKILL)
    until(lambda: not listener.children)
    time.sleep(1.5)
    assert listener.state == "armed"


@pytest.mark.parametrize(
    ("how", "status"), [("os._exit(0)", 0), ("os._exit(9)", 9), ("os.abort()", 134)]
)
def test_other_deaths_while_armed_end_the_container(
    container: Start, how: str, status: int
) -> None:
    """An exit, or a death by another signal than SIGKILL, ends the container with its status although it is armed."""
    code = f"import os, signal; signal.pthread_sigmask(0, [10]); print('ready'); signal.sigwait([10]); {how}"
    one = container(*python(code))
    assert one.line() == "ready"
    one.order(ARM, "armed")
    os.kill(one.children[0], signal.SIGUSR1)
    assert one.end() == status


def test_resume_of_a_living_application(listener: Container) -> None:
    """RESUME after a checkpoint that was called off: run again, and an exit counts again."""
    listener.order(ARM, "armed")
    listener.order(RESUME, "run")
    time.sleep(1.2)
    os.kill(listener.children[0], signal.SIGTERM)
    assert listener.line() == "15"
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def test_resume_when_killed_and_not_back(listener: Container) -> None:
    """RESUME of an armed container whose application was killed and never came back ends it with 137."""
    listener.order(ARM, "armed")
    os.kill(listener.children[0], signal.SIGKILL)
    until(lambda: not listener.children)
    os.kill(listener.pid, RESUME)
    assert listener.end() == 137


def test_resume_asleep_without_a_restore(listener: Container) -> None:
    """RESUME of a sleeping container without an application ends it with 71: the status of the sleep was forgotten."""
    put_to_sleep(listener)
    os.kill(listener.pid, RESUME)
    assert listener.end() == 71
    assert "did not come back" in listener.said()


@pytest.mark.parametrize("state", ["armed", "asleep"])
def test_fail(listener: Container, state: str) -> None:
    """FAIL ends the container with 71."""
    listener.order(ARM, "armed")
    if state == "asleep":
        os.kill(listener.children[0], signal.SIGKILL)
        listener.order(ASLEEP, "asleep")
    os.kill(listener.pid, FAIL)
    assert listener.end() == 71


def test_start_afresh(listener: Container) -> None:
    """START of a sleeping container starts the application anew, and its status counts."""
    put_to_sleep(listener)
    listener.order(START, "run")
    assert listener.line() == "ready"
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.line() == "15"
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def test_asleep_waits_for_the_death(container: Start) -> None:
    """ASLEEP before the application's death has been seen is obeyed when it is; without a death the lease ends it."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    one.order(ARM, "armed")
    os.kill(one.pid, ASLEEP)
    time.sleep(0.1)
    assert one.state == "armed"
    os.kill(one.children[0], signal.SIGKILL)
    one.reach("asleep")
    one.order(START, "run")
    assert one.line() == "ready"
    one.order(ARM, "armed")
    os.kill(one.pid, ASLEEP)
    one.reach("run")
    os.kill(one.children[0], signal.SIGKILL)
    assert one.end() == 137


@pytest.mark.parametrize("order", [ASLEEP, RESUME, START, HURRY])
def test_orders_out_of_turn_do_nothing(listener: Container, order: int) -> None:
    """ASLEEP, RESUME, START and HURRY of a running container change nothing."""
    app = listener.children
    os.kill(listener.pid, order)
    os.kill(listener.pid, signal.SIGUSR1)
    assert listener.line() == "10"
    assert (listener.state, listener.children) == ("run", app)


def test_orders_from_inside_are_not_believed(container: Start) -> None:
    """The orders' signals sent from inside, by kill, sigqueue and with forged senders, are the application's like any other."""
    code = """
        import ctypes, os, signal, struct
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        c = ctypes.CDLL(None, use_errno=True)
        print("ready")
        signal.sigwait([signal.SIGUSR1])
        for order in range(57, 65):
            os.kill(1, order)
            print(int(signal.sigwaitinfo(everything).si_signo))
            for code in (0, -1, -2, -3, -6, 0x80):  # SI_USER, QUEUE, TIMER, MESGQ, TKILL, KERNEL, from pid 0
                forged = ctypes.create_string_buffer(struct.pack("=iiiiiI", order, 0, code, 0, 0, 0), 128)
                if c.syscall(129, 1, order, forged) == 0:  # rt_sigqueueinfo
                    print(code, int(signal.sigwaitinfo(everything).si_signo))
                else:
                    print(code, "refused")
        signal.sigwait([signal.SIGUSR1])
    """
    if os.uname().machine == "aarch64":
        code = code.replace("syscall(129", "syscall(138")
    one = container(*python(code))
    assert one.line() == "ready"
    one.reach("run")
    os.kill(one.children[0], signal.SIGUSR1)
    for order in range(FREEZE, HURRY + 1):
        assert one.line() == str(order)
        assert one.line() == "0 refused"
        for queued in (-1, -2, -3):
            assert one.line() == f"{queued} {order}"
        assert one.line() == "-6 refused"
        assert one.line() == "128 refused"
        assert one.state == "run"


def test_only_root_outside_is_believed(listener: Container) -> None:
    """A process outside with another uid that may signal the supervisor cannot give orders."""
    pid = listener.pid
    child = os.fork()
    if child == 0:
        os.setresuid(1000, 0, 1000)  # effective root may send; the kernel reports the real uid
        os.kill(pid, FAIL)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert listener.line() == str(FAIL)
    assert listener.state == "run"


def test_signals_while_armed_reach_the_application(listener: Container) -> None:
    """A signal sent while a checkpoint is taken is kept from the application until that is over."""
    app = listener.children[0]
    listener.order(ARM, "armed")
    os.kill(app, signal.SIGSTOP)
    until(lambda: "stopped" in Path(f"/proc/{app}/status").read_text())
    for signo in (signal.SIGHUP, 50, 50):
        os.kill(listener.pid, signo)
    pending = re.findall(
        r"^ShdPnd:\s+(\w+)", Path(f"/proc/{app}/status").read_text(), re.MULTILINE
    )
    assert int(pending[0], 16) == 0
    os.kill(app, signal.SIGCONT)
    assert listener.line() == "18"
    listener.order(RESUME, "run")
    assert [listener.line() for _ in range(3)] == ["1", "50", "50"]


def test_sigterm_asleep_with_nobody_listening(listener: Container) -> None:
    """SIGTERM to a sleeping container that nobody would wake ends it with 0."""
    put_to_sleep(listener)
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.end() == 0


def test_other_signals_asleep_with_nobody_listening(listener: Container) -> None:
    """Other signals than SIGTERM wait for the application, each as often as it was sent."""
    put_to_sleep(listener)
    for signo in (signal.SIGHUP, 45, 45, 45):
        os.kill(listener.pid, signo)
    time.sleep(0.1)
    assert listener.state == "asleep"
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.end() == 0


def test_sigterm_asleep_wakes_first(gate: Gate, listener: Container) -> None:
    """SIGTERM to a sleeping container asks for a wake, waits for it, and is delivered after it."""
    os.kill(listener.pid, signal.SIGTERM)
    gate.expect(Gate.DENY)
    time.sleep(0.1)
    assert listener.state == "asleep"
    os.kill(listener.pid, START)  # stands for the restore; what was kept kills the new application
    assert listener.end() == 128 + signal.SIGTERM


def test_asks_again(gate: Gate, listener: Container) -> None:
    """A daemon that died after it heard is asked again; gone altogether, SIGTERM ends the container with 0."""
    begun = time.monotonic()
    os.kill(listener.pid, signal.SIGTERM)
    gate.expect(Gate.DENY)
    gate.expect(Gate.DENY)
    assert time.monotonic() - begun > 0.5
    assert listener.state == "asleep"
    gate.expect(Gate.ALLOW)
    assert listener.end() == 0


def test_a_kept_signal_asks_once_each(gate: Gate, listener: Container) -> None:
    """Any signal asks for a wake, a later one at once."""
    os.kill(listener.pid, signal.SIGHUP)
    gate.expect(Gate.DENY)
    os.kill(listener.pid, signal.SIGTERM)
    gate.expect(Gate.DENY, 0.5)
    assert listener.state == "asleep"


def test_killed_while_armed_and_forgotten(listener: Container) -> None:
    """SIGTERM to an armed container whose daemon never came back is answered once the lease is over."""
    listener.order(ARM, "armed")
    os.kill(listener.children[0], signal.SIGKILL)
    os.kill(listener.pid, signal.SIGTERM)
    time.sleep(0.3)
    assert listener.state == "armed"
    assert listener.end() == 0


STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH]


@pytest.mark.parametrize("signo", STOPS)
def test_any_stop_signal_with_nobody_listening(listener: Container, signo: int) -> None:
    """What images name as StopSignal ends a sleeping container that nobody would wake with 0, as SIGTERM does."""
    put_to_sleep(listener)
    os.kill(listener.pid, signo)
    assert listener.end() == 0


@pytest.mark.parametrize("signo", STOPS)
def test_in_a_hurry_a_stop_asks_nobody(listener: Container, signo: int) -> None:
    """After HURRY a stop signal ends a sleeping container with 0, although somebody would wake it."""
    gate = Gate(listener.wake, Gate.OPEN)
    os.kill(listener.pid, HURRY)
    put_to_sleep(listener)
    os.kill(listener.pid, signo)
    assert listener.end() == 0
    assert not gate.wait(0)
    gate.close()


def test_a_hurry_after_the_stop(gate: Gate, listener: Container) -> None:
    """HURRY ends the container also if the stop came first and somebody is about to wake it."""
    os.kill(listener.pid, signal.SIGTERM)
    gate.expect(Gate.DENY)
    os.kill(listener.pid, HURRY)
    assert listener.end() == 0


def test_a_hurry_is_remembered(listener: Container) -> None:
    """HURRY once, at any time, holds for every sleep after it; awake a stop is the application's as ever."""
    os.kill(listener.pid, HURRY)
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.line() == "15"
    gate = Gate(listener.wake, Gate.OPEN)
    for _ in range(2):
        put_to_sleep(listener)
        listener.order(START, "run")
        assert listener.line() == "ready"
    put_to_sleep(listener)
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.end() == 0
    assert not gate.wait(0)
    gate.close()


def test_in_a_hurry_other_signals_still_wake(gate: Gate, listener: Container) -> None:
    """A signal that is no stop asks for a wake as ever."""
    os.kill(listener.pid, HURRY)
    os.kill(listener.pid, signal.SIGHUP)
    gate.expect(Gate.DENY)
    assert listener.state == "asleep"


# Ends with 3 on SIGTERM; says what it was started as.
ENDING = """
    import os, resource, signal, sys
    signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    facts = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk SigIgn SigCgt".split()
    links = [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]
    print(sys.argv, sorted(os.environ.items()), os.getcwd(), [status[f].strip() for f in facts], os.getsid(0) == os.getpid(),
          [resource.getrlimit(n) for n in range(16)], os.umask(0), os.nice(0), links, sorted(os.listdir("/proc/self/fd")))
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_an_application_that_was_to_end(container: Start, how: int) -> None:
    """After END its death, by an exit or any signal, makes the container off; START makes a new one, whose end counts."""
    one = container(*python(ENDING))
    said = one.line()
    one.order(END, "ending")
    os.kill(one.children[0], how)
    one.reach("off")
    assert one.children == []
    one.order(START, "run")
    assert one.line() == said
    os.kill(one.pid, signal.SIGTERM)
    assert one.end() == 3


def test_started_afresh_as_at_first(container: Start) -> None:
    """A new application has the arguments, environment, directory, rights, limits, mask, session and files of the first."""
    through = [
        *("prlimit", "--nofile=500:600", "--core=0:0"),
        *(
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--groups=5,6",
            "--inh-caps=-all,+net_raw,+chown",
        ),
        *(
            "--ambient-caps=-all,+net_raw",
            "--bounding-set=-all,+net_raw,+chown",
            "--securebits=+noroot,+noroot_locked",
        ),
        "--no-new-privs",
    ]
    one = container(
        *python(ENDING), before="cd /tmp; umask 0027; export COLOUR='a b'", through=through
    )
    first = one.line()
    for fact in ("COLOUR", "1000", "/tmp", "(500, 600)", "0000000000002000"):
        assert fact in first
    for _ in range(3):
        one.order(END, "ending")
        os.kill(one.children[0], signal.SIGTERM)
        one.reach("off")
        one.order(START, "run")
        assert one.line() == first


def test_an_application_that_does_not_end(listener: Container) -> None:
    """END of an application that stays alive is over after the lease, which END renews; then its end counts again."""
    begun = time.monotonic()
    listener.order(END, "ending")
    time.sleep(0.5)
    os.kill(listener.pid, END)
    listener.reach("run")
    assert time.monotonic() - begun > 1.3
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def test_an_end_that_was_called_off(listener: Container) -> None:
    """RESUME of an ending container with a living application: run again, and what was sent meanwhile arrives."""
    listener.order(END, "ending")
    os.kill(listener.pid, signal.SIGHUP)
    listener.order(RESUME, "run")
    assert listener.line() == "1"
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def be_off(one: Container) -> None:
    """What the daemon does to end the application."""
    one.order(END, "ending")
    os.kill(one.children[0], signal.SIGKILL)
    one.reach("off")


@pytest.mark.parametrize("signo", STOPS)
def test_a_stop_when_off(listener: Container, signo: int) -> None:
    """A stop signal ends a container that is off with 0: nobody is started only to be shut down."""
    gate = Gate(listener.wake, Gate.OPEN)
    be_off(listener)
    os.kill(listener.pid, signo)
    assert listener.end() == 0
    assert not gate.wait(0)
    gate.close()


def test_other_signals_when_off(listener: Container) -> None:
    """Signals that are no stop are nobody's when the container is off; the next application does not get them."""
    gate = Gate(listener.wake, Gate.OPEN)
    be_off(listener)
    for signo in (signal.SIGHUP, signal.SIGUSR1, 45):
        os.kill(listener.pid, signo)
    time.sleep(0.1)
    assert not gate.wait(0)
    gate.close()
    listener.order(START, "run")
    assert listener.line() == "ready"
    os.kill(listener.pid, signal.SIGUSR2)
    assert listener.line() == "12"


def test_a_stop_while_ending(listener: Container) -> None:
    """A stop signal that comes while the application ends takes the container with it, with 0."""
    listener.order(END, "ending")
    os.kill(listener.pid, signal.SIGTERM)
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 0


@pytest.mark.parametrize("order", [FREEZE, END, ARM, ASLEEP, RESUME])
def test_orders_out_of_turn_when_off(listener: Container, order: int) -> None:
    """Off, only START, FAIL and HURRY mean something."""
    be_off(listener)
    os.kill(listener.pid, order)
    time.sleep(0.05)
    assert listener.state == "off"
    listener.order(START, "run")
    assert listener.line() == "ready"


def test_frozen_keeps_signals(listener: Container) -> None:
    """Frozen, signals wait and ask for a wake; after RESUME they arrive, and an end counts again."""
    gate = Gate(listener.wake, Gate.OPEN)
    listener.order(FREEZE, "frozen")
    app = listener.children[0]
    os.kill(listener.pid, signal.SIGTERM)
    gate.expect(Gate.DENY)
    pending = re.findall(
        r"^ShdPnd:\s+(\w+)", Path(f"/proc/{app}/status").read_text(), re.MULTILINE
    )
    assert int(pending[0], 16) == 0
    gate.close()
    listener.order(RESUME, "run")
    assert listener.line() == "15"
    os.kill(app, signal.SIGKILL)
    assert listener.end() == 137


@pytest.mark.parametrize("hurry", [False, True])
def test_a_stop_when_frozen_and_nobody_thaws(listener: Container, hurry: bool) -> None:
    """A stop signal ends a frozen container with 0 when nobody listens, or when it was told to hurry."""
    gate = Gate(listener.wake, Gate.OPEN)
    if hurry:
        os.kill(listener.pid, HURRY)
    else:
        gate.close()
    listener.order(FREEZE, "frozen")
    os.kill(listener.pid, signal.SIGTERM)
    assert listener.end() == 0
    if hurry:
        gate.close()


def test_a_death_when_frozen(listener: Container) -> None:
    """An application that is killed while frozen, as the kernel does when memory is out, ends the container."""
    listener.order(FREEZE, "frozen")
    os.kill(listener.children[0], signal.SIGKILL)
    assert listener.end() == 137


def test_real_lease(container: Start) -> None:
    """As it is shipped the lease is longer than any test waits."""
    one = container("sleep", "100", definitions="")
    one.reach("run")
    one.order(ARM, "armed")
    time.sleep(1.5)
    assert one.state == "armed"


def test_a_storm_while_going_to_sleep(container: Start) -> None:
    """Orders are obeyed in the midst of a storm of orphans."""
    code = """
        import ctypes, os
        ctypes.CDLL(None).prctl(36, 0)
        print("ready")
        while True:
            if os.fork() == 0:
                for _ in range(50):
                    if os.fork() == 0:
                        os._exit(0)
                os._exit(0)
            os.wait()
    """
    one = container(*python(code))
    assert one.line() == "ready"
    one.reach("run")
    for _ in range(20):
        one.order(ARM, "armed")
        one.order(RESUME, "run")
