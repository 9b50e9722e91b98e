#!/usr/bin/env python3
"""Our ZMTP sockets against libzmq (pyzmq), in both directions.

usage: zmtp_libzmq.py PATH_OF_ZMTP_PEER

Exit code 77 (skipped) when pyzmq is not there; LLMD_PYTHON names an interpreter that has it.
"""
# SPDX-License-Identifier: Apache-2.0
import os
import struct
import subprocess
import sys
import time

try:
    import zmq
except ImportError:
    other = os.environ.get("LLMD_PYTHON")
    if other and os.path.realpath(other) != os.path.realpath(sys.executable) and \
            os.environ.get("LLMD_PYTHON_TRIED") is None:
        os.environ["LLMD_PYTHON_TRIED"] = "1"
        os.execv(other, [other] + sys.argv)
    print("SKIP zmtp_libzmq: no pyzmq (pip install pyzmq, or set LLMD_PYTHON)")
    sys.exit(77)

PEER = sys.argv[1]
TOPIC = b"kv@10.0.0.7:8000@m"
SIZES = [0, 1, 255, 256, 300000]
WAIT_MS = 10000
context = zmq.Context()
results = []


def start(*args):
    return subprocess.Popen([PEER, *map(str, args)], stdout=subprocess.PIPE, text=True)


def port_of(peer):
    word, number = peer.stdout.readline().split()
    assert word == "port"
    return int(number)


def socket(kind, **options):
    s = context.socket(kind)
    s.linger = 0
    s.rcvtimeo = s.sndtimeo = WAIT_MS
    for name, value in options.items():
        setattr(s, name, value)
    return s


def line_frames(peer):
    return [bytes.fromhex(word[1:]) for word in peer.stdout.readline().split()]


def payload(seq):
    return bytes([seq & 255]) * SIZES[seq % len(SIZES)]


def receive(s, count):
    """Messages with consecutive numbers, from whichever came first."""
    first = None
    for i in range(count):
        topic, number, body = s.recv_multipart()
        seq = struct.unpack(">Q", number)[0]
        first = seq if first is None else first
        assert topic == TOPIC and seq == first + i and body == payload(seq), (topic, seq, len(body))


def publish(s, count):
    for seq in range(count):
        s.send_multipart([TOPIC, struct.pack(">Q", seq), payload(seq)])
        s.send_multipart([b"other", b"", b""])


def check_lines(peer, count):
    first = None
    for i in range(count):
        topic, number, body = line_frames(peer)
        seq = struct.unpack(">Q", number)[0]
        first = seq if first is None else first
        assert topic == TOPIC and seq == first + i and body == payload(seq), (topic, seq, len(body))


def our_pub_to_their_sub():
    peer = start("pub", 100)
    s = socket(zmq.SUB, heartbeat_ivl=50)
    s.subscribe(b"kv@")
    s.connect(f"tcp://127.0.0.1:{port_of(peer)}")
    receive(s, 100)
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


def our_pub_to_their_xsub_that_cancels():
    peer = start("pub", 100000)
    s = socket(zmq.XSUB)
    s.connect(f"tcp://127.0.0.1:{port_of(peer)}")
    s.send(b"\x01kv@")
    receive(s, 5)
    s.send(b"\x00kv@")
    s.rcvtimeo = 500
    deadline = time.time() + 5
    try:
        while time.time() < deadline:
            s.recv_multipart()
        raise AssertionError("messages after the subscription was cancelled")
    except zmq.Again:
        pass
    peer.kill()
    peer.wait()
    s.close()


def our_pub_connects_to_their_sub():
    s = socket(zmq.SUB)
    s.subscribe(b"kv@")
    port = s.bind_to_random_port("tcp://127.0.0.1")
    peer = start("pubconnect", port, 50)
    receive(s, 50)
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


def their_pub_to_our_sub():
    s = socket(zmq.XPUB)  # which shows the subscription
    port = s.bind_to_random_port("tcp://127.0.0.1")
    peer = start("sub", port, 100)
    assert s.recv() == b"\x01kv@"
    publish(s, 100)
    check_lines(peer, 100)
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


def their_pub_restarts_and_our_sub_finds_it():
    s = socket(zmq.XPUB)
    port = s.bind_to_random_port("tcp://127.0.0.1")
    peer = start("sub", port, 20)
    assert s.recv() == b"\x01kv@"
    publish(s, 10)
    check_lines(peer, 10)
    s.close()
    for _ in range(200):  # the port is free once libzmq's thread has closed it
        try:
            s = socket(zmq.XPUB)
            s.bind(f"tcp://127.0.0.1:{port}")
            break
        except zmq.ZMQError:
            s.close()
            time.sleep(0.02)
    assert s.recv() == b"\x01kv@"
    publish(s, 10)
    check_lines(peer, 10)
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


def their_pub_connects_to_our_sub():
    peer = start("subbind", 50)
    s = socket(zmq.XPUB)
    s.connect(f"tcp://127.0.0.1:{port_of(peer)}")
    assert s.recv() == b"\x01kv@"
    publish(s, 50)
    check_lines(peer, 50)
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


def their_dealer_asks_our_router():
    peer = start("router")
    port = port_of(peer)
    for kind in (zmq.DEALER, zmq.DEALER, zmq.REQ):
        s = socket(kind)
        s.connect(f"tcp://127.0.0.1:{port}")
        head = [] if kind == zmq.REQ else [b""]  # a REQ adds and strips the delimiter itself
        s.send_multipart(head + [struct.pack(">Q", 3)])
        assert line_frames(peer) == [b"", struct.pack(">Q", 3)]
        for seq in ([3] if kind == zmq.REQ else [3, 4, 5]):
            got = s.recv_multipart()
            assert got == head + [b"kv@a@m", struct.pack(">Q", seq), b"\x93"], got
        if kind != zmq.REQ:
            assert s.recv_multipart() == [b"", b"", b"\xff" * 8, b""]
        s.close()
    peer.kill()
    peer.wait()


def our_dealer_asks_their_router():
    s = socket(zmq.ROUTER)
    port = s.bind_to_random_port("tcp://127.0.0.1")
    peer = start("dealer", port, 7)
    identity, empty, number = s.recv_multipart()
    assert empty == b"" and number == struct.pack(">Q", 7)
    for seq in range(7, 10):
        s.send_multipart([identity, b"", TOPIC, struct.pack(">Q", seq), payload(seq)])
    s.send_multipart([identity, b"", b"", b"\xff" * 8, b""])
    for seq in range(7, 10):
        assert line_frames(peer) == [b"", TOPIC, struct.pack(">Q", seq), payload(seq)]
    assert line_frames(peer) == [b"", b"", b"\xff" * 8, b""]
    assert peer.wait(WAIT_MS / 1000) == 0
    s.close()


for test in (our_pub_to_their_sub, our_pub_to_their_xsub_that_cancels,
             our_pub_connects_to_their_sub, their_pub_to_our_sub,
             their_pub_restarts_and_our_sub_finds_it,
             their_pub_connects_to_our_sub, their_dealer_asks_our_router,
             our_dealer_asks_their_router):
    try:
        test()
        results.append(True)
        print(f"ok   {test.__name__}")
    except Exception as e:  # one line a test, then the next one
        results.append(False)
        print(f"FAIL {test.__name__}: {type(e).__name__} {e}")
print(f"libzmq {zmq.zmq_version()}: {results.count(True)} passed, {results.count(False)} failed")
context.destroy(linger=0)
sys.exit(0 if all(results) else 1)
