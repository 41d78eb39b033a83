"""Asks somebody by datagram, once a second until it is answered, and keeps its socket.

asker.py ADDRESS connect|sendto: port 7777 there.
"""

import socket
import sys
import time

address, how = (sys.argv[1], 7777), sys.argv[2]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(1)
time.sleep(1)  # until somebody looks at the port from which it asks
answer = b""
while not answer:
    try:
        if how == "connect":
            sock.connect(address)
            sock.send(b"question")
        else:
            sock.sendto(b"question", address)
        answer = sock.recv(100)
    except OSError:
        time.sleep(0.1)
time.sleep(1000)
