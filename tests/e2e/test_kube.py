"""Workers from Kubernetes: pods of an InferencePool come, get ready, drain and go; the API server is away, answers 410,
401, 403, an empty list; kinds that it does not know come later.  The server is kube_api.py, over TLS with a CA of its own."""
# SPDX-License-Identifier: Apache-2.0
import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import harness
from harness import free_port, metric, request, wait_for
from kube_api import OBJECTIVES, PODS, POOLS, REWRITES, Api

CHAT = "/v1/chat/completions"


class Worker:
    """A pod's process: answers at once, or a stream of a token every tenth of a second."""

    def __init__(self, ip, port, model="m"):
        self.ip, self.count = ip, 0
        worker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, body, kind="application/json"):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/metrics":
                    self.reply(b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0\n",
                               "text/plain")
                elif self.path == "/v1/models":
                    self.reply(json.dumps({"object": "list", "data": [{"id": model, "object": "model"}]}).encode())
                else:
                    self.reply(b"{}")

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                worker.count += 1
                if not asked.get("stream"):
                    return self.reply(json.dumps({"id": "x", "object": "chat.completion", "model": asked["model"], "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": worker.ip}}]}).encode())
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for _ in range(asked["max_tokens"]):
                    self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
                    self.wfile.flush()
                    time.sleep(0.1)
                self.wfile.write(b"data: [DONE]\n\n")

        self.server = http.server.ThreadingHTTPServer((ip, port), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a scrape whose endpoint left
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def certificate(folder):
    """A CA and a certificate for 127.0.0.1 that it signed."""
    run = lambda *a: subprocess.run(["openssl", *a], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test ca",
        "-keyout", "ca.key", "-out", "ca.crt")
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=api", "-keyout", "api.key",
        "-out", "api.csr")
    with open(os.path.join(folder, "ext"), "w") as f:
        f.write("subjectAltName=IP:127.0.0.1\n")
    run("x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext",
        "-out", "api.crt")
    return os.path.join(folder, "api.crt"), os.path.join(folder, "api.key")


def write(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def kubeconfig(folder, port):
    with open(os.path.join(folder, "ca.crt"), "rb") as f:
        ca = base64.b64encode(f.read()).decode()
    path = os.path.join(folder, "config")
    write(path, f"""apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u, namespace: llm}}}}]
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority-data: {ca}}}}}]
users: [{{name: u, user: {{tokenFile: token}}}}]
""")
    return path


def pool(port, app="llm", name="pool"):
    return {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": name, "namespace": "llm"},
            "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": port}],
                     "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}}


class World:
    """The API, workers on 127.0.1.N of one port, and the scheduler."""

    def __init__(self, stack, args=None):
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmd-kube-"))
        self.worker_port, self.port = free_port(), free_port()
        self.api = Api(free_port(), certificate(self.folder))
        self.api.token = "first"
        write(os.path.join(self.folder, "token"), "first\n")
        self.api.kind(PODS)
        self.workers, self.stack = {}, stack
        self.log = open(os.path.join(self.folder, "log"), "w+")
        self.args = args or ["--pool-name", "pool"]
        self.part = None

    def start(self):
        self.api.start()
        self.stack.callback(lambda: self.api.server and self.api.stop())
        self.part = harness.Part("scheduler", ["scheduler", "--listen", f"127.0.0.1:{self.port}", *self.args, "--kubeconfig",
                                               kubeconfig(self.folder, self.api.port)], self.port, self.log)
        self.stack.callback(self.end)

    def end(self):
        code = self.part.end()
        assert code == 0, f"the scheduler ended with {code}"

    def worker(self, name, n, **kw):
        ip = f"127.0.1.{n}"
        if ip not in self.workers:
            self.workers[ip] = Worker(ip, self.worker_port)
            self.stack.callback(self.workers[ip].stop)
        self.api.pod(name, ip, **kw)

    def parts(self):
        return request(self.port, "GET", "/v1/status", timeout=5).json()["parts"]

    def used(self):
        return sorted(p["address"].split(":")[0].split(".")[-1] for p in self.parts() if p["state"] == "used")

    def wait_used(self, *want, seconds=5):
        try:
            begin = time.monotonic()
            wait_for("", lambda: self.used() == sorted(want), seconds)
            return time.monotonic() - begin
        except AssertionError:
            raise AssertionError(f"used: {self.used()}, want {want}; {self.parts()}\n{self.said()[-3000:]}") from None

    def said(self):
        self.log.flush()
        with open(self.log.name) as f:
            return f.read()

    def ask(self, model="m", **headers):
        return request(self.port, "POST", CHAT, {"model": model, "messages": [{"role": "user", "content": "hi"}]}, headers, 10)


