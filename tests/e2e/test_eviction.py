"""Policies of flow control on real connections: a sheddable request in flight is ended for one of higher priority that waits, with
an honest error and nothing left in the books; nobody else is; and a deadline in a header decides who is next.

The Envoy part is left out, and said so, where there is no envoy (PATH, or ENVOY)."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from extproc_envoy import ENVOY, Backend, Envoy  # noqa: E402
from fake_worker import Worker, fake_worker  # noqa: E402
from harness import LLMD, Stream, free_port, main, metric, request, wait_for  # noqa: E402

PATH = "/v1/completions"
STEP_S = 0.02
OBJECTS = """kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1}
---
kind: InferenceObjective
metadata: {name: urgent}
spec: {priority: 10}
"""
CONFIG = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- {{type: concurrency-detector, parameters: {{maxConcurrency: {slots}}}}}
- {{type: slo-deadline-ordering-policy}}
- {{type: sheddable-eviction-filter}}
- {{type: priority-then-time-eviction-order-policy}}
- {{type: queue-scorer}}
flowControl:
  enableEviction: {evicts}
  saturationDetector: {{pluginRef: concurrency-detector}}
  defaultPriorityBand: {{orderingPolicyRef: slo-deadline-ordering-policy}}
"""


class Slow(Worker):
    """A token a step; max_tokens of them.  A prompt that ends in "!" has its first one late, one in "#" has large ones and no pause.
    What it saw is in the server's lists."""

    def do_POST(self):
        ask = json.loads(Backend.read_body(self))  # Envoy sends chunks
        name, seen = ask["prompt"], self.server.seen
        seen["begun"].append(name)
        try:
            self.answer(ask)
            seen["ended"].append(name)
        except OSError:
            seen["left"].append(name)

    def answer(self, ask):
        """Also what it does not send yet it tries, as a server does that looks whether its client is still there."""
        stream, late, large = ask.get("stream"), 100 if ask["prompt"].endswith("!") else 0, ask["prompt"].endswith("#")
        event = {"object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "x " * (20000 if large else 1),
                                                                         "finish_reason": None}]}
        for i in range(late + ask["max_tokens"]):
            time.sleep(0 if large else STEP_S)
            self.connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                if self.connection.recv(1) == b"":
                    raise OSError("the client left")
            self.connection.setblocking(True)
            if stream and i == late:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
            if stream and i >= late:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.server.seen["events"] += 1
        if stream:
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True
        else:
            self.reply(json.dumps({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}))


class Place:
    def __init__(self, door, seen):
        self.port, self.seen = door, seen

    def body(self, name, tokens, **more):
        return {"model": "m", "prompt": name, "max_tokens": tokens, **more}

    def headers(self, objective):
        return {"x-llm-d-inference-objective": objective} if objective else {}

    def stream(self, name, objective, tokens):
        return Stream(self.port, PATH, self.body(name, tokens, stream=True), self.headers(objective), 20)

    def ask(self, name, objective, tokens, **headers):
        return request(self.port, "POST", PATH, self.body(name, tokens), {**self.headers(objective), **headers}, 20)

    def later(self, *args, **headers):
        """Asks on a thread of its own; its .reply is there after join()."""
        t = threading.Thread(target=lambda: setattr(t, "reply", self.ask(*args, **headers)))
        t.start()
        return t

    def has_begun(self, name):
        wait_for(f"{name} has begun", lambda: name in self.seen["begun"], 10)

    def queued(self):
        return metric(self.port, "llm_d_epp_flow_control_queue_size")

    def is_idle(self):
        """No books are left open anywhere."""
        page = request(self.port, "GET", "/metrics").body
        zero = ("llmd_scheduler_inflight_requests", "llmd_scheduler_endpoint_inflight", "llm_d_epp_request_running", "llm_d_epp_inflight_requests",
                "llm_d_epp_inflight_tokens", "llm_d_epp_flow_control_queue_size", "llm_d_epp_flow_control_pending_reclaim")
        assert all(f"# TYPE {name} gauge\n" in page for name in zero), zero
        wait_for(f"all of {zero} are zero", lambda: all(metric(self.port, name) == 0 for name in zero), 5)

    def revoked(self, outcome="confirmed"):
        return metric(self.port, "llm_d_epp_flow_control_revocations_total", f'outcome="{outcome}"')


