"""Zygotes of earlier bundles."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpointer import cgroups, processes, zygote

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys; print(flush=True); subprocess.run(sys.argv[1:])",
    *SLEEP,
]


@pytest.fixture
def zygotes(tmp_path):
    """The zygotes of bundle `new`, none of them started."""
    bundle = zygote.Bundle(tmp_path, "new", "4.2.1")
    return zygote.Zygotes(bundle, tmp_path, cgroups.Slice(()))


@pytest.fixture
def note(tmp_path):
    """Starts a process and writes it down as a zygote."""
    directory, started = tmp_path / "zygote", []
    directory.mkdir()

    def write(name, argv):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        facts = {"pid": process.pid, "started": processes.start_time(process.pid)}
        (directory / f"{name}.json").write_text(json.dumps(facts))
        Path(directory / f"{name}.sock").touch()
        return process

    yield write
    for process in started:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait()
        process.stdout.close()


def test_a_zygote_of_an_earlier_bundle_is_ended(zygotes, note, tmp_path):
    """With everything that was written down about it."""
    old = note("swrk-old", SLEEP)

    assert zygotes.retire() == [old.pid]
    assert old.wait(10) == -signal.SIGTERM
    assert list((tmp_path / "zygote").iterdir()) == []


def test_our_own_and_those_at_work_are_left_alone(zygotes, note):
    """A drain below an old one goes on."""
    ours, busy = note("swrk-new", SLEEP), note("lazy-old", PARENT)
    busy.stdout.readline()
    while not processes.children(busy.pid):
        pass

    assert zygotes.retire() == []
    assert (ours.poll(), busy.poll()) == (None, None)