def crd(w, name):
    """Its gauge as text; None: it is not there."""
    m = re.search(r'^llm_d_epp_optional_crd_present\{crd="%s"\} (\S+)' % re.escape(name),
                  request(w.port, "GET", "/metrics").body, re.M)
    return m and m.group(1)


def pods_come_and_go_by_the_pool():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        for n in range(1, 6):  # more than two pages
            w.worker(f"pod-{n}", n, labels={"llm-d.ai/role": "decode"} if n == 1 else None)
        w.worker("late", 6, ready=False)
        w.api.pod("pending", None, ready=False, phase="Pending")
        w.api.pod("other", "127.0.1.77", labels={"app": "something-else"})
        w.start()
        wait_for("it listens", lambda: w.parts(), 10)
        assert w.used() == []
        w.api.put(POOLS, pool(w.worker_port))  # the kind was not known: looked for again within 30 s
        w.wait_used("1", "2", "3", "4", "5", seconds=40)
        roles = {p["name"].split(":")[0]: p["role"] for p in w.parts() if p["state"] == "used"}
        assert roles["127.0.1.1"] == "decode" and roles["127.0.1.2"] == "both", roles
        reasons = {p["name"]: p["reason"] for p in w.parts() if p["state"] == "not_used"}
        assert reasons == {"llm/late": "is not ready (its readiness probe)",
                           "llm/pending": "is pending: not started on a node yet"}, reasons
        assert w.ask().status == 200

        took = []
        w.worker("late", 6)
        took.append(w.wait_used("1", "2", "3", "4", "5", "6"))
        stream = harness.Stream(w.port, CHAT, {"model": "m", "max_tokens": 20, "stream": True,
                                               "messages": [{"role": "user", "content": "a stream"}]})
        events = iter(stream)
        next(events)
        carrier = next(p["address"].split(":")[0] for p in w.parts() if p.get("inflight") and p["role"] != "scheduler")
        names = {f"127.0.1.{n}": f"pod-{n}" for n in range(1, 6)} | {"127.0.1.6": "late"}
        rest = [ip.split(".")[-1] for ip in names if ip != carrier]
        w.worker(names[carrier], int(carrier.split(".")[-1]), deleting=True)
        took.append(w.wait_used(*rest))
        before = w.workers[carrier].count
        assert all(w.ask().json()["choices"][0]["message"]["content"] != carrier for _ in range(12))
        assert w.workers[carrier].count == before
        text = sum(1 for _ in events) + 1  # what it carried ends as it would have
        assert text == 20 and stream.done and stream.error is None, (text, stream.error)
        stream.close()
        w.api.delete(PODS, names[carrier])
        wait_for("it is not listed", lambda: not any(names[carrier] in p["name"] for p in w.parts()), 5)
        print(f"a ready pod was used after {took[0] * 1000:.0f} ms, a terminating one not after {took[1] * 1000:.0f} ms")
        assert max(took) < 1, took

        # another selector, another port: followed
        w.api.pod("other", "127.0.1.78", labels={"app": "other"})
        w.workers["127.0.1.78"] = Worker("127.0.1.78", w.worker_port)
        stack.callback(w.workers["127.0.1.78"].stop)
        w.api.put(POOLS, pool(w.worker_port, app="other"))
        w.wait_used("78")
        w.api.delete(POOLS, "pool")
        w.wait_used()
        assert w.ask().status == 503


