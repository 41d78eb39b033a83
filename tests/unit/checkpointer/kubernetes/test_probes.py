"""A pod's declarations, from the API server's JSON."""

from fakes.pods import pod

from checkpointer.declared import Declared
from checkpointer.kubernetes import probes
from checkpointer.kubernetes.pods import Pod
from redirector.probes import Probe

WEB = {
    "name": "web",
    "ports": [{"containerPort": 53, "protocol": "UDP"}, {"name": "http", "containerPort": 8080}],
    "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 30},
    "readinessProbe": {"httpGet": {"port": "http", "path": "/ready?a=b", "scheme": "HTTPS"}},
    "livenessProbe": {"grpc": {"port": 9000, "service": "db"}, "periodSeconds": 5},
}


def test_every_kind_is_read():
    """Ports by their names, too; what is not said has the API server's defaults."""
    found = probes.declared({"containers": [WEB]}, {})["web"]
    assert found.probes == (
        Probe("startup", "tcp", 8080, "/", period=1.0, failures=30),
        Probe("readiness", "http", 8080, "/ready?a=b", tls=True),
        Probe("liveness", "grpc", 9000, "/", service="db", period=5.0),
    )


def test_exec_probes_and_names_without_a_port():
    """One has none; the other one's are nobody's."""
    spec = {
        "name": "a",
        "livenessProbe": {"exec": {"command": ["true"]}},
        "readinessProbe": {"httpGet": {"port": "missing"}},
    }
    ready, live = probes.declared({"containers": [spec]}, {})["a"].probes
    assert (ready.kind, ready.port, ready.path) == ("http", 0, "/")
    assert (live.kind, live.role) == ("exec", "liveness")


def test_readiness_is_the_kubelets_word():
    """Who has no status yet is not Ready; sidecars have theirs elsewhere."""
    spec = {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "side"}]}
    status = {
        "containerStatuses": [{"name": "a", "ready": True}],
        "initContainerStatuses": [{"name": "side", "ready": True}],
    }
    assert probes.declared(spec, status) == {
        "a": Declared(ready=True),
        "b": Declared(ready=False),
        "side": Declared(ready=True),
    }
    assert probes.declared({}, {}) == {}


def test_a_pod_that_is_being_deleted_says_so_for_its_containers():
    """They shut down, whatever else is declared of them."""
    thing = pod("web")
    thing["metadata"] |= {"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert Pod.of(thing).declared["app"].leaving
    del thing["metadata"]["deletionTimestamp"]
    assert not Pod.of(thing).declared["app"].leaving
