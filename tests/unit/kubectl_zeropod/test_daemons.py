"""Commands that ask the daemon of a pod's node, by exec, and what is told to who may not."""

from __future__ import annotations

import json

import pytest
from fakes.pods import pod, sleeper
from unit.kubectl_zeropod.shown import EVENT, lines


def daemon(answers, seen=None):
    """A daemon that answers `zeropod WORD ...` with JSON or (status, complaint)."""

    def answer(namespace, name, container, command):
        if seen is not None:
            seen.append((name, container, command))
        got = answers[command[1]]
        return (got[0], "", got[1]) if isinstance(got, tuple) else (0, json.dumps(got), "")

    return answer


def test_why_asks_the_daemon_of_the_pods_node(api, run):
    """By an exec of the node's own command line."""
    seen: list = []
    api.put("pods", sleeper("web", "RUNNING", node="node-2"))
    api.answer_exec = daemon({"why": [{"text": "default/web/app is awake."}]}, seen)

    code, out, _ = run("why", "web")

    assert (code, out) == (0, "default/web/app is awake.\n")
    command = ["zeropod", "why", "default/web", "--output", "json"]
    assert seen == [("zeropod-node-2", "checkpointer", command)]


def test_why_may_be_read_by_programs(api, run):
    """All that the daemon said."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = daemon({"why": [{"text": "t", "info": {"kind": "no-port"}}]})

    assert json.loads(run("why", "pod/web", "-o", "json")[1])[0]["info"]["kind"] == "no-port"


def test_long_and_foreign_answers_come_whole(api, run):
    """Cut into frames in the middle of a character."""
    text = "ä€😀" * 5000
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = lambda *_: (0, json.dumps([{"text": text}], ensure_ascii=False), "")

    assert run("why", "web")[1] == text + "\n"


def test_what_containers_call_things_does_not_reach_the_terminal(api, run):
    """Escape sequences are shown as such."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = daemon({"why": [{"text": "a\x1b[2Jb"}]})

    assert run("why", "web")[1] == "a\\x1b[2Jb\n"


@pytest.mark.parametrize(("word", "key"), [("sleep", "sleep_ms"), ("wake", "wake_ms")])
def test_sleep_and_wake_say_what_became_of_it(api, run, word, key):
    """One line a container, or its name."""
    info = {"namespace": "default", "pod": "web", "container": "app", "state": "X", key: 12.34}
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = daemon({word: [info]})

    assert run(word, "web")[1] == "default/web/app X (12.3 ms)\n"
    assert run(word, "-l", "app=web", "-o", "name")[1] == "pod/web\n"


@pytest.mark.parametrize(
    ("status", "code"), [(1, 1), (3, 3), (4, 4), ("unable to upgrade connection", 4)]
)
def test_exit_codes_are_those_of_the_node(api, run, status, code):
    """So that scripts need one table."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = daemon({"sleep": (status, "zeropod: it cannot be")})

    got, _, err = run("sleep", "web")

    assert got == code
    assert "node node-1: it cannot be" in err


def test_a_node_without_zeropod_is_told_how_to_get_it(api, run):
    """The label."""
    api.put("pods", sleeper("web", "RUNNING", node="node-3"))

    code, _, err = run("why", "web")

    assert code == 4
    assert "kubectl label node node-3 zeropod.ctrox.dev/node=true" in err


def test_a_pod_that_uninstalls_is_no_daemon(api, run):
    """It has the same label, and another container."""
    labels = {"app.kubernetes.io/name": "zeropod"}
    api.put("pods", pod("zeropod-gone", namespace="zeropod-system", node="node-3", labels=labels))
    api.put("pods", sleeper("web", "RUNNING", node="node-3"))

    assert run("why", "web")[0] == 4


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_the_pod_that_was_before_is_not_asked(api, run, how):
    """During an upgrade, or after an eviction, a node has two."""
    seen: list = []
    for name in ("zeropod-node-0", "zeropod-node-1a"):
        old = api.read("pods", "zeropod-system", "zeropod-node-1")
        old["metadata"]["name"] = name
        if how == "deleted":
            old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            old["status"] = {"phase": "Failed", "reason": "Evicted"}
        api.put("pods", old)
    api.put("pods", sleeper("web", "RUNNING"))
    api.answer_exec = daemon({"why": []}, seen)

    assert run("why", "web")[0] == 0
    assert [name for name, _, _ in seen] == ["zeropod-node-1"]


def test_a_daemon_that_has_not_started(api, run):
    """The server's answer to the handshake, and who looks further."""
    broken = api.read("pods", "zeropod-system", "zeropod-node-1")
    broken["status"] = {}
    api.put("pods", broken)
    api.put("pods", sleeper("web", "RUNNING"))

    code, _, err = run("why", "web")

    assert code == 4
    assert 'container not found ("checkpointer")' in err
    assert "doctor" in err


def test_a_denied_exec_names_what_is_needed(api, run):
    """The handshake's answer, which the client hides."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.deny("create", "pods/exec", "zeropod-system")

    code, _, err = run("sleep", "web")

    assert code == 5
    assert 'cannot create resource "pods/exec"' in err
    assert "`zeropod-operator`" in err
    assert "get and create on pods/exec, in namespace zeropod-system" in err


def test_why_without_the_right_to_ask_tells_what_the_api_knows(api, run):
    """Label and last event; and why that is all."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.put("events", EVENT)
    api.deny("list", "pods", "zeropod-system")

    code, out, err = run("why", "web")

    assert code == 5
    assert "default/web/app is SCALED_DOWN" in out
    assert "Scaled down container app in 64ms" in out
    assert "zeropod-system" in err


def test_wake_with_the_rights_of_the_pods_owner_is_an_exec(api, run):
    """Of a program that is in every managed container and ends at once."""
    seen: list = []

    def answer(namespace, name, container, command):
        seen.append((namespace, name, container, command))
        return 64, "", "/.zeropod/init: must be process 1 of a container"

    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.deny("create", "pods/exec", "zeropod-system")
    api.answer_exec = answer

    code, out, _ = run("wake", "web")

    assert (code, out) == (0, "default/web/app RUNNING\n")
    assert seen == [("default", "web", "app", ["/.zeropod/init"])]


def test_an_exec_that_cannot_have_woken_is_no_success(api, run):
    """A container without the supervisor."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.deny("list", "pods", "zeropod-system")
    api.answer_exec = lambda *_: ("stat /.zeropod/init: no such file or directory", "", "")

    code, _, err = run("wake", "web")

    assert code == 1
    assert "no such file" in err


def test_who_may_not_exec_at_all_is_told_both_ways(api, run):
    """In the pod's namespace, or in zeropod's."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.deny("create", "pods/exec")

    code, _, err = run("wake", "web")

    assert code == 5
    assert 'in the namespace "default"' in err
    assert "`edit`" in err
    assert "zeropod-system" in err


def test_one_that_cannot_be_woken_does_not_keep_others_asleep(api, run):
    """All are tried; each cause is told once, and the exit code is that of the first."""
    for number in range(20):
        node = "node-1" if number % 2 else "node-9"
        api.put("pods", sleeper(f"web-{number:02}", "SCALED_DOWN", node=node))
    api.put("pods", sleeper("db", "SCALED_DOWN", namespace="other"))
    api.answer_exec = lambda _, __, ___, command: (
        0,
        json.dumps(
            [
                dict(
                    zip(("namespace", "pod"), command[2].split("/"), strict=True),
                    container="app",
                    state="RUNNING",
                )
            ]
        ),
        "",
    )

    code, out, err = run("wake", "--all")

    assert code == 4
    assert len(lines(out)) == 10
    assert err.count("node-9 has no pod of zeropod") == 1
    assert "other/db/app RUNNING" in run("wake", "--all", "-A")[1]


def test_all_does_not_mean_what_is_not_managed(api, run):
    """Where there are status labels, these have none."""
    seen: list = []
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.put("pods", pod("shy", runtimeClassName="zeropod"))
    api.answer_exec = daemon({"wake": [], "why": []}, seen)

    assert run("wake", "--all")[0] == 0
    assert [command[2] for _, _, command in seen] == ["default/web"]
    run("why", "--all")
    assert {command[2] for _, _, command in seen[1:]} == {"default/shy", "default/web"}


def test_all_of_nothing_is_done(run):
    """A script that wakes all before an uninstallation does not fail where nobody sleeps."""
    assert run("wake", "--all", "-A") == (0, "", "")
