"""Commands that read the API server alone, over HTTP."""

from __future__ import annotations

import json

import yaml
from fakes.pods import pod, sleeper
from unit.kubectl_zeropod.shown import EVENT, lines


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
