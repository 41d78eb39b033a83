"""Standard input, attach, exec, port-forward and the log's rotation: awake, over a sleep, and after the wake."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.streams import DATA, STDERR, Stream

from dev import cri

Pods = Callable[..., cri.Pod]

#: Says what it reads from its standard input.
HEARER = """
def hear():
    for line in sys.stdin:
        print("heard", line.strip(), flush=True)
    print("end of input", flush=True)
threading.Thread(target=hear, daemon=True).start()
"""


@pytest.mark.both
def test_attach(pods: Pods) -> None:
    """What is typed arrives and what is said is shown: in a session from before the sleep as in a new one."""
    one = sleepers.python(pods, HEARER, stdin=True)
    with Stream.attach(one.container, stdin=True) as before:
        before.send(b"awake\n")
        assert before.line() == "heard awake"
        one.sleep()
        one.ask("1")
        before.send(b"after\n")
        assert before.line() == "heard after"
        with Stream.attach(one.container, stdin=True) as new:
            new.send(b"new\n")
            assert new.line() == before.line() == "heard new"
            one.ask("print('error', file=sys.stderr, flush=True)")
            assert new.line(STDERR) == before.line(STDERR) == "error"
    assert "heard after\nheard new" in one.container.logs("stdout")
    one.unharmed()


def test_input_waits_for_the_wake(pods: Pods) -> None:
    """Lines that are typed while it sleeps do not wake it, and none is lost."""
    one = sleepers.python(pods, HEARER, stdin=True)
    one.sleep()
    with Stream.attach(one.container, stdin=True) as session:
        for number in range(100):
            session.send(b"line %d\n" % number)
        time.sleep(0.5)
        assert one.state == "ASLEEP"
        one.ask("1")
        for number in range(100):
            assert session.line() == f"heard line {number}"
    # The application's input is not that of one session.
    assert "end of input" not in one.container.logs()
    one.unharmed()


def test_attaching_does_not_wake(pods: Pods) -> None:
    """To look on is no reason to wake; the session shows what is said later."""
    one = sleepers.python(pods)
    one.sleep()
    with Stream.attach(one.container) as session:
        time.sleep(0.5)
        assert one.state == "ASLEEP"
        one.ask("print('good morning', flush=True)")
        assert session.line() == "good morning"
        assert not session.ended


@pytest.mark.both
def test_port_forward(pods: Pods) -> None:
    """A forwarded connection is served awake, is kept over a sleep, and wakes as the first of a new day."""
    one = sleepers.python(pods)
    with Stream.forward(one.container.pod, sleepers.PORT) as kept:
        kept.send(b"memory.update(a=1)\n", DATA)
        assert kept.line(DATA) == "null"
        one.sleep()
        kept.send(b"memory['a']\n", DATA)
        assert kept.line(DATA) == "1"
        assert one.reach("RUNNING")["wake_cause"] == "tcp-data"
        one.sleep()
        with Stream.forward(one.container.pod, sleepers.PORT) as new:
            new.send(b"memory['a'] + 1\n", DATA)
            assert new.line(DATA) == "2"
        assert one.reach("RUNNING")["wake_cause"] == "tcp-connect"
        kept.send(b"memory['a'] + 2\n", DATA)
        assert kept.line(DATA) == "3"
    one.unharmed()


def test_interactive_exec(pods: Pods) -> None:
    """A shell in a sleeping container wakes it, keeps it awake, and takes and says lines as long as it is open."""
    one = sleepers.python(pods, "open('/data/secret', 'w').write('kept')", scaledown="1s")
    one.reach("ASLEEP")
    with Stream.exec(one.container, "sh") as shell:
        shell.send(b"cat /data/secret; echo\n")
        assert shell.line() == "kept"
        assert one.reach("RUNNING")["wake_cause"] == "exec"
        cri.until(lambda: "exec session" in one.why(), 30)
        time.sleep(2)
        assert one.state == "RUNNING"
        shell.send(b"echo $((40 + 2)) >&2\n")
        assert shell.line(STDERR) == "42"
        shell.send(b"exit\n")
        cri.until(lambda: shell.ended, 30)
    one.reach("ASLEEP")
    assert one.ask("1") == 1


def test_log_rotation(pods: Pods) -> None:
    """A log that is rotated awake, asleep and after the wake loses no line and has none twice."""
    one = sleepers.python(pods)
    log = Path(one.container.status().log_path)
    kept = []

    def rotate() -> None:
        old = log.with_suffix(f".{len(kept)}")
        log.rename(old)
        one.container.reopen_log()
        kept.append(old)

    number = 0
    for _ in range(2):
        one.ask(f"print('line {number}', flush=True)")
        rotate()
        one.ask(f"print('line {number + 1}', flush=True)")
        one.sleep()
        rotate()
        one.ask(f"print('line {number + 2}', flush=True)")
        number += 3
    cri.until(lambda: f"line {number - 1}" in log.read_text(), 30)
    lines = [
        line.split(" ", 3)[3] for path in (*kept, log) for line in path.read_text().splitlines()
    ]
    assert lines == ["up", *(f"line {count}" for count in range(number))]
    one.unharmed()
