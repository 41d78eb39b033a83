"""Echoes over a WebSocket (8080), which is pinged if asked for, and over a stream of gRPC (50051), on real servers.

echoes.py [SECONDS]: between the server's own pings on a WebSocket; by default it sends none.
"""

import itertools
import sys
from concurrent import futures

import grpc
from websockets.sync.server import serve

PINGS = float(sys.argv[1]) if len(sys.argv) > 1 else None


def echo(socket):
    """Every message comes back with its number in this connection."""
    for number, message in enumerate(socket, 1):
        socket.send(f"{number} {message}")


def stream(requests, _):
    """The same over gRPC; messages are bytes."""
    for number, message in zip(itertools.count(1), requests):
        yield b"%d %s" % (number, message)


class Echo(grpc.GenericRpcHandler):
    """test.Echo/Stream, without generated code."""

    def service(self, call):
        if call.method == "/test.Echo/Stream":
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


options = [
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.http2.max_ping_strikes", 0),
]
server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Echo()], options=options)
server.add_insecure_port("0.0.0.0:50051")
server.start()
with serve(echo, "0.0.0.0", 8080, ping_interval=PINGS, ping_timeout=None) as sockets:
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    sockets.serve_forever()
