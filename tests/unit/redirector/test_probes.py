"""What the kubelet asks, from the first bytes, and what it is told."""

import pytest

from redirector import probes
from redirector.probes import PREFACE, Answer, Fitness, Opening, Probe, Rules

READY = Probe("readiness", "http", 80, "/ready")
LIVE = Probe("liveness", "http", 80, "/live?full=1")
GRPC = Probe("liveness", "grpc", 9000, service="db")


def get(path="/", agent="kube-probe/1.35"):
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 10.0.0.2:80\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\r\n"
    )
    return head.encode()


@pytest.mark.parametrize("data", [get(), get("/" + 1025 * "x"), PREFACE])
def test_it_is_told_however_it_is_cut(data):
    """Every beginning of a request is too short to tell, and the whole of it is enough."""
    whole = Opening.H2 if data is PREFACE else Opening.HTTP
    assert {probes.opening(data[:size]) for size in range(len(data))} == {Opening.MORE}
    assert probes.opening(data) is whole
    assert probes.opening(data + b"more") is whole


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\n",
        b"HEAD",
        b"\0",
        b"GETS",
        b"PRI x",
        b"SSH-2.0",
        b"GET /" + bytes(1 << 16),
    ],
)
def test_what_is_no_probe_is_told_at_once(data):
    """It is for the application."""
    assert probes.opening(data) is Opening.OTHER


def test_tls_is_told_by_its_first_byte():
    """A handshake record."""
    assert probes.opening(b"\x16") is Opening.TLS


def ask(path="/", agent="kube-probe/1.35", *, port=80, tls=False, **rules):
    return probes.http(probes.request(get(path, agent)), port, Rules(**rules), tls=tls)


@pytest.mark.parametrize(
    ("agent", "answer"),
    [
        ("kube-probe/1.35", Answer.YES),
        ("kube-probe/1.35+", Answer.YES),
        ("kube-lifecycle/1.35", Answer.FORWARD),
        ("Go-http-client/1.1", Answer.FORWARD),
        ("", Answer.FORWARD),
    ],
)
def test_where_nothing_is_declared_the_user_agent_tells(agent, answer):
    """The kubelet's for probes, on whatever path; that for hooks is another."""
    assert ask("/anything", agent) is answer


def test_what_is_declared_decides_where_it_is_known():
    """Path, port and scheme; a declaration may set the User-Agent, a hook is none."""
    declared = (READY, LIVE)
    assert ask("/ready", declared=declared) is Answer.YES
    assert ask("/ready", "mine/1", declared=declared) is Answer.YES
    assert ask("/live?full=1", declared=declared) is Answer.YES
    assert ask("/live", declared=declared) is Answer.FORWARD
    assert ask("/", declared=declared) is Answer.FORWARD
    assert ask("/ready", port=81, declared=declared) is Answer.FORWARD
    assert ask("/ready", tls=True, declared=declared) is Answer.FORWARD
    assert ask("/ready", "kube-lifecycle/1.35", declared=declared) is Answer.FORWARD
    assert ask("/ready", declared=()) is Answer.FORWARD


@pytest.mark.parametrize(
    ("declared", "sent"), [("ready", "/ready"), ("/a b", "/a%20b"), ("", "/")]
)
def test_a_path_may_be_written_in_several_ways(declared, sent):
    """The kubelet adds the slash and escapes."""
    assert ask(sent, declared=(READY._replace(path=declared),)) is Answer.YES


@pytest.mark.parametrize(
    ("fitness", "ready", "live", "unknown"),
    [
        (Fitness.READY, Answer.YES, Answer.YES, Answer.YES),
        (Fitness.ALIVE, Answer.NO, Answer.YES, Answer.YES),
        (Fitness.BROKEN, Answer.NO, Answer.NO, Answer.NO),
    ],
)
def test_who_cannot_be_woken_now_is_not_ready_and_lives(fitness, ready, live, unknown):
    """A probe that may be for liveness is one: to fail it has the container restarted."""
    declared = (READY, LIVE)
    assert ask("/ready", declared=declared, fitness=fitness) is ready
    assert ask("/live?full=1", declared=declared, fitness=fitness) is live
    both = (READY, READY._replace(role="liveness"))
    assert ask("/ready", declared=both, fitness=fitness) is live
    assert ask("/ready", fitness=fitness) is unknown


def test_health_is_checked_by_service():
    """Of a declaration, if there is one; no other method is answered."""
    check = "/grpc.health.v1.Health/Check"
    assert probes.grpc(check, "", 9000, Rules()) is Answer.YES
    assert probes.grpc("/grpc.health.v1.Health/Watch", "", 9000, Rules()) is Answer.FORWARD
    assert probes.grpc(check, "db", 9000, Rules((GRPC,))) is Answer.YES
    assert probes.grpc(check, "", 9000, Rules((GRPC,))) is Answer.FORWARD
    assert probes.grpc(check, "db", 9001, Rules((GRPC,))) is Answer.FORWARD


def test_health_messages():
    """As protoc would write them, behind gRPC's five bytes."""
    assert probes.health_answer(Answer.YES) == b"\0\0\0\0\2\x08\1"
    assert probes.health_answer(Answer.NO) == b"\0\0\0\0\2\x08\2"
    assert probes.health_service(b"\0\0\0\0\4\x0a\2db") == "db"
    assert probes.health_service(b"\0\0\0\0\0") == ""
    assert probes.health_service(b"\0\0\0\0\0\x0a") == ""
    assert probes.health_service(b"") == ""


def test_rules_travel():
    """As JSON, and back."""
    for rules in (Rules(), Rules((READY, GRPC), Fitness.ALIVE)):
        assert Rules.decoded(rules.encoded()) == rules


@pytest.mark.parametrize("length", [1, 127, 128, 300, 20000])
def test_a_service_may_have_a_long_name(length):
    """Compared wrongly, its liveness probe would fail and the container be restarted."""
    name, size = "s" * length, b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    message = b"\x0a" + size + bytes([length]) + name.encode()
    assert probes.health_service(b"\0" + len(message).to_bytes(4) + message) == name