@contextlib.contextmanager
def place(slots=1, evicts="true", args=()):
    worker, door = free_port(), free_port()
    server = fake_worker("127.0.0.1", worker, kind=Slow)
    server.seen = {"begun": [], "ended": [], "left": [], "events": 0}
    with tempfile.TemporaryDirectory(prefix="llmd-policies-") as folder, tempfile.TemporaryFile("w+") as log:
        files = {"config.yaml": CONFIG.format(slots=slots, evicts=evicts), "objects.yaml": OBJECTS}
        for name, text in files.items():
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--endpoint", f"127.0.0.1:{worker}",
                              "--config-file", os.path.join(folder, "config.yaml"),
                              "--objects-file", os.path.join(folder, "objects.yaml"), *args], stdout=log, stderr=log)
        try:
            wait_for("the worker is used", lambda: request(door, "GET", "/readyz").status == 200, 10)
            wait_for("the door has a model", lambda: request(door, "GET", "/v1/models").json().get("data"), 10)
            yield Place(door, server.seen)
        except BaseException:
            log.seek(0)
            print(log.read()[-4000:])
            raise
        finally:
            p.terminate()
            p.wait(10)
            server.shutdown()
            server.server_close()
    assert p.returncode == 0, p.returncode


def cut(stream):
    """The error that its rest ends in; the transfer must not look whole."""
    try:
        rest = stream.response.read()
    except http.client.IncompleteRead as e:
        events = [line for line in e.partial.decode().splitlines() if line.startswith("data: ")]
        assert "data: [DONE]" not in events, events
        return json.loads(events[-1][6:])["error"]
    raise AssertionError(f"it ended as if it were whole: {rest[-200:]}")


def a_stream_makes_room():
    with place(slots=2, args=["--loops", "2"]) as s:
        plain, low = s.stream("plain", None, 150), s.stream("low", "batch", 10000)
        next(iter(plain)), next(iter(low))
        begin = time.monotonic()
        urgent = s.ask("urgent", "urgent", 2)
        took = time.monotonic() - begin
        assert urgent.status == 200 and took < 2, (urgent.status, took)
        error = cut(low)
        assert error["code"] == 429 and error["type"] == "RateLimitError" and error["reason"] == "evicted", error
        assert "higher priority" in error["message"], error
        wait_for("the worker knows", lambda: s.seen["left"] == ["low"], 5)
        assert sum(1 for _ in plain) > 100 and plain.done and plain.error is None  # nobody touched it
        assert metric(s.port, "llm_d_epp_flow_control_revocations_issued_total", 'priority="10"') == 1
        assert s.revoked() == 1 and s.revoked("timed_out") == 0
        assert metric(s.port, "llm_d_epp_flow_control_revocation_confirmation_seconds_count") == 1
        s.is_idle()


def before_its_first_byte_it_is_a_429():
    with place() as s:
        for name, stream in (("whole", False), ("late!", True)):
            reply = threading.Thread(target=lambda: setattr(reply, "got", request(
                s.port, "POST", PATH, s.body(name, 10000, stream=stream), s.headers("batch"), 20)))
            reply.start()
            s.has_begun(name)
            assert s.ask("urgent", "urgent", 2).status == 200
            reply.join()
            r = reply.got
            assert r.status == 429 and r.json()["error"]["reason"] == "evicted", (r.status, r.body)
            assert r.headers["x-llm-d-request-dropped-reason"] == "evicted" and r.headers["x-should-retry"] == "true", r.headers
            assert 1 <= int(r.headers["retry-after"]) <= 36, r.headers
            wait_for("the worker knows", lambda: name in s.seen["left"], 5)
            s.is_idle()
        assert s.revoked() == 2


def the_latest_goes_and_no_more_than_needed():
    with place(slots=3) as s:
        streams = {}
        for name in ("first", "second", "third"):
            streams[name] = s.stream(name, "batch", 60)
            next(iter(streams[name]))
        assert s.ask("urgent", "urgent", 2).status == 200
        assert cut(streams["third"])["reason"] == "evicted"
        for name in ("first", "second"):
            assert sum(1 for _ in streams[name]) > 30 and streams[name].done, name
        assert s.seen["left"] == ["third"], s.seen
        s.is_idle()


def a_slow_client_keeps_no_place():
    with place() as s:
        slow = s.stream("slow#", "batch", 1000)
        seen, since = -1, 0.0

        def is_stuck():
            """The worker has sent nothing for a while: everything on the way is full."""
            nonlocal seen, since
            if s.seen["events"] != seen:
                seen, since = s.seen["events"], time.monotonic()
            return seen > 0 and time.monotonic() - since > 0.5
        wait_for("its client takes no more", is_stuck, 20)
        assert seen < 1000
        assert s.ask("urgent", "urgent", 2).status == 200
        assert metric(s.port, "llmd_scheduler_endpoint_inflight") == 0 and s.revoked() == 1
        wait_for("the worker knows", lambda: s.seen["left"] == ["slow#"], 5)
        assert cut(slow)["reason"] == "evicted"
        s.is_idle()


