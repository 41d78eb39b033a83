"""Answers questions on TCP, one a line, by IPv4 and IPv6; one thread a connection.

talker.py PORT [--after SECONDS] [--defer] [--exclusive]: listens only after a while; with TCP_DEFER_ACCEPT; without
SO_REUSEADDR.
"""

import argparse
import hashlib
import json
import random
import socket
import threading
import time

MEMORY = bytearray(random.Random(7).randbytes(10 << 20))
ENDED = []
CALLS = []
PARTED = []


def receive(stream, size):
    """SHA-256 of the next `size` bytes."""
    digest = hashlib.sha256()
    while size:
        data = stream.read1(min(size, 1 << 16))
        if not data:
            raise EOFError(size)
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


class Talk:
    """One connection and the answers it gets."""

    def __init__(self, sock, peer):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.peer, self.count = sock, peer[0], 0
        self.stream = sock.makefile("rb")

    def serve(self):
        """Answers until the client is done, and notes how it ended."""
        how = "closed"
        try:
            for line in self.stream:
                word, *rest = line.decode().split()
                answer = getattr(self, word)(*rest)
                self.sock.sendall(f"{answer}\n".encode())
        except OSError as error:
            how = type(error).__name__
        ENDED.append(how)
        self.stream.close()
        self.sock.close()

    def who(self):
        """The client's address."""
        return self.peer.removeprefix("::ffff:")

    def echo(self, text):
        """The same."""
        return text

    def add(self):
        """How often this connection asked."""
        self.count += 1
        return self.count

    def digest(self):
        """Of its memory, ten megabytes in the beginning."""
        return hashlib.sha256(MEMORY).hexdigest()

    def grow(self, size):
        """More memory."""
        MEMORY.extend(random.Random(size).randbytes(int(size)))
        return "grown"

    def keep(self, idle, interval, count):
        """Wants to know whether the client lives."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(idle))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(interval))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(count))
        return "kept"

    def slow(self, seconds):
        """An answer that takes a while."""
        time.sleep(float(seconds))
        return "slow"

    def sink(self, size):
        """Digest of so many bytes from the client."""
        return receive(self.stream, int(size))

    def source(self, size):
        """So many bytes."""
        self.sock.sendall(MEMORY[: int(size)])
        return "sent"

    def push(self, seconds, every):
        """Lines without a question, for so many seconds."""
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            self.sock.sendall(b"pushed\n")
            time.sleep(float(every))
        return "pushed-all"

    def all(self):
        """Everything up to the client's FIN, back."""
        return self.stream.read().decode()

    def leave(self):
        """Hangs up first, so that the connection ends in TIME_WAIT here."""
        self.sock.sendall(b"left\n")
        raise ConnectionAbortedError

    def part(self):
        """Reads to the client's FIN and keeps its own side open for a farewell."""
        self.stream.read()
        said = threading.Event()
        PARTED.append((self.sock, said))
        said.wait()
        raise ConnectionAbortedError

    def parted(self):
        """How many wait for their farewell."""
        return len(PARTED)

    def farewell(self, text):
        """The last line for those, and the end of their connections."""
        for sock, said in PARTED:
            sock.sendall(f"{text}\n".encode())
            said.set()
        return "said"

    def ended(self):
        """How connections ended so far."""
        return json.dumps(ENDED)

    def call(self, host, port):
        """Opens a connection to somebody else and remembers each line that comes over it."""
        sock = socket.create_connection((host, int(port)))
        lines = []
        CALLS.append((sock, lines))

        def hear():
            with sock.makefile("r") as stream:
                lines.extend(map(str.strip, stream))

        threading.Thread(target=hear, daemon=True).start()
        return sock.getsockname()[1]

    def query(self, how, host, port):
        """Asks somebody by datagram, over a connected socket or not, and remembers the answer."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        lines = []
        CALLS.append((sock, lines))
        if how == "connect":
            sock.connect((host, int(port)))
            sock.send(b"question")
        else:
            sock.sendto(b"question", (host, int(port)))
        threading.Thread(target=lambda: lines.append(sock.recv(100).decode()), daemon=True).start()
        return "asked"

    def heard(self):
        """What came over the connections it opened."""
        return json.dumps([lines for _, lines in CALLS])

    def tell(self, *words):
        """Sends a line over the connection it opened last."""
        CALLS[-1][0].sendall(f"{' '.join(words)}\n".encode())
        return "told"


def main():
    """Listens and starts a thread for each connection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--after", type=float, default=0)
    parser.add_argument("--defer", action="store_true")
    parser.add_argument("--exclusive", action="store_true")
    args = parser.parse_args()
    time.sleep(args.after)
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not args.exclusive)
    listener.bind(("::", args.port))
    listener.listen(1024)
    if args.defer:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    while True:
        threading.Thread(target=Talk(*listener.accept()).serve, daemon=True).start()


main()
