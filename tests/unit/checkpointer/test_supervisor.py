"""What the daemon believes of a supervisor, against what the supervisor's source says."""

import os
import re
from pathlib import Path

import pytest

from checkpointer import errors
from checkpointer.supervisor import Signal, State, Supervisor, orders

SOURCE = (Path(__file__).parents[3] / "supervisor/zeropod-init.c").read_text()


def test_the_orders_are_those_of_the_source():
    """Names and numbers."""
    enum = re.search(r"enum \{ (FREEZE.*) LAST_SIGNAL", SOURCE)[1]
    numbers = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", enum)}

    assert numbers == {order.name: int(order) for order in Signal}


def test_the_states_are_those_of_the_source():
    """What it publishes is what we read, and fits into a process name."""
    published = set(re.findall(r'"(zeropod:\w+)"', SOURCE))

    assert published == {state.value for state in State if state.value}
    assert max(map(len, published)) <= 15


def test_its_program_says_which_orders_it_takes():
    """One that says nothing is of the first version."""
    line = re.search(r'orders\[\].*"(.*)"', SOURCE)[1]

    assert orders(line.encode()) == range(min(Signal), max(Signal) + 1)
    assert orders(b"\x7fELF") == range(59, 64)


def test_what_it_does_not_know_is_not_ordered():
    """It would give the signal to the application, which would die of it."""
    stranger = Supervisor(os.getpid())

    assert not stranger.takes(Signal.HURRY)
    assert stranger.takes(Signal.ARM)
    with pytest.raises(errors.SupervisorError, match="restart the pod"):
        stranger.hurry()
