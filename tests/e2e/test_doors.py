"""Both doors of one scheduler: its own proxy and a real Envoy that asks it over ext_proc; endpoints from a file
that changes while requests run; names, traffic split and priorities from objects; spans and the access log.

The Envoy half is left out, and said so, where there is no envoy (PATH, or ENVOY).
"""
# SPDX-License-Identifier: Apache-2.0
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from extproc_envoy import ENVOY, Envoy  # noqa: E402
from harness import LLMD, Setup, free_port, main, metric, request, wait_for  # noqa: E402

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "Count from one to five."}], "max_tokens": 12, "temperature": 0}


def entry(i, port):
    return f'- {{name: w{i}, address: 127.0.0.1, port: "{port}", labels: {{llm-d.ai/role: both}}}}\n'


def write(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def used(port):
    parts = request(port, "GET", "/v1/status", timeout=5).json()["parts"]
    return sorted(p["address"] for p in parts if p["name"] not in ("scheduler", "cache") and p["state"] == "used")


class Collector(http.server.BaseHTTPRequestHandler):
    spans = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for r in body["resourceSpans"]:
            for s in r["scopeSpans"]:
                Collector.spans += s["spans"]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def answer(reply):
    assert reply.status == 200, (reply.status, reply.body)
    return reply.json()["choices"][0]["message"]["content"]


def streamed(port, body):
    text = ""
    r = request(port, "POST", CHAT, dict(body, stream=True))
    assert r.status == 200, r.body
    lines = [l for l in r.body.split("\n") if l.startswith("data: ")]
    assert lines[-1] == "data: [DONE]", lines[-1]
    for l in lines[:-1]:
        for c in json.loads(l[6:])["choices"]:
            text += c["delta"].get("content") or ""
    return text, {json.loads(l[6:])["model"] for l in lines[:-1]}


def doors():
    folder = tempfile.mkdtemp(prefix="llmd-doors-")
    endpoints, objects, access = (os.path.join(folder, n) for n in ("endpoints.yaml", "objects.yaml", "access.log"))
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    with Setup(["both", "both"]) as s:
        a, b = (w.port for w in s.workers)
        model = request(a, "GET", "/v1/models").json()["data"][0]["id"]
        write(endpoints, "endpoints:\n" + entry(0, a))
        write(objects, f"""kind: InferenceModelRewrite
metadata: {{name: names}}
spec: {{rules: [{{matches: [{{model: {{value: chat}}}}], targets: [{{modelRewrite: {model}}}]}}]}}
---
kind: InferenceObjective
metadata: {{name: batch}}
spec: {{priority: -1}}
""")
        door, grpc = free_port(), free_port()
        log = open(os.path.join(folder, "scheduler.log"), "w")
        child = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--endpoints-file", endpoints,
                                  "--objects-file", objects, "--model-alias", f"short={model}", "--grpc-port", str(grpc),
                                  "--access-log", access, "--loops", "2", "--trace-ratio", "1",
                                  "--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}"],
                                 stdout=log, stderr=log)
        envoy = None
        try:
            wait_for("the first worker is used", lambda: used(door) == [f"127.0.0.1:{a}"], 20)
            want = answer(request(door, "POST", CHAT, dict(ASK, model=model)))
            # other names of the model: the worker hears its own, the client the one it used
            for name in ("chat", "short"):
                r = request(door, "POST", CHAT, dict(ASK, model=name))
                assert answer(r) == want and r.json()["model"] == name, r.body
                text, names = streamed(door, dict(ASK, model=name))
                assert text == want and names == {name}, (text, names)
            assert {m["id"] for m in request(door, "GET", "/v1/models").json()["data"]} >= {model, "chat", "short"}
            assert request(door, "POST", CHAT, dict(ASK, model="nobody")).status == 404

            if ENVOY is None:
                print("no envoy here: its door is not tried")
            else:
                envoy = Envoy(folder, ("127.0.0.1", grpc), ("127.0.0.1", b), False)
                envoy.healthy()
                assert answer(request(envoy.port, "POST", CHAT, dict(ASK, model=model))) == want
                assert streamed(envoy.port, dict(ASK, model="chat")) == (want, {"chat"})
                assert request(envoy.port, "GET", "/v1/models").status == 200
                assert request(envoy.port, "POST", CHAT, dict(ASK, model="nobody")).status == 404
                assert metric(door, "llm_d_epp_extproc_streams_total", "natural") >= 4

            # a second worker comes, the first one leaves, under requests through both doors
            bad, stop = [], threading.Event()

            def load(port):
                while not stop.is_set():
                    r = request(port, "POST", CHAT, dict(ASK, model="chat"))
                    if r.status != 200 or answer(r) != want:
                        bad.append((port, r.status, r.body[:200]))

            ts = [threading.Thread(target=load, args=(p,)) for p in [door, door] + ([envoy.port] if envoy else [])]
            for t in ts:
                t.start()
            write(endpoints, "endpoints:\n" + entry(0, a) + entry(1, b))
            wait_for("both are used", lambda: len(used(door)) == 2, 10)
            write(endpoints, "endpoints: {broken\n")
            wait_for("a broken file is counted", lambda: metric(door, "llmd_config_reload_failures_total") == 1, 10)
            assert len(used(door)) == 2
            write(endpoints, "endpoints:\n" + entry(1, b))
            wait_for("the first has left", lambda: used(door) == [f"127.0.0.1:{b}"], 10)
            time.sleep(0.3)
            stop.set()
            for t in ts:
                t.join()
            assert not bad, bad[:3]
            assert metric(b, "vllm:request_success_total") > 0
            wait_for("nothing is left in flight", lambda: metric(door, "llmd_scheduler_inflight_requests") == 0, 5)

            # the access log is moved away
            os.rename(access, access + ".1")
            child.send_signal(signal.SIGHUP)
            wait_for("a new log is begun", lambda: os.path.exists(access), 5)

            # sheddable by its objective, and the books of all of it
            r = request(door, "POST", CHAT, dict(ASK, model="chat"), {"x-llm-d-inference-objective": "batch",
                                                                      "x-llm-d-inference-fairness-id": "team-a"})
            assert r.status == 200, r.body
            wait_for("spans are exported", lambda: len(Collector.spans) > 10, 5)
            names = {x["name"] for x in Collector.spans}
            assert names == {"gateway.request", "gateway.request_orchestration"}, names
            child.terminate()
            assert child.wait(10) == 0
            lines = [json.loads(l) for name in (access + ".1", access) for l in open(name)]
            last = lines[-1]
            assert last["tenant"] == "team-a" and last["priority"] == -1 and last["target_model"] == model, last
            assert last["prompt_tokens"] > 0 and last["endpoint"] == f"127.0.0.1:{b}" and last["status"] == 200
            assert all("Count from" not in json.dumps(l) for l in lines)
            print(f"{len(lines)} requests through {'both doors' if envoy else 'the proxy'}, none failed while workers came and left; "
                  f"{len(Collector.spans)} spans")
        finally:
            if envoy is not None:
                envoy.stop()
            if child.poll() is None:
                child.kill()
                child.wait()
            collector.shutdown()


