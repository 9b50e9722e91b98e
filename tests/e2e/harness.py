"""Real processes on loopback: starts parts of llmd, asks them, ends them.

Every set-up lives in a with-block, has its own free ports and log, and is ended
whatever happens.  Waits are for events with a deadline, never for time alone.
"""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

LLMD = os.environ.get("LLMD") or os.path.join(os.path.dirname(__file__), "..", "..", "build", "src", "cmd", "llmd")
MODEL = os.environ.get("LLMD_E2E_MODEL", "smollm2-135m")
SKIP = 77


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def free_port(given=set()):
    """Never the same twice, and below the range from which the kernel gives ports to others."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in given:
                given.add(port)
                return port


def wait_for(what, fn, seconds=30.0, every=0.02):
    """Returns fn()'s first true value; raises with `what` after the deadline."""
    end = time.monotonic() + seconds
    while True:
        try:
            v = fn()
        except OSError:
            v = None
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def request(port, method, path, body=None, headers=None, timeout=60):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        h = {"Content-Type": "application/json"} if data is not None else {}
        h.update(headers or {})
        c.request(method, path, data, h)
        r = c.getresponse()
        return Reply(r.status, {k.lower(): v for k, v in r.getheaders()}, r.read().decode(errors="replace"))
    finally:
        c.close()


class Stream:
    """An SSE answer: iterate over decoded events; `done` says whether [DONE] came."""

    def __init__(self, port, path, body, headers=None, timeout=60):
        self.conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.conn.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        self.response = self.conn.getresponse()
        self.status, self.done, self.error = self.response.status, False, None

    def __iter__(self):
        for raw in self.response:
            line = raw.decode(errors="replace").strip()
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                self.done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                self.error = event["error"]
            yield event

    def close(self):
        # Both: the response holds the socket too, and the server must see the client leave.
        if self.conn.sock is not None:
            with contextlib.suppress(OSError):
                self.conn.sock.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.conn.close()


def text_of(event):
    c = (event.get("choices") or [{}])[0]
    return c.get("text") or (c.get("delta") or {}).get("content") or ""


def metric(port, name, label=""):
    """Sum of a family's samples whose labels contain `label`."""
    total, body = 0.0, request(port, "GET", "/metrics", timeout=5).body
    for line in body.splitlines():
        m = re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? ([^ ]+)", line)
        if m and m.group(1) == name and label in (m.group(2) or ""):
            total += float(m.group(3))
    return total


class Part:
    def __init__(self, name, args, port, log):
        self.name, self.args, self.port, self.log, self.process = name, args, port, log, None
        self.start()

    def start(self):
        self.process = subprocess.Popen([LLMD] + self.args, stdout=self.log, stderr=self.log)

    @property
    def pid(self):
        return self.process.pid

    def signal(self, signum):
        if self.process.poll() is None:
            self.process.send_signal(signum)

    def restart(self):
        self.process.wait(10)
        self.start()

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with status {self.process.returncode}")
        return request(self.port, "GET", "/health/ready", timeout=2).status == 200

    def end(self):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(8)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.returncode


class Setup:
    """roles: e.g. ["prefill", "decode"]; parts by name in .parts, the door's port in .port."""

    def __init__(self, roles, worker_args=(), scheduler_args=(), model=MODEL, cache=True):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="llmd-e2e-", suffix=".log", delete=False)
        self.parts, self.workers, self.port, self.model = {}, [], free_port(), model
        # One memfd for all workers: the weights are packed once.
        self.weights = os.memfd_create("llmd-weights", 0)
        os.set_inheritable(self.weights, True)
        endpoints, cache_args = [], []
        for i, role in enumerate(roles):
            port, events, name = free_port(), free_port(), f"{role}-{i}"
            args = ["worker", "--model", model, "--role", role, "--listen", f"127.0.0.1:{port}",
                    "--shutdown-timeout", "2",
                    "--kv-events-config", json.dumps({"enable_kv_cache_events": True,
                                                      "endpoint": f"tcp://127.0.0.1:{events}"}),
                    *worker_args]
            part = Part.__new__(Part)
            part.name, part.args, part.port, part.log = name, args, port, self.log
            part.role = role
            part.process = None
            self.workers.append(part)
            self.parts[name] = part
            endpoints += ["--endpoint", f"127.0.0.1:{port}={role}"]
            cache_args += ["--endpoint", f"{name}=127.0.0.1:{port}@127.0.0.1:{events}"]
        for part in self.workers:
            part.args += ["--weights-fd", str(self.weights)]
            part.start = lambda p=part: setattr(p, "process", subprocess.Popen(
                [LLMD] + p.args, stdout=self.log, stderr=self.log, pass_fds=[self.weights]))
            part.start()
        extra = []
        if cache:
            cache_port = free_port()
            self.parts["cache"] = Part("cache", ["cache", "--listen", f"127.0.0.1:{cache_port}"] + cache_args,
                                       cache_port, self.log)
            extra = ["--cache", f"127.0.0.1:{cache_port}"]
        self.parts["scheduler"] = Part("scheduler", ["scheduler", "--listen", f"127.0.0.1:{self.port}", "--model", model,
                                                     *endpoints, *extra, *scheduler_args], self.port, self.log)

    def __enter__(self):
        try:
            for part in self.parts.values():
                wait_for(f"{part.name} is ready", part.ready, 90)
            wait_for("the door has a model", lambda: request(self.port, "GET", "/v1/models").json().get("data"), 20)
        except BaseException:
            self.__exit__(AssertionError, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace):
        for part in reversed(list(self.parts.values())):
            if part.process is not None:
                part.end()
        os.close(self.weights)
        self.log.flush()
        if kind is not None:
            with open(self.log.name) as f:
                print("---- log, last lines ----\n" + "".join(f.readlines()[-60:]))
        os.unlink(self.log.name)

    def ask(self, path, body, headers=None, timeout=120, port=None):
        return request(port or self.port, "POST", path, {"model": self.model, **body}, headers, timeout)

    def stream(self, path, body, headers=None, timeout=120, port=None):
        return Stream(port or self.port, path, {"model": self.model, "stream": True, **body}, headers, timeout)

    def blocks_in_use(self):
        return {p.name: metric(p.port, "llmd_blocks_in_use") for p in self.workers}

    def wait_idle(self, seconds=5.0):
        """Every block is back on every worker."""
        wait_for(f"all blocks are free again, not {self.blocks_in_use()}",
                 lambda: all(v == 0 for v in self.blocks_in_use().values()), seconds)


WORDS = ("river stone market window garden letter engine forest silver table winter bridge copper music planet "
         "harbor yellow doctor simple travel ocean carpet puzzle butter signal thunder village camera pencil").split()


def prompt_of(words, seed):
    """A natural-looking prompt of about `words` words, different for each seed."""
    r = random.Random(seed)
    out = []
    while len(out) < words:
        n = r.randint(5, 12)
        out += [" ".join(r.choice(WORDS) for _ in range(n)).capitalize() + "."]
        out = " ".join(out).split()
    return " ".join(out[:words])


def main(*tests):
    """Runs each test function; the first failure ends with status 1."""
    for t in tests:
        begin = time.monotonic()
        t()
        print(f"{t.__name__}: ok ({time.monotonic() - begin:.1f} s)", flush=True)
