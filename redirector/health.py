"""gRPC's health service over HTTP/2, as bytes in and bytes out; the protocol itself is the h2 package's."""

from __future__ import annotations

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events

from redirector import probes
from redirector.probes import Answer

_UNIMPLEMENTED = "12"  # grpc/statuscodes.md


class Health:
    """One connection.

    Args:
        judge: From method and service that is asked about to what to say.
    """

    def __init__(self, judge: Callable[[str, str], Answer]) -> None:
        self._judge = judge
        config = h2.config.H2Configuration(client_side=False)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._paths: dict[int, str] = {}
        self._bodies: dict[int, bytes] = {}

    def feed(self, data: bytes) -> bytes:
        """Take what came; return what is to be sent.

        Raises:
            h2.exceptions.ProtocolError: it is not HTTP/2.
        """
        for event in self._connection.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._paths[event.stream_id] = dict(event.headers)[b":path"].decode("latin-1")
                    self._bodies[event.stream_id] = b""
                case h2.events.DataReceived():
                    self._bodies[event.stream_id] += event.data[: probes.LONGEST]
                    size = event.flow_controlled_length
                    self._connection.acknowledge_received_data(size, event.stream_id)
                case h2.events.StreamEnded():
                    self._answer(event.stream_id)
                case _:
                    pass
        return bytes(self._connection.data_to_send())

    def _answer(self, stream: int) -> None:
        path, body = self._paths.pop(stream), self._bodies.pop(stream)
        answer = self._judge(path, probes.health_service(body))
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        if answer is Answer.FORWARD:
            last = [*headers, ("grpc-status", _UNIMPLEMENTED)]
            self._connection.send_headers(stream, last, end_stream=True)
            return
        self._connection.send_headers(stream, headers)
        self._connection.send_data(stream, probes.health_answer(answer))
        self._connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
