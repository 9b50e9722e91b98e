#!/usr/bin/env python3
"""Request smuggling: bytes on which two HTTP implementations could disagree, sent to the real door.

Each input must be refused (req: H1-01..H1-16, H1-20, LIM-20, LIM-21, LIM-24): the worker behind sees
nothing of it, and no second request.  The same inputs go through nginx and HAProxy in the same run,
where these are installed, and a table says who accepts how many.  Then the other direction
(req: H1-22, UPS-06, UPS-07): a worker whose framing is broken gives 502, or a cut that shows.
"""
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import harness

BODY = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1}).encode()
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
METRICS = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0\n"
ANSWER = json.dumps({"id": "c", "object": "text_completion", "created": 1, "model": "m",
                     "choices": [{"index": 0, "text": "ok", "finish_reason": "length"}],
                     "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()


def post(head, rest=BODY, line=b"POST /v1/completions HTTP/1.1", host=b"Host: a\r\n"):
    return line + b"\r\n" + host + head + b"\r\n" + rest


def chunk(data, size=None):
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
WHOLE = chunk(BODY) + END


def with_te(value, version=b"1.1"):
    return post(b"Transfer-Encoding:" + value + b"\r\n", WHOLE + HIDDEN,
                b"POST /v1/completions HTTP/" + version)


def get(target, host=b"a", line_end=b"\r\n"):
    return b"GET " + target + b" HTTP/1.1" + line_end + b"Host: " + host + b"\r\n\r\n"


# (requirement, name, status of ours, bytes)
INPUTS = [
    ("H1-01", "length and chunked", 400, post(LENGTH + CHUNKED, WHOLE)),
    ("H1-01", "chunked and a length that hides a request", 400, post(b"Content-Length: 4\r\n" + CHUNKED, WHOLE + HIDDEN)),
    ("H1-01", "chunked first, then length", 400, post(CHUNKED + LENGTH, WHOLE)),
    ("H1-02", "two equal lengths", 400, post(LENGTH + LENGTH)),
    ("H1-02", "two different lengths", 400, post(LENGTH + b"Content-Length: 0\r\n", BODY + HIDDEN)),
    ("H1-02", "a list of equal lengths", 400, post(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)))),
    ("H1-03", "length with plus", 400, post(b"Content-Length: +%d\r\n" % len(BODY))),
    ("H1-03", "length with minus", 400, post(b"Content-Length: -1\r\n")),
    ("H1-03", "length in hexadecimal", 400, post(b"Content-Length: 0x%x\r\n" % len(BODY))),
    ("H1-03", "length with a blank inside", 400, post(b"Content-Length: 4 1\r\n")),
    ("H1-03", "empty length", 400, post(b"Content-Length: \r\n")),
    ("H1-03", "length of 2^64 and more", 400, post(b"Content-Length: %d\r\n" % (2**64 + len(BODY)))),
    ("H1-04", "two codings in a list", 400, with_te(b" chunked, chunked")),
    ("H1-04", "two coding fields", 400, post(CHUNKED + CHUNKED, WHOLE)),
    ("H1-04", "unknown coding", 501, with_te(b" xchunked")),
    ("H1-04", "identity", 501, with_te(b" identity")),
    ("H1-04", "vertical tab before chunked", 400, with_te(b" \x0bchunked")),
    ("H1-04", "quoted chunked", 400, with_te(b' "chunked"')),
    ("H1-04", "chunked with junk behind", 400, with_te(b" chunked;x")),
    ("H1-05", "chunked in HTTP/1.0", 400, with_te(b" chunked", b"1.0")),
    ("H1-06", "chunk size with plus", 400, post(CHUNKED, chunk(BODY, b"+%x" % len(BODY)) + END)),
    ("H1-06", "chunk size with 0x", 400, post(CHUNKED, chunk(BODY, b"0x%x" % len(BODY)) + END)),
    ("H1-06", "chunk size with a blank", 400, post(CHUNKED, chunk(BODY, b"%x " % len(BODY)) + END)),
    ("H1-06", "chunk size with underscore", 400, post(CHUNKED, chunk(BODY, b"%x_0" % len(BODY)) + END)),
    ("H1-06", "chunk size of 17 digits", 400, post(CHUNKED, chunk(BODY, b"1" + b"%016x" % len(BODY)) + END)),
    ("H1-06", "empty chunk size", 400, post(CHUNKED, b"\r\n" + WHOLE)),
    ("H1-07", "bare LF after the request line", 400, post(LENGTH, line=b"POST /v1/completions HTTP/1.1\nX: y")),
    ("H1-07", "bare LF after a field", 400, post(b"X: y\n" + LENGTH)),
    ("H1-07", "bare LF after a chunk size", 400, post(CHUNKED, b"%x\n" % len(BODY) + BODY + b"\r\n" + END)),
    ("H1-07", "bare CR in a field", 400, post(b"X: a\rContent-Length: 0\r\n" + LENGTH)),
    ("H1-08", "no CRLF after chunk data", 400, post(CHUNKED, b"%x\r\n" % len(BODY) + BODY + END)),
    ("H1-08", "LF alone after chunk data", 400, post(CHUNKED, b"%x\r\n" % len(BODY) + BODY + b"\n" + END)),
    ("H1-08", "LF in a chunk extension", 400,
     post(CHUNKED, b"%x;a\nxx\r\n" % len(BODY) + BODY + b"\r\n" + END)),
    ("H1-08", "CR in a chunk extension", 400,
     post(CHUNKED, b"%x;a\rb\r\n" % len(BODY) + BODY + b"\r\n" + END)),
    ("H1-09", "folded field", 400, post(b"X: a\r\n Transfer-Encoding: chunked\r\n" + LENGTH)),
    ("H1-09", "blank before the colon", 400, post(b"Transfer-Encoding : chunked\r\n", WHOLE + HIDDEN)),
    ("H1-09", "blank before the first field", 400, post(b"X: y\r\n" + LENGTH, host=b" Host: a\r\n")),
    ("H1-09", "empty field name", 400, post(b": y\r\n" + LENGTH)),
    ("H1-09", "field without colon", 400, post(b"Transfer-Encoding\r\n" + LENGTH)),
    ("H1-09", "NUL in a value", 400, post(b"X: a\x00b\r\n" + LENGTH)),
    ("H1-09", "NUL in a name", 400, post(b"X\x00Y: b\r\n" + LENGTH)),
    ("H1-10", "no Host", 400, post(LENGTH, host=b"")),
    ("H1-10", "two Hosts", 400, post(b"Host: b\r\n" + LENGTH)),
    ("H1-10", "Host with a user", 400, post(LENGTH, host=b"Host: u@a\r\n")),
    ("H1-10", "Host with a path", 400, post(LENGTH, host=b"Host: a/b\r\n")),
    ("H1-10", "Host with a bad port", 400, post(LENGTH, host=b"Host: a:99999\r\n")),
    ("H1-11", "fragment in the target", 400, get(b"/v1/models#x")),
    ("H1-11", "NUL in the target", 400, get(b"/v1/models\x00")),
    ("H1-11", "%00 in the target", 400, get(b"/v1/models%00")),
    ("H1-11", "%2f in the target", 400, get(b"/v1%2fmodels")),
    ("H1-11", "dot segments", 400, get(b"/x/../v1/models")),
    ("H1-11", "absolute form of another host", 400, get(b"http://b/v1/models")),
    ("H1-12", "HTTP/1.2", 505, post(LENGTH, line=b"POST /v1/completions HTTP/1.2")),
    ("H1-12", "HTTP/2.0 in text", 505, post(LENGTH, line=b"POST /v1/completions HTTP/2.0")),
    ("H1-12", "no version", 0, b"GET /v1/models\r\n\r\n"),
    ("H1-12", "lower-case version", 505, post(LENGTH, line=b"POST /v1/completions http/1.1")),
    ("H1-13", "CONNECT", 405, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    ("H1-13", "TRACE", 405, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("H1-18", "an expectation nobody knows", 417, post(b"Expect: more\r\n" + LENGTH)),
    ("H1-20", "underscore for a protected dash", 400, post(b"Content_Length: 0\r\n" + LENGTH)),
    ("LIM-20", "request line over 8 KiB", 414, get(b"/v1/models?" + b"x" * 8192)),
    ("LIM-21", "field over 8 KiB", 431, post(b"X: " + b"x" * 8192 + b"\r\n" + LENGTH)),
    ("LIM-24", "extension of a chunk over 256 bytes", 400,
     post(CHUNKED, b"%x;%s\r\n" % (len(BODY), b"x" * 300) + BODY + b"\r\n" + END)),
]

# At the limit and one over it: (name, bytes of n, limit, status over it).
FIELDS_ALREADY = 2  # Host, Content-Length


def head_of(n):
    """A request whose head has n bytes in all."""
    bare = len(post(LENGTH, b""))
    pad, fields = n - bare, b""
    while pad > 0:
        size = min(pad, 4000) if pad - min(pad, 4000) > 10 or pad <= 4000 else pad - 11
        fields += b"X: " + b"p" * (size - 5) + b"\r\n"
        pad -= size
    assert len(post(fields + LENGTH, b"")) == n
    return post(fields + LENGTH)


LIMITS = [
    ("LIM-20 request line", lambda n: get(b"/v1/models?" + b"x" * (n - len(b"GET /v1/models? HTTP/1.1"))), 8192, 414),
    ("LIM-21 one field", lambda n: post(b"X: " + b"x" * (n - 3) + b"\r\n" + LENGTH), 8192, 431),
    ("LIM-21 whole head", head_of, 32768, 431),
    ("LIM-21 fields", lambda n: post(b"X: y\r\n" * (n - FIELDS_ALREADY) + LENGTH), 100, 431),
    ("LIM-24 extension of a chunk", lambda n: post(CHUNKED, b"%x;%s\r\n" % (len(BODY), b"x" * n) + BODY + b"\r\n" + END),
     256, 400),
    ("LIM-24 digits of a chunk size", lambda n: post(CHUNKED, chunk(BODY, (b"%x" % len(BODY)).zfill(n)) + END), 8, 400),
    ("LIM-24 trailer fields", lambda n: post(CHUNKED, chunk(BODY) + b"0\r\n" + b"T: x\r\n" * n + b"\r\n"), 16, 400),
]


class Worker:
    """Speaks HTTP as leniently as the worst of backends, and records every request it sees."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.lock, self.seen, self.evil, self.ended = threading.Lock(), [], {}, 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        buf = b""
        with contextlib.suppress(OSError, ValueError), s:
            while True:
                while b"\r\n\r\n" not in buf:
                    more = s.recv(65536)
                    if not more:
                        return
                    buf += more
                head, buf = buf.split(b"\r\n\r\n", 1)
                fields = {k.strip().lower(): v.strip() for k, _, v in (f.partition(b":") for f in head.split(b"\r\n")[1:])}
                if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
                    while b"0\r\n\r\n" not in buf:
                        buf += s.recv(65536) or (_ for _ in ()).throw(OSError())
                    body, buf = buf.split(b"0\r\n\r\n", 1)
                else:
                    need = int(fields.get(b"content-length", b"0"))
                    while len(buf) < need:
                        buf += s.recv(65536) or (_ for _ in ()).throw(OSError())
                    body, buf = buf[:need], buf[need:]
                if not self.answer(s, head.split(b" ")[0], head.split(b" ")[1], body):
                    return

    def answer(self, s, method, path, body):
        if path.startswith(b"/metrics"):
            page, kind = METRICS, b"text/plain"
        elif method == b"GET" and path == b"/v1/models":
            page, kind = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode(), b"application/json"
        elif path.startswith(b"/health"):
            page, kind = b"{}", b"application/json"
        else:
            with self.lock:
                self.seen.append((method, path, body))
            for name, raw in self.evil.items():
                if name.encode() in body:
                    try:
                        s.sendall(raw)
                        # RST would take away what the other side has not read yet.
                        s.shutdown(socket.SHUT_WR)
                        s.settimeout(2)
                        gone = not s.recv(65536)
                    except socket.timeout:
                        gone = False
                    except OSError:  # reset, also while it still writes what nobody will read
                        gone = True
                    with self.lock:
                        self.ended += gone
                    return False
            page, kind = ANSWER, b"application/json"
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(page), page))
        return True

    def take(self):
        with self.lock:
            seen, self.seen = self.seen, []
        return seen


def statuses(raw):
    """Status codes of the replies in raw; bodies are skipped by length."""
    out = []
    while raw.startswith(b"HTTP/1."):
        head, _, rest = raw.partition(b"\r\n\r\n")
        out.append(int(head[9:12]))
        length = [int(f.split(b":")[1]) for f in head.split(b"\r\n") if f.lower().startswith(b"content-length:")]
        raw = rest[length[0]:] if length else b""
    return out


def complete(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = [int(f.split(b":")[1]) for f in head.split(b"\r\n") if f.lower().startswith(b"content-length:")]
    return bool(length) and len(body) >= length[0]


def talk(port, data, seconds=1.0, linger=None):
    """Sends, reads until the other side closes or says nothing more: for `seconds`, or, after a whole
    reply, for `linger`.  Returns the bytes, and whether it closed."""
    raw = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        with contextlib.suppress(OSError):
            s.sendall(data)
        s.settimeout(seconds)
        try:
            while True:
                more = s.recv(65536)
                if not more:
                    return raw, True
                raw += more
                if linger is not None and complete(raw):
                    s.settimeout(max(linger, 0.01))
        except socket.timeout:
            return raw, False
        except OSError:
            return raw, True


@contextlib.contextmanager
def llmd(worker):
    port = harness.free_port()
    with tempfile.NamedTemporaryFile("w+", prefix="llmd-e2e-", suffix=".log") as log:
        part = harness.Part("scheduler", ["scheduler", "--listen", f"127.0.0.1:{port}", "--wait-ms", "500",
                                          "--endpoint", f"127.0.0.1:{worker.port}"], port, log)
        try:
            harness.wait_for("the door has a model",
                             lambda: harness.request(port, "GET", "/v1/models").json().get("data"), 20)
            yield port
        except BaseException:
            log.flush()
            with open(log.name) as f:
                print("---- log, last lines ----\n" + "".join(f.readlines()[-40:]))
            raise
        finally:
            code = part.end()
        assert code == 0, f"the scheduler ended with {code}"


@contextlib.contextmanager
def peer(argv, config, name, port):
    """A proxy with its own configuration and folder, ended by its process id."""
    with tempfile.TemporaryDirectory(prefix="llmd-peer-") as d:
        path = os.path.join(d, name + ".conf")
        with open(path, "w") as f:
            f.write(config.replace("@DIR@", d))
        p = subprocess.Popen([*argv, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            harness.wait_for(f"{name} listens", lambda: talk(port, post(LENGTH), 0.3)[0].startswith(b"HTTP/1.1 200"), 10)
            yield port
        finally:
            p.terminate()
            p.wait(10)


def nginx(worker):
    port = harness.free_port()
    return peer([shutil.which("nginx") or "/usr/sbin/nginx", "-c"], f"""
daemon off; master_process off; pid @DIR@/pid; error_log /dev/null;
events {{ worker_connections 256; }}
http {{ access_log off;
  client_body_temp_path @DIR@/a; proxy_temp_path @DIR@/b; fastcgi_temp_path @DIR@/c;
  uwsgi_temp_path @DIR@/d; scgi_temp_path @DIR@/e;
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://127.0.0.1:{worker.port}; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
""", "nginx", port)


def haproxy(worker):
    port = harness.free_port()
    return peer([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f"], f"""
global
  maxconn 256
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
  timeout http-request 5s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{worker.port}
""", "haproxy", port)


def accepted(raw):
    return any(200 <= s < 300 for s in statuses(raw))


def run_inputs(port):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda i: talk(port, i[3]), INPUTS))


def what_could_be_two_requests_is_refused():
    worker = Worker()
    results = {}
    for name, start in (("llmd", llmd), ("nginx", nginx), ("haproxy", haproxy)):
        if name != "llmd" and not (shutil.which(name) or os.path.exists(f"/usr/sbin/{name}")):
            print(f"left out: {name} is not installed")
            continue
        with start(worker) as port:
            worker.take()
            raws = run_inputs(port)
            results[name] = [accepted(raw) for raw, _ in raws]
            seen = worker.take()
            print(f"{name:8s} accepts {sum(results[name]):2d} of {len(INPUTS)}; the worker saw {len(seen):2d} requests, "
                  f"{sum(p == b'/hidden' for _, p, _ in seen)} of them hidden")
            if name != "llmd":
                continue
            for (req, what, status, _), (raw, closed) in zip(INPUTS, raws):
                got = statuses(raw)
                assert got == ([status] if status else []), f"{req} {what}: {got}, want {status}: {raw[:200]!r}"
                assert closed, f"{req} {what}: the connection stays open"
            assert not seen, f"the worker saw {seen}"
            # H1-16: a good request behind a bad one is never read.
            raw, closed = talk(port, post(LENGTH + LENGTH) + post(LENGTH))
            assert statuses(raw) == [400] and closed and not worker.take(), raw
            # and the good one alone is served, also twice on a connection (H1-17)
            raw, _ = talk(port, post(LENGTH) + post(CHUNKED, WHOLE))
            assert statuses(raw) == [200, 200], raw
            seen = [p for _, p, _ in worker.take()]
            assert seen == [b"/v1/completions"] * 2, seen
            # H1-19: an upgrade that nobody offers
            raw, _ = talk(port, post(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + LENGTH))
            assert statuses(raw) == [200], raw
    width = max(len(what) for _, what, _, _ in INPUTS)
    for i, (req, what, _, _) in enumerate(INPUTS):
        who = [name for name in results if results[name][i]]
        if who:
            print(f"  {req} {what:{width}s} accepted by {', '.join(who)}")
    assert sum(results["llmd"]) == 0
    worker.listener.close()


def limits_hold_to_the_byte():
    worker = Worker()
    with llmd(worker) as port:
        for what, make, limit, status in LIMITS:
            for n in (limit - 1, limit, limit + 1):
                raw, closed = talk(port, make(n), 2, 0.15)
                want = [200] if n <= limit else [status]
                assert statuses(raw) == want, f"{what}: {n} gives {statuses(raw)}, want {want}: {raw[:300]!r}"
                assert closed == (n > limit), f"{what}: {n}"
        worker.take()
        # LIM-05: half a head, then silence
        begin = time.monotonic()
        raw, closed = talk(port, b"POST /v1/completions HTTP/1.1\r\nHos", 13)
        assert statuses(raw) == [408] and closed and 9 < time.monotonic() - begin < 12.5, raw
        # H1-21: the client leaves in the middle of the body
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(post(LENGTH, BODY[:5]))
        time.sleep(0.2)
        assert not worker.take()
    worker.listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
N = b"Content-Length: %d\r\n" % len(ANSWER)

# What a worker sends, and what the client may see: a status, or "cut" (200, and an end that shows).
EVIL = {
    "length-and-chunked": (OK + N + CHUNKED + b"\r\n" + chunk(ANSWER) + END, {502}),
    "two-lengths": (OK + N + b"Content-Length: 3\r\n\r\n" + ANSWER, {502}),
    "bad-length": (OK + b"Content-Length: +5\r\n\r\n" + ANSWER, {502}),
    "unknown-coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(ANSWER) + END, {502}),
    "bare-lf": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", {502}),
    "folded": (OK + b"X: a\r\n b\r\n" + N + b"\r\n" + ANSWER, {502}),
    "nul": (OK + b"X: a\x00\r\n" + N + b"\r\n" + ANSWER, {502}),
    "no-status": (b"HTTP/1.1\r\n\r\n", {502}),
    "not-http": (b"SSH-2.0-OpenSSH_9.2\r\n", {502}),
    "version": (b"HTTP/3.1 200 OK\r\n" + N + b"\r\n" + ANSWER, {502}),
    "switching": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", {502}),
    "huge-head": (OK + (b"X: " + b"x" * 8000 + b"\r\n") * 20 + N + b"\r\n" + ANSWER, {502}),
    "nothing": (b"", {502, 503}),
    "half-a-head": (OK[:20], {502}),
    "short-body": (OK + b"Content-Length: 5000\r\n\r\n" + ANSWER, {502, "cut"}),
    "bad-chunk": (OK + CHUNKED + b"\r\n" + chunk(ANSWER[:30]) + b"zz\r\n", {502, "cut"}),
    "no-last-chunk": (OK + CHUNKED + b"\r\n" + chunk(ANSWER), {502, "cut"}),
    "second-reply": (OK + N + b"\r\n" + ANSWER + OK + b"Content-Length: 6\r\n\r\nHIDDEN", {200}),
}


def a_workers_bad_framing_is_a_502_or_a_cut_that_shows():
    for name, (raw_reply, want) in EVIL.items():
        worker = Worker()  # a fresh door each: what it thinks of the worker is another test's
        worker.evil = {name: raw_reply}
        with llmd(worker) as port:
            body = json.dumps({"model": "m", "prompt": name, "max_tokens": 1}).encode()
            raw, _ = talk(port, post(b"Content-Length: %d\r\n" % len(body), body), 8, 0.5 if 200 in want else 0)
            status = statuses(raw)[0] if statuses(raw) else None
            got = "cut" if status == 200 and not complete(raw) else status
            assert got in want, f"{name}: {got}, want {want}: {raw[:300]!r}"
            assert b"HIDDEN" not in raw and b"SSH" not in raw, raw
            harness.wait_for(f"{name}: the worker's connection is closed, not kept", lambda: worker.ended > 0, 5)
            # The door is as before for whoever comes next.
            assert harness.request(port, "GET", "/health").status == 200
        worker.listener.close()


if __name__ == "__main__":
    harness.main(what_could_be_two_requests_is_refused, limits_hold_to_the_byte,
                 a_workers_bad_framing_is_a_502_or_a_cut_that_shows)
