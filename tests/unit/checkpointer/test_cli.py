"""The command line without a daemon."""

import argparse

import pytest

from checkpointer import api, cli, tables


def test_without_a_daemon_it_says_what_to_check_and_exits_4(tmp_path, capsys):
    """A distinct exit code for programs, a hint for people."""
    assert cli.main(["list", "--socket", str(tmp_path / "none.sock")]) == cli.NO_DAEMON
    assert "is the zeropod daemon running" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--socket", "{}", "list"], ["list", "--socket", "{}"]])
def test_the_socket_may_be_named_on_either_side_of_the_command(words, tmp_path, capsys):
    """Where nobody listens it is named in the message, so it was the one that was tried."""
    wanted = str(tmp_path / "nobody")

    assert cli.main([word.format(wanted) for word in words]) == 4
    assert wanted in capsys.readouterr().err


def test_what_does_not_wake_before_an_uninstallation_is_named(capsys):
    """With why, and an exit code that stops what comes next."""
    answers = [
        api.m.Info(namespace="n", pod="a", container="c", state="RUNNING"),
        api.m.Info(namespace="n", pod="b", container="c", state="WAKING", reason="no memory"),
    ]
    asked = []

    def call(method, request, _, timeout):
        asked.append((method, request.timeout, timeout > request.timeout))
        return api.m.Infos(containers=answers)

    call = _beside(call, api.m.Status())
    args = argparse.Namespace(timeout=7.0)
    assert cli.Cli(call, as_json=False).retire(args) == cli.FAILED
    assert asked == [("Retire", 7.0, True)]
    assert capsys.readouterr().out == (
        "n/b/c is WAKING: no memory\n1 of 2 containers are awake and stay so\n"
    )
    answers.pop()
    assert cli.Cli(call, as_json=False).retire(args) == cli.DONE


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (api.m.Status(api={"status-labels": ""}), ""),
        (api.m.Status(api={"status-labels": ""}, api_pending=2), "it does not answer"),
        (api.m.Status(api={"in-place-scaling": "denied"}), "in-place-scaling cannot be done"),
    ],
)
def test_what_would_stay_in_the_cluster_is_told_before_an_uninstallation(status, said, capsys):
    """Nobody is there later to take labels away and to give requests back."""
    call = _beside(lambda *_, **__: api.m.Infos(), status)
    args = argparse.Namespace(timeout=7.0)
    assert cli.Cli(call, as_json=False).retire(args) == cli.DONE
    out = capsys.readouterr().out
    assert said in out
    assert ("Kubernetes API" in out) is bool(said)


def _beside(call, status):
    def either(method, request, answer, **more):
        return status if method == "Status" else call(method, request, answer, **more)

    return either


@pytest.mark.parametrize("bad", ["a/b/c/d", "a//b", ""])
def test_a_malformed_reference_is_wrong_usage(bad, capsys):
    """Exit code 2 and the form that is right."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["why", bad])

    assert stopped.value.code == cli.USAGE
    assert "NAMESPACE/POD" in capsys.readouterr().err


def test_columns_are_as_wide_as_their_widest_cell():
    """And lines have no trailing blanks."""
    assert tables.table(("A", "B"), [("x", "yy"), ("long", "")]) == "A      B\nx      yy\nlong"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "-"), (999, "999B"), (14_200_000, "14.2MB"), (3_000_000_000, "3.0GB")]
)
def test_sizes_are_in_si_units(count, text):
    """As `kubectl` users read them."""
    assert tables.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (125, "2m5s"), (7500, "2h5m")])
def test_ages_are_short(seconds, text):
    """Two units at the most."""
    assert tables.age(1000.0, now=1000.0 + seconds) == text


def told(before, **info):
    fields = {"namespace": "n", "pod": "p", "container": "c", "cause": "idle"} | info
    line = tables.transition(
        api.m.Transition(sequence=1, time=0.0, before=before, info=api.m.Info(**fields))
    )
    return line.partition(" ")[2]


@pytest.mark.parametrize(
    ("before", "info", "line"),
    [
        ("SLEEPING", {"state": "ASLEEP"}, "n/p/c SLEEPING -> ASLEEP (idle)"),
        (
            "WAKING",
            {"state": "RUNNING", "cause": "exec", "wake_ms": 9.1},
            "n/p/c WAKING -> RUNNING (exec) 9.1 ms",
        ),
        (
            "RUNNING",
            {
                "state": "RUNNING",
                "dry_run": True,
                "would_sleep": True,
                "would_save_bytes": 43_000_000,
            },
            "n/p/c RUNNING, would sleep and save 43.0MB (idle)",
        ),
        (
            "RUNNING",
            {"state": "RUNNING", "dry_run": True, "cause": "udp"},
            "n/p/c RUNNING, would wake (udp)",
        ),
        (
            "RUNNING",
            {"state": "RUNNING", "dry_run": True, "cause": "refused", "reason": "io_uring"},
            "n/p/c RUNNING, would not sleep (refused): io_uring",
        ),
    ],
)
def test_a_line_of_watch(before, info, line):
    """What happened, why, and how long it took."""
    assert told(before, **info) == line


def test_numbers_are_numbers_for_programs():
    """At any depth, in maps too; times and states stay what they are."""
    info = api.m.Info(pod="p", image_bytes=2**40, since=1.5, would_wakes={"udp": 3}, ports=["a"])
    status = api.m.Status(version="1", counts={"ASLEEP": 2}, helpers={"swrk": 9}, image_bytes=7)

    told = cli._plain(api.m.Transition(sequence=5, info=info, before="WAKING"))
    plain = cli._plain(status)

    assert told["sequence"] == 5
    assert told["info"]["image_bytes"] == 2**40
    assert told["info"]["would_wakes"] == {"udp": 3}
    assert (told["info"]["since"], told["info"]["ports"], told["info"]["pid"]) == (1.5, ["a"], 0)
    assert (plain["counts"], plain["helpers"], plain["image_bytes"]) == (
        {"ASLEEP": 2},
        {"swrk": 9},
        7,
    )
    assert plain["version"] == "1"
