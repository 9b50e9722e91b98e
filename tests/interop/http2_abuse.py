#!/usr/bin/env python3
"""Floods and malformed frames against the gRPC server: http2_abuse.py extproc_demo

Each attack must end in the answer named for it, within bounded memory, and must not disturb another
client.  Frames are made by hand here, so nothing is shared with the code under test.
"""
# SPDX-License-Identifier: Apache-2.0
import os
import socket
import struct
import subprocess
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CALM, PROTOCOL, REFUSED, COMPRESSION = 11, 1, 7, 9
SANITIZED = "LLMD_SANITIZED" in os.environ  # freed memory stays mapped there
CHECK = "/grpc.health.v1.Health/Check"
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(prefix, n, first):
    top = (1 << prefix) - 1
    if n < top:
        return bytes([first | n])
    out, n = [first | top], n - top
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + [n])


def text(b):
    return number(7, len(b), 0) + b


def literal(name, value, index=False):
    return (b"\x40" if index else b"\x00") + text(name.encode()) + text(value if isinstance(value, bytes) else value.encode())


def head(path, *extra):
    return b"".join(literal(n, v) for n, v in ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
                                               ("content-type", "application/grpc"), ("te", "trailers")) + extra)


class Peer:
    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.s.sendall(PREFACE + frame(SETTINGS, 0, 0))
        self.buf, self.frames, self.closed = b"", [], False

    def send(self, data):
        """False: the server has closed."""
        try:
            self.s.sendall(data)
            return True
        except OSError:
            return False

    def read(self, seconds=0.3):
        """Frames until it is quiet, or closed."""
        self.s.settimeout(seconds)
        try:
            while True:
                part = self.s.recv(65536)
                if not part:
                    self.closed = True
                    break
                self.buf += part
        except socket.timeout:
            pass
        except OSError:
            self.closed = True
        while len(self.buf) >= 9:
            n = int.from_bytes(self.buf[:3], "big")
            if len(self.buf) < 9 + n:
                break
            self.frames.append((self.buf[3], self.buf[4], struct.unpack(">I", self.buf[5:9])[0], self.buf[9:9 + n]))
            self.buf = self.buf[9 + n:]
        return self.frames

    def until(self, look, seconds=8):
        """What look finds in the frames so far; a busy machine may be silent for long."""
        end = time.time() + seconds
        while True:
            found = look(self.read())
            if found or self.closed or time.time() > end:
                return found

    def goaway(self):
        codes = self.until(lambda frames: [struct.unpack(">I", f[3][4:8])[0] for f in frames if f[0] == GOAWAY])
        return codes[-1] if codes else None

    def resets(self, stream):
        return self.until(lambda frames: [struct.unpack(">I", f[3])[0] for f in frames if f[0] == RST and f[2] == stream])

    def has(self, stream, needle):
        return self.until(lambda frames: any(f[0] in (HEADERS, DATA) and f[2] == stream and needle in f[3] for f in frames))


def flood(make, count, batch=50):
    def run(p):
        for i in range(0, count, batch):
            if not p.send(b"".join(make(k) for k in range(i, i + batch))):
                break
        return p.goaway()
    return run


def ids(k):
    return 2 * k + 1


def continuation(p):
    p.send(frame(HEADERS, 0, 1, head(CHECK)))
    for _ in range(2000):
        if not p.send(frame(CONTINUATION, 0, 1, literal("x-a", "b" * 100))):
            break
    return p.goaway()


def bomb(p):
    """One entry of 3.9 KB in the table, named 16,000 times a frame."""
    block = head(CHECK) + literal("x-big", b"b" * 3900, index=True)
    p.send(frame(HEADERS, 0, 1, block))
    for i in range(6):
        p.send(frame(CONTINUATION, END_HEADERS if i == 5 else 0, 1, b"\xbe" * 16000))
    return p.has(1, b"431")


def too_large_head(p):
    p.send(frame(HEADERS, 0, 1, head(CHECK)))
    for i in range(4):
        p.send(frame(CONTINUATION, END_HEADERS if i == 3 else 0, 1, b"".join(literal("x-%d" % k, "v" * 990) for k in range(10))))
    return p.has(1, b"431")


def many_fields(p):
    p.send(frame(HEADERS, END_HEADERS, 1, head(CHECK, *[("x-%d" % k, "v") for k in range(100)])))
    return p.has(1, b"431")


def stays_usable(p):
    """After a head that was too large the shared table still fits: the next call works."""
    p.send(frame(HEADERS, END_HEADERS, 1, head(CHECK, *[("x-%d" % k, "v") for k in range(100)]) + literal("x-late", "1", index=True)))
    p.send(frame(HEADERS, END_HEADERS, 3, head(CHECK) + b"\xbe") + frame(DATA, END_STREAM, 3, b"\0\0\0\0\0"))
    return p.has(3, b"\x08\x01")


def too_many_streams(p):
    for k in range(4200):
        p.send(frame(HEADERS, END_HEADERS, ids(k), head(PROCESS)))
    refused = sum(1 for f in p.read(1) if f[0] == RST and struct.unpack(">I", f[3])[0] == REFUSED)
    return refused == 4200 - 4096