class Breaks(http.server.BaseHTTPRequestHandler):
    """Looks like a worker of that model, and breaks off every request."""

    model, asked = None, 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        page = {"/metrics": "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n",
                "/v1/models": json.dumps({"data": [{"id": self.model}]})}.get(self.path)
        self.send_response(200 if page else 404)
        self.end_headers()
        self.wfile.write((page or "").encode())

    def do_POST(self):
        Breaks.asked += 1
        self.close_connection = True


def a_picked_worker_that_breaks_is_paused():
    """Envoy's 503 is all that the picker hears of a worker that could not be reached: the next pick is another.
    Without any worker its health stays good, and it says itself that nobody is there."""
    if ENVOY is None:
        print("no envoy here: its door is not tried")
        return
    folder = tempfile.mkdtemp(prefix="llmd-doors-")
    endpoints = os.path.join(folder, "endpoints.yaml")
    with Setup(["both"], cache=False) as s:
        good = s.workers[0].port
        Breaks.model = request(good, "GET", "/v1/models").json()["data"][0]["id"]
        bad = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Breaks)
        threading.Thread(target=bad.serve_forever, daemon=True).start()
        write(endpoints, "endpoints:\n" + entry(0, good) + entry(1, bad.server_port))
        door, grpc = free_port(), free_port()
        child = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--endpoints-file", endpoints,
                                  "--grpc-port", str(grpc)], stdout=s.log, stderr=s.log)
        envoy = None
        try:
            wait_for("both are used", lambda: len(used(door)) == 2, 20)
            envoy = Envoy(folder, ("127.0.0.1", grpc), ("127.0.0.1", good), False)
            envoy.healthy()
            body = json.dumps(dict(ASK, model=Breaks.model, max_tokens=1))
            begin, statuses = time.monotonic(), []
            while 503 not in statuses and len(statuses) < 50:
                statuses.append(envoy.call("POST", CHAT, body, {"x-llmd-strategy": "round_robin"})[0].status)
            assert statuses[-1] == 503 and used(door) == [f"127.0.0.1:{good}"], (statuses, used(door))
            statuses += [envoy.call("POST", CHAT, body)[0].status for _ in range(10)]
            seconds = time.monotonic() - begin
            assert Breaks.asked == statuses.count(503) <= 1 + seconds, (statuses, Breaks.asked, seconds)

            write(endpoints, "endpoints: []\n")
            wait_for("nobody is left", lambda: used(door) == [], 10)
            time.sleep(4)  # Envoy asks every second, and three bad answers are enough
            envoy.healthy()
            r, text = envoy.call("POST", CHAT, body)
            assert r.status == 503 and text.startswith(b"inference error: ServiceUnavailable"), (r.status, text)
        finally:
            if envoy is not None:
                envoy.stop()
            child.kill()
            child.wait()
            bad.shutdown()


main(doors, a_picked_worker_that_breaks_is_paused)
