"""Payloads of segments: pings of several protocols, and what only looks like one."""

PINGS = {
    "mqtt request": b"\xc0\0",
    "mqtt answer": b"\xd0\0",
    "amqp": b"\x08\0\0\0\0\0\0\xce",
    "http2": b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",
    "http2 ack": b"\0\0\x08\x06\x01\0\0\0\0" + b"12345678",
    "websocket, empty": b"\x89\0",
    "websocket, server": b"\x89\x04abcd",
    "websocket, pong": b"\x8a\x04abcd",
    "websocket, client": b"\x89\x84mask" + b"abcd",
    "websocket, longest": b"\x8a\xfdmask" + bytes(125),
}

OTHERS = {
    "nothing": b"",
    "one byte": b"\x89",
    "mqtt publish": b"\x30\0",
    "mqtt with more": b"\xc0\0\xc0\0",
    "amqp method": b"\x01\0\1\0\0\0\0\xce",
    "http2 settings": b"\0\0\x08\x04\0\0\0\0\0" + b"12345678",
    "http2 on a stream": b"\0\0\x08\x06\0\0\0\0\1" + b"12345678",
    "http2 and data": b"\0\0\x08\x06\0\0\0\0\0" + b"12345678" + b"\0\0\1\0\0\0\0\0\1x",
    "websocket text": b"\x81\x04abcd",
    "websocket, fragment": b"\x09\x04abcd",
    "websocket, cut": b"\x89\x05abcd",
    "websocket and text": b"\x89\0\x81\1a",
    "websocket, too long": b"\x89\x7e\0\x7e" + bytes(126),
    "redis": b"*1\r\n$4\r\nPING\r\n",
}
