"""The supervisor's states: what the daemon orders, and what nobody else can."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from supervisor.containers import (
    ARM,
    ASLEEP,
    FAIL,
    FREEZE,
    HURRY,
    LISTENER,
    RESUME,
    START,
    Container,
    put_to_sleep,
    python,
    until,
)

Start = Callable[..., Container]


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
    for _ in range(10):
        time.sleep(0.2)
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
