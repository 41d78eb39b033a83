"""The commands against an API server over HTTP."""

from __future__ import annotations

import json
import threading

import pytest
import yaml
from fakes.pods import pod, sleeper

from dev import patience

EVENT = {
    "metadata": {"name": "e1", "namespace": "default"},
    "involvedObject": {
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "fieldPath": "spec.containers{app}",
    },
    "reason": "ScaledDown",
    "message": "Scaled down container app in 64ms",
    "type": "Normal",
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingComponent": "zeropod.ctrox.dev/manager",
}


def lines(text):
    """The words of each line."""
    return [line.split() for line in text.splitlines()]


def test_list_shows_what_asks_for_zeropod_and_nothing_else(api, run):
    """Columns as kubectl's, one line a container."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.put("pods", pod("plain"))

    code, out, _ = run("list")

    assert code == 0
    assert lines(out)[0] == ["POD", "CONTAINER", "STATE", "RESTARTS", "AGE"]
    assert lines(out)[1][:4] == ["web", "app", "SCALED_DOWN", "3"]
    assert "plain" not in out


def test_a_pod_without_a_label_is_shown_without_a_state(api, run):
    """It asks, by its annotation or class, and nobody has said what became of it."""
    api.put("pods", pod("annotated", annotations={"zeropod.ctrox.dev/scaledown-duration": "5s"}))
    api.put("pods", pod("classy", runtimeClassName="zeropod"))

    _, out, _ = run("list", "--no-headers")

    assert [line[:3] for line in lines(out)] == [
        ["annotated", "app", "<none>"],
        ["classy", "app", "<none>"],
    ]


def test_namespaces_are_kept_apart_unless_all_are_asked_for(api, run):
    """-n, -A and the namespace of the context."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.put("pods", sleeper("db", "SCALED_DOWN", namespace="other"))

    assert [line[0] for line in lines(run("list", "--no-headers")[1])] == ["web"]
    assert [line[0] for line in lines(run("list", "-n", "other", "--no-headers")[1])] == ["db"]
    assert [line[:2] for line in lines(run("list", "-A")[1])] == [
        ["NAMESPACE", "POD"],
        ["default", "web"],
        ["other", "db"],
    ]


def test_a_selector_and_a_container_choose(api, run):
    """-l is the server's, -c is ours."""
    two = {"containers": [{"name": "app"}, {"name": "side"}]}
    api.put("pods", sleeper("web", "RUNNING", **two))
    api.put("pods", sleeper("db", "RUNNING"))

    assert [line[:2] for line in lines(run("list", "-l", "app=web", "--no-headers")[1])] == [
        ["web", "app"],
        ["web", "side"],
    ]
    assert [line[:2] for line in lines(run("list", "-c", "side", "--no-headers")[1])] == [
        ["web", "side"]
    ]


def test_output_for_programs(api, run):
    """JSON, YAML, names that other commands take, and more columns."""
    api.put("pods", sleeper("web", "RUNNING"))

    assert json.loads(run("list", "-o", "json")[1])[0]["state"] == "RUNNING"
    assert yaml.safe_load(run("list", "-o", "yaml")[1])[0]["scaledown"] == "5s"
    assert run("list", "-o", "name")[1] == "pod/web\n"
    assert lines(run("list", "-o", "wide")[1])[1][-2:] == ["node-1", "5s"]


def test_nothing_found_is_no_error_and_no_output(run):
    """As with kubectl: a note for people, nothing for a pipe."""
    code, out, err = run("list")

    assert (code, out) == (0, "")
    assert "namespace default" in err


def test_pods_are_listed_in_pages(api, run):
    """More than a page of them."""
    for number in range(501):
        api.put("pods", sleeper(f"web-{number:04}", "RUNNING"))

    assert len(lines(run("list", "--no-headers")[1])) == 501


def test_status_shows_the_last_event(api, run):
    """Of zeropod, about this container."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.put("events", EVENT)
    foreign = EVENT | {
        "metadata": {"name": "e2", "namespace": "default"},
        "reason": "Pulled",
        "eventTime": "2026-01-02T00:00:00.000000Z",
        "reportingComponent": "kubelet",
    }
    api.put("events", foreign)

    _, out, _ = run("status")

    assert lines(out)[1][:4] == ["web", "app", "SCALED_DOWN", "ScaledDown"]
    assert "Scaled down container app in 64ms" in out


def test_status_without_a_right_to_events_shows_the_rest(api, run):
    """And names what is missing."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.deny("list", "events")

    code, out, err = run("status")

    assert code == 0
    assert "SCALED_DOWN" in out
    assert 'cannot list resource "events"' in err


