"""Hanging up on clients by the application's own sockets; the application is this process."""

import os
import socket

from checkpointer import parting


def test_a_client_reads_all_that_was_sent_and_the_end():
    """No reset: its connection ends as if the application had closed it; others go on."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), 5) as client,
        socket.create_connection(server.getsockname(), 5) as other,
    ):
        accepted = [server.accept()[0] for _ in range(2)]
        for end in accepted:
            end.sendall(b"last words")
        parting._hang_up(os.getpid(), {os.fstat(accepted[0].fileno()).st_ino})

        assert client.makefile("rb").read() == b"last words"
        assert accepted[0].recv(10) == b""
        accepted[1].sendall(b", and more")
        assert other.recv(100).endswith(b", and more")
        for end in accepted:
            end.close()