def the_last_good_view_is_kept():
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--endpoint-selector", "app=llm", "--endpoint-target-ports", None, "--pool-namespace", "llm"])
        w.args[3] = str(w.worker_port)
        w.worker("a", 1)
        w.worker("b", 2)
        w.start()
        w.wait_used("1", "2", seconds=10)
        wait_for("pods are followed", lambda: metric(w.port, "llmd_kube_followed", '"pods"') == 1, 5)
        wait_for("the kind is missing", lambda: crd(w, "inferenceobjectives.llm-d.ai") == "0", 5)

        # all unready at once, as on a node that lost the server: those that answer are used; one ready again: it alone
        w.worker("a", 1, ready=False)
        w.wait_used("2")
        w.worker("b", 2, ready=False)
        w.wait_used("1", "2")
        assert w.ask().status == 200
        w.worker("b", 2)
        w.wait_used("2")
        w.worker("a", 1)
        w.wait_used("1", "2")

        # away, with traffic; what happened meanwhile is caught up with from the log
        w.api.stop()
        wait_for("it is noticed", lambda: metric(w.port, "llmd_kube_followed", '"pods"') == 0, 10)
        assert all(w.ask().status == 200 for _ in range(20))
        w.worker("c", 3)
        w.api.start()
        w.wait_used("1", "2", "3", seconds=20)

        # too far behind: 410, listed anew
        w.api.stop()
        w.api.delete(PODS, "c")
        w.api.forget()
        w.api.start()
        w.wait_used("1", "2", seconds=20)

        # an empty list while workers answer is not believed
        w.api.stop()
        kept = w.api.objects.pop(PODS.format(ns="llm"))
        w.api.kind(PODS)
        w.api.forget()
        w.api.start()
        wait_for("it says so", lambda: "not believed" in w.said(), 20)
        assert w.used() == ["1", "2"] and w.ask().status == 200
        w.api.objects[PODS.format(ns="llm")] = kept
        time.sleep(2.5)
        assert w.used() == ["1", "2"]

        # the token was rotated: the file's new one is used
        w.api.stop()
        w.api.token = "second"
        w.api.start()
        wait_for("the old one is refused", lambda: w.api.refused_tokens > 0, 20)
        write(os.path.join(w.folder, "token"), "second\n")
        w.worker("d", 4)
        w.wait_used("1", "2", "4", seconds=30)

        # not allowed: said with what to do
        w.api.stop()
        w.api.forbidden.add(PODS.format(ns="llm"))
        w.api.forget()
        w.api.start()
        wait_for("it says so", lambda: "needs a Role with verbs get, list and watch on pods" in w.said(), 30)
        assert w.used() == ["1", "2", "4"]
        w.api.forbidden.clear()

        # no storm: back-off bounds what it asked in all
        assert len(w.api.requests) < 400, len(w.api.requests)


def selectors_have_sets():
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--endpoint-selector", "app in (llm, other), tier notin (gpu),!canary, stage != dev",
                          "--endpoint-target-ports", None, "--pool-namespace", "llm"])
        w.args[3] = str(w.worker_port)
        for n, labels in enumerate(({}, {"app": "other"}, {"app": "third"}, {"tier": "gpu"}, {"tier": "cpu"}, {"canary": "yes"},
                                    {"stage": "dev"}, {"stage": "prod"}), 1):
            w.worker(f"p{n}", n, labels=labels)
        w.start()
        w.wait_used("1", "2", "5", "8", seconds=10)


def ports_of_a_pod_come_and_go():
    """Data-parallel ranks: an endpoint a port, of which an annotation can leave some out."""
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--endpoint-selector", "app=llm", "--endpoint-target-ports", None, "--pool-namespace", "llm"])
        second = free_port()
        w.args[3] = f"{w.worker_port},{second}"
        other = Worker("127.0.1.1", second)
        stack.callback(other.stop)
        w.worker("a", 1)
        w.start()
        ports = lambda: sorted(int(p["address"].split(":")[1]) for p in w.parts() if p["state"] == "used")

        def wait_ports(*want):
            wait_for(f"ports {want}", lambda: ports() == sorted(want), 10)
        wait_ports(w.worker_port, second)
        for annotation in ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"):
            w.worker("a", 1, annotations={annotation: f" {second}, 1, x"})
            wait_ports(second)
            w.worker("a", 1, annotations={annotation: ""})
            wait_ports()
            reason = next(p["reason"] for p in w.parts() if p["state"] == "not_used")
            assert "active-ports" in reason, reason
            w.worker("a", 1)
            wait_ports(w.worker_port, second)
        w.worker("a", 1, annotations={"llm-d.ai/active-ports": str(second), "inference.networking.k8s.io/active-ports": ""})
        wait_ports(second)


