"""The health service as a client of h2's sees it."""

import h2.config
import h2.connection
import h2.events
import pytest

from redirector.health import Health
from redirector.probes import Answer

CHECK = "/grpc.health.v1.Health/Check"


def call(answer, path=CHECK, *, step=None):
    """Return headers, messages and trailers of a call, and what was asked; `step` cuts what is sent."""
    asked = []

    def judge(*words):
        asked.append(words)
        return answer

    health = Health(judge)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    names = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    client.send_headers(1, [*names, ("content-type", "application/grpc")])
    client.send_data(1, b"\0\0\0\0\4\x0a\2db", end_stream=True)
    heads, body, ended = [], b"", False
    sent = client.data_to_send()
    for at in range(0, len(sent), step or len(sent)):
        for event in client.receive_data(health.feed(sent[at : at + (step or len(sent))])):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    heads.append(dict(event.headers))
                case h2.events.DataReceived():
                    body += event.data
                case h2.events.StreamEnded():
                    ended = True
    assert ended
    return heads, body, asked


@pytest.mark.parametrize("step", [None, 1, 7])
def test_a_check_is_answered(step):
    """In one piece or in many."""
    heads, body, asked = call(Answer.YES, step=step)
    assert body == b"\0\0\0\0\2\x08\1"
    assert heads[0][":status"] == "200"
    assert heads[0]["content-type"] == "application/grpc"
    assert heads[1] == {"grpc-status": "0"}
    assert asked == [(CHECK, "db")]


def test_another_method_is_not_implemented():
    """Nobody but a probe calls one on the kubelet's behalf."""
    heads, body, _ = call(Answer.FORWARD, "/some.Service/Method")
    assert (heads[0]["grpc-status"], body) == ("12", b"")


def test_settings_come_first():
    """A client in Go asks nothing before it has them."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    answer = Health(lambda *_: Answer.YES).feed(client.data_to_send())
    assert answer[3] == 4
