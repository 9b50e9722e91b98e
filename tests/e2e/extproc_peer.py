"""One HTTP request as Envoy tells of it over ext_proc: messages by hand, on a connection of its own."""
# SPDX-License-Identifier: Apache-2.0
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from http2_abuse import DATA, END_HEADERS, HEADERS, PROCESS, Peer, frame, head  # noqa: E402

REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY, RESPONSE_BODY = 2, 3, 4, 5  # as they are sent
A_REQUEST_HEADERS, A_RESPONSE_HEADERS, A_REQUEST_BODY, A_RESPONSE_BODY, A_IMMEDIATE = 1, 2, 3, 4, 7  # and answered


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def metadata(space, key, value):
    """metadata_context of one text in one namespace."""
    entry = field(1, key) + field(2, field(3, value))
    return field(8, field(1, field(1, space) + field(2, field(1, entry))))


class Envoy:
    def __init__(self, port):
        self.peer = Peer(port)
        self.peer.send(frame(HEADERS, END_HEADERS, 1, head(PROCESS)))

    def say(self, which, message, more=b""):
        message = field(which, message) + more
        self.peer.send(frame(DATA, 0, 1, b"\0" + struct.pack(">I", len(message)) + message))

    def headers(self, which, headers, more=b""):
        self.say(which, field(1, b"".join(field(1, field(1, n) + field(3, v)) for n, v in headers.items())), more)

    def body(self, which, data, end=True):
        self.say(which, field(1, data) + (b"\x10\x01" if end else b""))

    def ask(self, body, headers=None):
        self.headers(REQUEST_HEADERS, {":method": "POST", ":path": "/v1/completions", **(headers or {})})
        self.body(REQUEST_BODY, body)

    def answers(self):
        """Field number -> bytes of the last whole message of that kind."""
        data, out = b"".join(f[3] for f in self.peer.read(0.05) if f[0] == DATA and f[2] == 1), {}
        while len(data) >= 5 and len(data) >= 5 + struct.unpack(">I", data[1:5])[0]:
            n = struct.unpack(">I", data[1:5])[0]
            out[data[5] >> 3] = data[5:5 + n]
            data = data[5 + n:]
        return out