def the_cache_manager_hears_each_rank():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        w.api.pod("a", "127.0.1.1", annotations={"llm-d.ai/active-ports": "8000,8002"})
        w.api.pod("b", "127.0.1.2", ready=False)
        w.api.pod("c", "127.0.1.2")  # the address was used again: b is not known to be gone yet
        w.api.start()
        stack.callback(lambda: w.api.server and w.api.stop())
        events, replay = free_port(), free_port()
        heard, listeners = set(), []
        for ip in ("127.0.1.1", "127.0.1.2"):
            for rank in range(3):
                s = socket.create_server((ip, events + rank))
                s.settimeout(10)
                listeners.append((f"{ip}:{events + rank}", s))
                stack.callback(s.close)

        def listen(name, s):
            with contextlib.suppress(OSError):
                stack.callback(s.accept()[0].close)
                heard.add(name)
        for name, s in listeners:
            threading.Thread(target=listen, args=(name, s), daemon=True).start()
        w.part = harness.Part("cache", ["cache", "--listen", f"127.0.0.1:{w.port}", "--endpoint-selector", "app=llm",
                                        "--endpoint-target-ports", "8000,8001,8002", "--pool-namespace", "llm", "--kv-events-port",
                                        str(events), "--kv-replay-port", str(replay), "--kubeconfig",
                                        kubeconfig(w.folder, w.api.port)], w.port, w.log)
        stack.callback(w.end)
        want = {f"127.0.1.1:{events}", f"127.0.1.1:{events + 2}"} | {f"127.0.1.2:{events + r}" for r in range(3)}
        wait_for("each rank is heard", lambda: heard == want, 10)
        page = lambda: request(w.port, "GET", "/metrics").body
        names = lambda: set(re.findall(r'^llmd_kv_source_up\{source="(\S+)"\}', page(), re.M))
        wait_for("sources", lambda: metric(w.port, "llmd_kv_sources") == 5, 5)
        assert {"a-rank-0", "a-rank-2"} < names() and len(names()) == 5, names()
        wait_for("pods are followed", lambda: metric(w.port, "llmd_kube_followed", '"pods"') == 1, 5)
        w.api.delete(PODS, "a")
        wait_for("its sources left", lambda: metric(w.port, "llmd_kv_sources") == 3 and len(names()) == 3, 5)
        w.api.stop()
        wait_for("it is noticed", lambda: metric(w.port, "llmd_kube_followed", '"pods"') == 0, 10)
        assert metric(w.port, "llmd_kv_sources") == 3 and metric(w.port, "llmd_kube_errors_total", '"pods"') > 0


def the_server_says_when_to_come_back():
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--endpoint-selector", "app=llm", "--endpoint-target-ports", None, "--pool-namespace", "llm"])
        w.args[3] = str(w.worker_port)
        w.worker("a", 1)
        w.api.retry_after = 4
        w.start()
        time.sleep(6)  # alone it would have asked each kind about four times by now
        count = len(w.api.asked)
        assert 5 <= count <= 10, count  # pods and four kinds of objects
        w.api.retry_after = None
        w.wait_used("1", seconds=10)


def changes_without_end_and_an_unreadable_one_hold_nothing_up():
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--endpoint-selector", "app=llm", "--endpoint-target-ports", None, "--pool-namespace", "llm"])
        w.args[3] = str(w.worker_port)
        w.worker("a", 1)
        w.worker("b", 2)
        w.start()
        w.wait_used("1", "2", seconds=10)

        # another change every 8 ms, closer than changes are told together
        over = threading.Event()

        def churn():
            n = 0
            while not over.wait(0.008):
                n += 1
                w.worker("b", 2, labels={"n": str(n)})

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            time.sleep(0.2)
            w.worker("c", 3)
            w.wait_used("1", "2", "3", seconds=5)
        finally:
            over.set()
            thread.join()

        # an event that cannot be read: all is listed again, at once and not when the watch ends
        w.api.event(PODS, "ADDED", '{"metadata":{"name":"x","labels":{"app":"llm"}},"deep":' + "[" * 200 + "]" * 200 + "}")
        wait_for("it says so", lambda: "an event that cannot be read" in w.said(), 5)
        w.worker("d", 4)
        w.wait_used("1", "2", "3", "4", seconds=10)

        # no pod ready any more, then an empty list: not believed either, while workers answer
        for name, n in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
            w.worker(name, n, ready=False)
        wait_for("doubted", lambda: "no pod is ready any more" in w.said(), 5)
        w.api.stop()
        w.api.objects.pop(PODS.format(ns="llm"))
        w.api.kind(PODS)
        w.api.forget()
        w.api.start()
        wait_for("it says so", lambda: "the list of pods is empty while workers answer" in w.said(), 20)
        assert w.used() == ["1", "2", "3", "4"] and w.ask().status == 200


