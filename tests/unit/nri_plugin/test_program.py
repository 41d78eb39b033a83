"""Flags and logs."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from nri_plugin import __main__ as program
from nri_plugin import log, settings


def test_without_flags_the_settings_are_the_defaults():
    """Every field has a flag, every flag its field's default."""
    assert program.parse([]) == settings.Settings()


def test_flags_become_settings():
    """Paths become paths, text stays text."""
    flags = ["--nri-socket", "/n", "--daemon-socket=/d", "--container-dir", "/c", "--index", "05"]
    found = program.parse([*flags, "--log-format", "json"])
    assert found.nri_socket == pathlib.Path("/n")
    assert found.daemon_socket == pathlib.Path("/d")
    assert found.container_dir == pathlib.Path("/c")
    assert (found.index, found.log_format) == ("05", "json")


@pytest.mark.parametrize("flags", [["--index", "7"], ["--index", "abc"], ["--log-format", "xml"]])
def test_wrong_values_are_refused_with_status_2(flags, capsys):
    """NRI would refuse them later, with less to say."""
    with pytest.raises(SystemExit) as caught:
        program.parse(flags)
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_every_flag_explains_itself(capsys):
    """The help is the settings' own documentation."""
    with pytest.raises(SystemExit):
        program.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "bound read-only into managed containers" in shown.replace("read- only", "read-only")
    assert shown.count("(default:") == len(settings.Settings.__slots__)


def record(**fields):
    made = logging.makeLogRecord({"msg": "container.injected", "levelname": "INFO", **fields})
    made.created, made.msecs = 1_700_000_000.123, 123
    return made


def test_text_is_one_line_of_pairs():
    """Values that could be mistaken for more than one are quoted."""
    fields = {"pod": "ns/web", "ms": 1.25, "reason": 'it said "no"\nand left', "nri": ""}
    assert log.Text().format(record(**fields)) == (
        "22:13:20.123 info container.injected pod=ns/web ms=1.2 "
        'reason="it said \\"no\\"\\nand left" nri=""'
    )


def test_json_is_one_object():
    """Time, level and event come first, then the event's own fields."""
    line = log.Json().format(record(pod="ns/web", ms=1.25, path=pathlib.Path("/x")))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "level": "info",
        "event": "container.injected",
        "pod": "ns/web",
        "ms": 1.25,
        "path": "/x",
    }
    assert "\n" not in line


@pytest.mark.parametrize("formatter", [log.Text(), log.Json()])
def test_tracebacks_are_kept(formatter):
    """What went wrong can be found from the log alone."""
    try:
        raise KeyError("lost")
    except KeyError as error:
        made = record(exc_info=(KeyError, error, error.__traceback__))
    assert "KeyError: 'lost'" in formatter.format(made)


def test_sigterm_ends_it_at_once_with_success(tmp_path):
    """Also while neither runtime nor daemon are there; what it did until then is in its log."""
    flags = ["--nri-socket", tmp_path / "n", "--daemon-socket", tmp_path / "d"]
    command = [sys.executable, "-m", "nri_plugin", *flags, "--log-format", "json"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    first = json.loads(running.stderr.readline())
    assert first["event"] == "nri.unavailable"
    assert str(tmp_path / "n") in first["reason"]
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=10)
    assert (running.returncode, errors) == (0, "")
