"""Three servers that speak first: SMTP on 25, SSH on 22, MySQL on 3306; and MQTT on 1883, whose client does.

Each goes as far as a client needs to know that it talks to the right one, and counts its sessions.
"""

import itertools
import socketserver
import struct
import sys
import threading

SESSIONS = itertools.count(1)


class Smtp(socketserver.StreamRequestHandler):
    """RFC 5321: the greeting, then an answer to each command."""

    def handle(self):
        number = next(SESSIONS)
        self.wfile.write(b"220 mail.example ESMTP session %d\r\n" % number)
        for line in self.rfile:
            word = line.strip().upper()
            if word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 %d heard %s\r\n" % (number, word))


class Ssh(socketserver.StreamRequestHandler):
    """RFC 4253, section 4.2: each side says its version."""

    def handle(self):
        self.wfile.write(b"SSH-2.0-banner_%d\r\n" % next(SESSIONS))
        self.wfile.write(b"heard " + self.rfile.readline())


class Mysql(socketserver.StreamRequestHandler):
    """The handshake, protocol version 10, and a refusal of whatever comes back."""

    def handle(self):
        number = next(SESSIONS)
        greeting = b"\x0a8.0.0-test\0" + struct.pack("<I", number) + b"saltsalt\0" + b"\xff" * 20
        self.wfile.write(struct.pack("<I", len(greeting))[:3] + b"\0" + greeting)
        (size,) = struct.unpack("<I", self.rfile.read(3) + b"\0")
        self.rfile.read(1 + size)
        refusal = b"\xff\x15\x04#28000Access denied"
        self.wfile.write(struct.pack("<I", len(refusal))[:3] + b"\2" + refusal)


class Mqtt(socketserver.StreamRequestHandler):
    """MQTT 3.1.1 at quality of service 0: CONNECT, PINGREQ, PUBLISH; what is published comes back on request."""

    published = 0

    def handle(self):
        while head := self.rfile.read(2):
            body = self.rfile.read(head[1])
            if head[0] == 0x10:
                self.wfile.write(b"\x20\x02\0\0")
            elif head[0] == 0xC0:
                self.wfile.write(b"\xd0\0")
            elif head[0] == 0x30:
                Mqtt.published += 1
            elif head[0] == 0x82:  # SUBSCRIBE: the acknowledgement, then what is retained
                self.wfile.write(b"\x90\x03" + body[:2] + b"\0")
                text = b"\0\1t%d" % Mqtt.published
                self.wfile.write(bytes([0x31, len(text)]) + text)


class Server(socketserver.ThreadingTCPServer):
    """On IPv4, a thread for each client."""

    allow_reuse_address = True
    daemon_threads = True


SERVERS = [Server(("", port), handler) for port, handler in ((25, Smtp), (22, Ssh), (3306, Mysql), (1883, Mqtt))]  # fmt: skip
for server in SERVERS:
    threading.Thread(target=server.serve_forever).start()
sys.stdout.write("listening\n")
sys.stdout.flush()
