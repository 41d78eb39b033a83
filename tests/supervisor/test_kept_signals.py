"""Signals to a container that is armed or asleep: kept for the application, or the end of the container."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from supervisor.containers import (
    ARM,
    HURRY,
    RESUME,
    START,
    STOPS,
    Container,
    Gate,
    put_to_sleep,
    until,
)


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
