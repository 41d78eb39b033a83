"""What is said to the API server: a small one of ours, that can be told how to behave."""

import contextlib
import http.server
import json
import threading

import pytest

from installer import __main__ as main
from installer.cluster import Cluster, ClusterError

NODE = {
    "metadata": {
        "name": "one",
        "resourceVersion": "7",
        "labels": {"zeropod.ctrox.dev/node": "true"},
    },
    "spec": {
        "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "zeropod.ctrox.dev/not-ready"}]
    },
    "status": {"conditions": []},
}


class Server(http.server.ThreadingHTTPServer):
    """Answers with what it was given, and writes down what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.node = json.loads(json.dumps(NODE))
        self.asked = []
        self.refusals = []
        self.answers = []
        self.messages = {}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.deal(None)

    def do_PATCH(self):
        self.deal(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def deal(self, body):
        seen = (
            self.command,
            self.path,
            self.headers["Content-Type"],
            self.headers["Authorization"],
        )
        self.server.asked.append((*seen, body))
        code = self.server.answers.pop(0) if self.server.answers else 200
        if self.command in self.server.refusals:
            code = 403
        said = (
            self.server.node
            if code == 200
            else {"message": self.server.messages.get(code, f"no, because of {code}")}
        )
        data = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def cluster(server, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    return Cluster("one", f"http://127.0.0.1:{server.server_port}", tmp_path, pause=lambda _: None)


def bodies(server):
    return [asked[4] for asked in server.asked if asked[0] == "PATCH"]


def test_the_condition_is_patched_into_the_status(server, cluster):
    """By its type, so that the kubelet's stay."""
    cluster.ready(ready=False, reason="PreflightFailed", message="kernel: 5.4; upgrade it")
    verb, path, kind, authorization, body = server.asked[-1]

    assert (verb, path) == ("PATCH", "/api/v1/nodes/one/status")
    assert kind == "application/strategic-merge-patch+json"
    assert authorization == "Bearer secret"
    (condition,) = body["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("ZeropodReady", "False")
    assert (condition["reason"], condition["message"]) == (
        "PreflightFailed",
        "kernel: 5.4; upgrade it",
    )
    assert condition["lastTransitionTime"] == condition["lastHeartbeatTime"]


def test_a_condition_that_has_not_changed_keeps_its_time(server, cluster):
    """It tells since when the node is so."""
    known = {
        "type": "ZeropodReady",
        "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    server.node["status"]["conditions"] = [{"type": "Ready", "status": "True"}, known]
    cluster.ready(ready=True, reason="Installed", message="")
    cluster.ready(ready=False, reason="InstallFailed", message="")
    times = [body["status"]["conditions"][0]["lastTransitionTime"] for body in bodies(server)]

    assert times[0] == "2026-01-01T00:00:00Z"
    assert times[1] > "2026-01-01"


def test_a_right_that_is_missing_is_named(server, cluster):
    """With what grants it, and what the server said."""
    server.refusals.append("PATCH")
    with pytest.raises(
        ClusterError, match=r"may not patch nodes/status.*zeropod-node.*because of 403"
    ):
        cluster.ready(ready=True, reason="Installed", message="")


def test_a_policy_that_refuses_is_no_missing_right(server, cluster):
    """A role would not help; what would is in the policy's own message."""
    said = "ValidatingAdmissionPolicy 'zeropod-own-nodes' denied request: this token does not say"
    server.messages[403] = said
    server.refusals.append("PATCH")
    with pytest.raises(
        ClusterError, match=r"patch nodes/status one: Validating.*does not say"
    ) as caught:
        cluster.ready(ready=True, reason="Installed", message="")
    assert "grant" not in str(caught.value)


def test_a_server_that_is_away_is_asked_again_for_a_while(server, cluster):
    """After a restart of all of Kubernetes on this node; not else, so that nobody waits for it."""
    server.answers[:] = [503, 500]
    cluster.ready(ready=True, reason="Installed", message="", patience=60)
    assert len(bodies(server)) == 1

    server.answers[:] = [503]
    with pytest.raises(ClusterError, match="503"):
        cluster.ready(ready=True, reason="Installed", message="")


def test_a_server_that_does_not_answer_is_told(tmp_path):
    """It is no failure of the installation."""
    (tmp_path / "token").write_text("x")
    with pytest.raises(ClusterError, match="does not answer"):
        Cluster("one", "http://127.0.0.1:1", tmp_path).labelled()


def test_only_our_taint_is_taken_off(server, cluster):
    """In one step with the version of what was read; once more if somebody was faster."""
    server.answers[:] = [200, 200, 409]  # the condition; the node as it was; too late
    cluster.clear()
    condition, first, second = bodies(server)

    assert condition == {"status": {"conditions": [{"$patch": "delete", "type": "ZeropodReady"}]}}
    assert first == second
    assert first == {
        "metadata": {"resourceVersion": "7"},
        "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
    }


def test_a_node_without_our_taint_is_left_alone(server, cluster):
    """But for the condition."""
    server.node["spec"] = {}
    cluster.clear()
    assert len(bodies(server)) == 1


def test_the_label_is_taken_off(server, cluster):
    """And with it the DaemonSet's pod."""
    assert cluster.labelled()
    cluster.unlabel()
    assert bodies(server) == [{"metadata": {"labels": {"zeropod.ctrox.dev/node": None}}}]


@pytest.mark.parametrize(
    ("environment", "server"),
    [
        ({}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NODE_NAME": "one"},
            "https://10.0.0.1:443",
        ),
        (
            {
                "KUBERNETES_SERVICE_HOST": "fd00::1",
                "KUBERNETES_SERVICE_PORT": "6443",
                "NODE_NAME": "one",
            },
            "https://[fd00::1]:6443",
        ),
    ],
)
def test_a_cluster_is_known_from_what_pods_are_given(environment, server, tmp_path):
    """Outside of one nothing is told to anybody; so is without a service account."""
    assert Cluster.of(environment, tmp_path) is None
    (tmp_path / "token").write_text("x")
    found = Cluster.of(environment, tmp_path)

    assert (found.server if found else None) == server


def test_what_cannot_be_told_is_said_and_no_failure(cluster, server, monkeypatch, capsys):
    """The node runs zeropod all the same."""
    server.refusals.append("PATCH")
    monkeypatch.setattr(Cluster, "of", lambda _: cluster)
    main._tell(ready=True, reason="Installed", message="")
    assert "may not patch nodes/status" in capsys.readouterr().out


def test_a_failure_is_the_last_line_and_the_termination_message(tmp_path, monkeypatch, capsys):
    """With the remedy; `kubectl describe pod` shows it."""
    message = tmp_path / "termination-log"
    message.touch()
    monkeypatch.setattr(main, "MESSAGE", message)
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    with contextlib.suppress(SystemExit):
        code = main.main(["install", f"--host-root={tmp_path}"])

    assert code == main.FAILED
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == message.read_text().strip()
    assert "no containerd was found" in last
    assert "--host-root" in last
