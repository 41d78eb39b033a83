"""Answers datagrams, and keeps the numbers it is sent in the order they came.

datagrams.py PORT
"""

import json
import socket
import sys

# What the application's own queue has no room for is no fault of the datapath (asm-generic/socket.h).
SO_RCVBUFFORCE = 33

NUMBERS = []


def answer(data, peer):
    """The answer to a datagram, if it gets one."""
    word, _, rest = data.decode().partition(" ")
    if word == "number":
        NUMBERS.append(int(rest))
        return None
    if word == "numbers":
        return json.dumps([len(NUMBERS), sorted(NUMBERS) == NUMBERS, NUMBERS[-1:]])
    return f"{peer[0].removeprefix('::ffff:')} {rest}"


def main():
    """Serves for ever."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    sock.bind(("::", int(sys.argv[1])))
    while True:
        data, peer = sock.recvfrom(65536)
        reply = answer(data, peer)
        if reply is not None:
            sock.sendto(reply.encode(), peer)


main()
