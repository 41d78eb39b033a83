"""Applications that are ended or frozen instead of dumped, and started or thawed again."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.containers import (
    ARM,
    ASLEEP,
    END,
    FREEZE,
    HURRY,
    RESUME,
    START,
    STOPS,
    Container,
    Gate,
    python,
)

Start = Callable[..., Container]

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