def test_a_denied_list_names_user_verb_resource_and_role(api, run):
    """Exit code 5."""
    api.deny("list", "pods")

    code, _, err = run("list")

    assert code == 5
    assert 'User "jane" cannot list resource "pods"' in err
    assert "`view`" in err


def test_a_pod_that_is_not_there(run):
    """Exit code 3, in the server's words."""
    code, _, err = run("list", "nobody")

    assert code == 3
    assert 'pods "nobody" not found' in err


def test_no_kubeconfig(run, tmp_path):
    """What to set."""
    code, _, err = run("list", "--kubeconfig", str(tmp_path / "none"))

    assert code == 1
    assert "kubeconfig" in err


def test_a_context_chooses_server_user_and_namespace(api, run, tmp_path):
    """Also where none is current, and another one has another namespace."""
    config = json.loads(api.kubeconfig(tmp_path / "many").read_text())
    shop = {"name": "shop", "context": {"cluster": "fake", "user": "jane", "namespace": "shop"}}
    config["contexts"].append(shop)
    del config["current-context"]
    (tmp_path / "many").write_text(json.dumps(config))
    api.put("pods", sleeper("till", "RUNNING", namespace="shop"))
    given = ["list", "-o", "name", "--kubeconfig", str(tmp_path / "many")]

    assert run(*given, "--context", "shop")[1] == "pod/till\n"
    assert run(*given, "--context", "fake")[1] == ""
    code, _, err = run(*given, "--context", "none")
    assert code == 1
    assert "none" in err


def test_a_server_that_is_away(api, run, tmp_path):
    """Says so, in one line."""
    api.url = "http://127.0.0.1:9"
    api.kubeconfig(tmp_path / "away")

    code, _, err = run("list", "--kubeconfig", str(tmp_path / "away"))

    assert code == 1
    assert "does not answer" in err


# --- through the daemons ---


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


# --- watch ---


def play(api, *steps):
    """Take steps as soon as somebody watches, then end it: the right to watch is taken away.

    It is taken away, too, if that does not come to pass: neither side waits for the other for ever.
    """

    def go():
        try:
            patience.until(lambda: api.asked("watch=True"))
            for step in steps:
                step()
        finally:
            api.deny("watch", "pods")
            api.hang_up()

    player = threading.Thread(target=go)
    player.start()
    return player


def test_watch_prints_what_is_and_what_changes(api, run):
    """A line for each change of a state, none for other changes."""
    api.put("pods", sleeper("web", "RUNNING"))
    player = play(
        api,
        lambda: api.put("pods", sleeper("web", "RUNNING", node="node-2")),
        lambda: api.put("pods", sleeper("web", "SCALED_DOWN")),
        lambda: api.put("pods", sleeper("db", "RUNNING")),
        lambda: api.drop("pods", "default", "db"),
    )

    code, out, _ = run("watch")
    player.join()

    assert code == 5  # which is how this test ends it
    assert [line[-3:] for line in lines(out)] == [
        ["POD", "CONTAINER", "STATE"],
        ["web", "app", "RUNNING"],
        ["web", "app", "SCALED_DOWN"],
        ["db", "app", "RUNNING"],
        ["db", "app", "DELETED"],
    ]


def test_watch_goes_on_after_the_server_has_forgotten(api, run):
    """What changed meanwhile is told, what did not is not told again."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.put("pods", sleeper("db", "RUNNING"))

    def listed():
        return api.asked("/pods?", but="watch=True")

    def outage():
        before = listed()
        with api.outage():
            api.drop("pods", "default", "db")
            api.put("pods", sleeper("web", "SCALED_DOWN"))
        patience.until(lambda: listed() > before)

    player = play(api, outage)

    _, out, _ = run("watch", "-o", "json")
    player.join()

    told = [(one["pod"], one["state"]) for one in map(json.loads, out.splitlines())]
    assert told == [
        ("db", "RUNNING"),
        ("web", "RUNNING"),
        ("db", "DELETED"),
        ("web", "SCALED_DOWN"),
    ]