def objectives_and_rewrites_are_followed():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        ref = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}
        w.worker("a", 1)
        w.api.put(POOLS, pool(w.worker_port))
        rewrite = lambda name, model, target, pool="pool": {
            "apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceModelRewrite",
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"poolRef": {**ref, "name": pool}, "rules": [{"matches": [{"model": {"type": "Exact", "value": model}}],
                                                          "targets": [{"modelRewrite": target}]}]}}
        w.api.put(REWRITES, rewrite("r", "alias", "m"))
        w.api.put(REWRITES, rewrite("elsewhere", "foreign", "m", pool="another-pool"))
        w.api.kind(OBJECTIVES)
        w.start()
        w.wait_used("1", seconds=10)
        wait_for("the alias is known", lambda: w.ask("alias").status == 200, 5)
        assert w.ask("foreign").status == 404
        wait_for("the kind is there", lambda: crd(w, "inferencemodelrewrites.llm-d.ai") == "1", 5)
        wait_for("the older is missing", lambda: crd(w, "inferencemodelrewrites.inference.networking.x-k8s.io") == "0", 5)
        w.api.put(REWRITES, rewrite("r", "renamed", "m"))
        wait_for("the new name is known", lambda: w.ask("renamed").status == 200, 5)
        assert w.ask("alias").status == 404
        w.api.delete(REWRITES, "r")
        wait_for("it is forgotten", lambda: w.ask("renamed").status == 404, 5)

        # one that cannot be read is left out, alone
        bad = rewrite("bad", "x", "m")
        del bad["spec"]["rules"]
        w.api.put(REWRITES, bad)
        wait_for("it says so", lambda: "needs spec.rules" in w.said(), 5)
        w.api.put(REWRITES, rewrite("after", "later", "m"))
        wait_for("another's name is known", lambda: w.ask("later").status == 200, 5)


def a_request_wakes_a_fleet_of_none():
    with contextlib.ExitStack() as stack:
        w = World(stack, ["--pool-name", "pool", "--wait-ms", "20000"])
        w.api.put(POOLS, pool(w.worker_port))
        w.start()
        wait_for("the pool is followed", lambda: "followed ports=1" in w.said(), 10)
        assert request(w.port, "GET", "/health/ready").status == 503 and request(w.port, "GET", "/readyz").status == 200
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(w.ask().status)) for _ in range(5)]
        for t in threads:
            t.start()
        # what an autoscaler reads
        wait_for("they are queued", lambda: metric(w.port, "llm_d_epp_flow_control_queue_size") == 5, 5)
        assert not answers
        w.worker("a", 1)
        for t in threads:
            t.join(10)
        assert answers == [200] * 5, answers
        assert metric(w.port, "llm_d_epp_flow_control_queue_size") == 0


def wrong_flags_say_what_to_do():
    def run(*args):
        env = {**{k: v for k, v in os.environ.items() if not k.startswith("KUBE")}, "HOME": "/nonexistent"}
        r = subprocess.run([harness.LLMD, "scheduler", "--listen", "127.0.0.1:0", *args], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=10, env=env)
        assert r.returncode != 0, args
        return r.stdout
    assert "give --kubeconfig FILE" in run("--pool-name", "p")
    assert "needs --endpoint-target-ports" in run("--endpoint-selector", "app=x")
    assert "exclude each other" in run("--endpoint-selector", "app=x", "--pool-name", "p", "--endpoint-target-ports", "1")
    assert "not from both" in run("--pool-name", "p", "--endpoint", "127.0.0.1:1")
    assert "must be numbers 1..65535" in run("--endpoint-selector", "app=x", "--endpoint-target-ports", "http")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
                "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"
                "users: [{name: u, user: {exec: {command: aws}}}]\n")
        f.flush()
        said = run("--pool-name", "p", "--kubeconfig", f.name)
        assert "users with exec are not supported" in said and f"{f.name}:4:" in said, said


if __name__ == "__main__":
    if not shutil.which("openssl"):
        harness.skip("openssl is not installed")
    harness.main(pods_come_and_go_by_the_pool, the_last_good_view_is_kept, selectors_have_sets,
                 ports_of_a_pod_come_and_go, the_cache_manager_hears_each_rank, the_server_says_when_to_come_back,
                 changes_without_end_and_an_unreadable_one_hold_nothing_up, objectives_and_rewrites_are_followed,
                 a_request_wakes_a_fleet_of_none,
                 wrong_flags_say_what_to_do)