def upper_case(p):
    p.send(frame(HEADERS, END_HEADERS, 1, head(CHECK, ("X-Bad", "1"))))
    return p.resets(1)


def line_break(p):
    p.send(frame(HEADERS, END_HEADERS, 1, head(CHECK, ("x-bad", "a\r\nb: c"))))
    return p.resets(1)


def bad_index(p):
    p.send(frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x7f"))
    return p.goaway()


def wrong_length(p):
    p.send(frame(HEADERS, END_HEADERS, 1, head(CHECK, ("content-length", "3"))) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\0"))
    return p.resets(1)


def http1(p):
    with socket.create_connection(("127.0.0.1", p.s.getpeername()[1]), timeout=5) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        s.settimeout(5)
        while s.recv(65536):
            pass
    return True


def cut_anywhere(p):
    """A call that is cut at every byte leaves nothing behind (the server's own checks see to it)."""
    port = p.s.getpeername()[1]
    call = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, head(PROCESS)) + frame(
        DATA, 0, 1, b"\0\0\0\0\x13" + b"\x12\x11\x0a\x0d\x0a\x0b\x0a\x05:path\x1a\x02/x\x18\x01")
    for cut in range(len(PREFACE), len(call), 3):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(call[:cut])
    return True


EMPTY = frame(DATA, 0, 1)
ATTACKS = [
    ("continuation flood", continuation, CALM, 2),
    ("rapid reset", flood(lambda k: frame(HEADERS, END_HEADERS, ids(k), head(PROCESS)) + frame(RST, 0, ids(k), b"\0\0\0\x08"), 5000), CALM, 4),
    ("made-you-reset", flood(lambda k: frame(HEADERS, END_HEADERS, ids(k), head(PROCESS)) + frame(WINDOW, 0, ids(k), b"\x7f\xff\xff\xff"), 5000), CALM, 4),
    ("settings flood", flood(lambda k: frame(SETTINGS, 0, 0), 20000), CALM, 2),
    ("settings with values", flood(lambda k: frame(SETTINGS, 0, 0, b"\0\4\0\0\x10\0"), 100000), CALM, 2),
    ("ping flood", flood(lambda k: frame(PING, 0, 0, b"12345678"), 20000), CALM, 2),
    ("empty data", lambda p: p.send(frame(HEADERS, END_HEADERS, 1, head(PROCESS))) and flood(lambda k: EMPTY, 5000)(p), CALM, 2),
    ("priority flood", flood(lambda k: frame(PRIORITY, 0, ids(k), b"\0\0\0\0\x10"), 20000), CALM, 2),
    ("window drip", lambda p: p.send(frame(HEADERS, END_HEADERS, 1, head(PROCESS))) and flood(lambda k: frame(WINDOW, 0, 1, b"\0\0\0\1"), 20000)(p), CALM, 2),
    ("push promise", flood(lambda k: frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + head(CHECK)), 1, 1), PROTOCOL, 2),
    ("hpack index out of range", bad_index, COMPRESSION, 2),
    ("hpack bomb", bomb, True, 2),
    ("large head", too_large_head, True, 2),
    ("many fields", many_fields, True, 2),
    ("next call after a large head", stays_usable, True, 2),
    ("streams above the limit", too_many_streams, True, 40),
    ("upper-case name", upper_case, [PROTOCOL], 2),
    ("line break in a value", line_break, [PROTOCOL], 2),
    ("wrong content-length", wrong_length, [PROTOCOL], 2),
    ("http/1.1", http1, True, 2),
    ("cut anywhere", cut_anywhere, True, 2),
]


def rss(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(next(l for l in f if l.startswith("VmRSS")).split()[1]) / 1024


def main():
    child = subprocess.Popen([sys.argv[1], "0", "127.0.0.1:9"], stdout=subprocess.PIPE, text=True)
    port = int(child.stdout.readline().split()[1])
    passed = failed = 0
    sane = Peer(port)
    sane.read()
    sane.send(frame(SETTINGS, ACK, 0))
    stream = 1
    for name, run, want, more_mib in ATTACKS:
        before = rss(child.pid)
        p = Peer(port)
        start = time.time()
        got = run(p)
        grown = rss(child.pid) - before
        p.s.close()
        sane.frames.clear()
        sane.send(frame(HEADERS, END_HEADERS, stream, head(CHECK)) + frame(DATA, END_STREAM, stream, b"\0\0\0\0\0"))
        served = sane.has(stream, b"\x08\x01")
        stream += 2
        if got == want and (grown <= more_mib or SANITIZED) and served and child.poll() is None:
            passed += 1
        else:
            failed += 1
            print("FAILED %s: got %r, want %r; %.1f MiB more, other client served: %s, %.1f s"
                  % (name, got, want, grown, served, time.time() - start))
    child.terminate()
    if child.wait(15) != 0:
        failed += 1
        print("FAILED: the server ended with %d" % child.returncode)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