def who_is_not_to_go_stays():
    """Without eviction, and with it when those in flight are not sheddable or nobody better waits: who waits gets the next free place."""
    for evicts, running, waiting in (("false", "batch", "urgent"), ("true", None, "urgent"), ("true", "batch", "batch")):
        with place(evicts=evicts) as s:
            held = s.stream("held", running, 40)
            next(iter(held))
            t = s.later("waits", waiting, 2)
            wait_for("it waits", lambda: s.queued() == 1, 10)
            assert sum(1 for _ in held) > 20 and held.done and held.error is None
            t.join()
            assert t.reply.status == 200 and s.seen["begun"] == ["held", "waits"] and not s.seen["left"], s.seen
            assert metric(s.port, "llm_d_epp_flow_control_revocations_issued_total") == 0
            s.is_idle()


def the_nearest_deadline_is_next():
    with place() as s:
        held = s.stream("held", None, 60)
        next(iter(held))
        threads = []
        for name, headers in (("none", {}), ("wrong", {"x-llm-d-slo-ttft-ms": "soon"}), ("far", {"x-llm-d-slo-ttft-ms": "30000"}),
                              ("near", {"x-llm-d-slo-ttft-ms": "5000"}), ("between", {"x-llm-d-slo-ttft-ms": "20000"})):
            threads.append(s.later(name, None, 1, **headers))
            wait_for(f"{name} waits", lambda: s.queued() == len(threads), 10)
        assert sum(1 for _ in held) > 0 and held.done
        for t in threads:
            t.join()
            assert t.reply.status == 200
        assert s.seen["begun"] == ["held", "near", "between", "far", "none", "wrong"], s.seen["begun"]
        s.is_idle()


def under_load():
    """Many at once, on several loops: each is answered or told that it was evicted, only batch work is, and nothing is left."""
    with place(slots=6, args=["--loops", "3"]) as s:
        outcomes, until = {"batch": [], "urgent": [], None: []}, time.monotonic() + 4

        def load(objective, tokens, stream, i):
            n = 0
            while time.monotonic() < until:
                name, n = f"{objective}-{stream}-{i}-{n}", n + 1
                if not stream:
                    r = s.ask(name, objective, tokens)
                    outcomes[objective].append(r.status if r.status == 200 else r.json()["error"]["reason"])
                    continue
                st = s.stream(name, objective, tokens)
                for _ in st:
                    pass
                outcomes[objective].append(200 if st.done else (st.error or {}).get("reason", st.status))
        ts = [threading.Thread(target=load, args=(objective, tokens, stream, i)) for objective, tokens, stream in
              (("batch", 40, True), ("batch", 40, False), ("urgent", 5, True), ("urgent", 5, False), (None, 5, True)) for i in range(3)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
        assert set(outcomes["urgent"]) == set(outcomes[None]) == {200}, outcomes
        # a stream that ends before its first byte is a 429 without events
        assert set(outcomes["batch"]) <= {200, 429, "evicted"}, outcomes
        gone = sum(o != 200 for o in outcomes["batch"])
        s.is_idle()
        assert gone > 0 and s.revoked() == metric(s.port, "llm_d_epp_flow_control_revocations_issued_total") >= gone, (gone, s.revoked())
        print(f"evicted {gone} of {len(outcomes['batch'])}; urgent {len(outcomes['urgent'])}")


def behind_envoy():
    """The same by the immediate response: Envoy gives it to the client, or breaks off what has begun, and leaves the worker."""
    if ENVOY is None:
        print("no envoy here: its door is not tried")
        return
    grpc = free_port()
    with place(args=["--grpc-port", str(grpc)]) as s, tempfile.TemporaryDirectory(prefix="llmd-policies-") as folder:
        envoy = Envoy(folder, ("127.0.0.1", grpc), ("127.0.0.1", 9), False)
        door = Place(envoy.port, s.seen)
        try:
            envoy.healthy()
            t = door.later("whole", "batch", 10000)
            s.has_begun("whole")
            assert door.ask("urgent", "urgent", 2).status == 200
            t.join()
            assert t.reply.status == 429 and t.reply.body == "request evicted by flow control", (t.reply.status, t.reply.body)
            assert t.reply.headers["x-llm-d-request-dropped-reason"] == "evicted" and "retry-after" in t.reply.headers
            low = door.stream("low", "batch", 10000)
            next(iter(low))
            assert door.ask("urgent", "urgent", 2).status == 200
            with contextlib.suppress(http.client.IncompleteRead, OSError):
                rest = low.response.read()
                raise AssertionError(f"it ended as if it were whole: {rest[-200:]}")
            wait_for("the worker knows", lambda: s.seen["left"] == ["whole", "low"], 5)
            s.is_idle()
            assert s.revoked() == 2 and metric(s.port, "llm_d_epp_extproc_streams_inflight") == 0
            assert metric(s.port, "llm_d_epp_extproc_streams_total", 'code="evicted"') == 2
        finally:
            envoy.child.terminate()
            envoy.child.wait(10)


main(a_stream_makes_room, before_its_first_byte_it_is_a_429, the_latest_goes_and_no_more_than_needed,
     a_slow_client_keeps_no_place, who_is_not_to_go_stays, the_nearest_deadline_is_next, under_load,
     behind_envoy)
