"""What a configuration's policies do to requests on their way, before small workers of our own that do as they are told:
tenants by agent, the header of who served, deadlines in headers, names of metrics, bursts, and what Envoy is told of it."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import struct
import subprocess
import tempfile
import threading
import time

from extproc_peer import (A_IMMEDIATE, A_REQUEST_BODY, A_REQUEST_HEADERS, A_RESPONSE_BODY, A_RESPONSE_HEADERS, RESPONSE_BODY, RESPONSE_HEADERS,
                          Envoy, field, metadata)
from fake_worker import Worker, fake_worker
from harness import LLMD, free_port, main, metric, request, wait_for

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
ASK = {"model": "m", "prompt": "hello there", "max_tokens": 4}
OBJECTIVES = "".join(f"---\nkind: InferenceObjective\nmetadata: {{name: {n}}}\nspec: {{priority: {p}}}\n"
                     for n, p in (("urgent", 10), ("batch", -1)))
EVICTS = HEAD + """featureGates: [flowControl]
plugins: [{type: concurrency-detector, parameters: {maxConcurrency: %d}}, {type: queue-scorer}, {type: sheddable-eviction-filter},
          {type: priority-then-time-eviction-order-policy}]
flowControl: {enableEviction: true, saturationDetector: {pluginRef: concurrency-detector}}
"""


@contextlib.contextmanager
def scheduler(config, workers, *args, ready=None):
    """Ready, with every worker in rotation; yields its port."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f, tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        f.write(config)
        f.flush()
        endpoints = [x for w in workers for x in ("--endpoint", f"127.0.0.1:{w}")]
        p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{port}", "--config-file", f.name, *endpoints, *args],
                             stdout=log, stderr=log)
        try:
            wait_for("every worker is used", lambda: metric(port, "llm_d_epp_ready_endpoints") == (ready or len(workers)), 10)
            yield port
        except BaseException:
            print(open(log.name).read()[-4000:])
            raise
        finally:
            p.terminate()
            try:
                assert p.wait(10) == 0
            except subprocess.TimeoutExpired:
                p.kill()
                raise


def an_agent_is_a_tenant_unless_a_header_names_one():
    worker = free_port()
    fake_worker("127.0.0.1", worker)
    config = HEAD + "plugins: [{type: agent-identity, parameters: {additionalSessionHeaders: [X-Crew]}}, {type: queue-scorer}]\n"
    with scheduler(config, [worker], "--allow-experimental-plugins") as port:
        for headers, tenant in ((None, "default-flow"), ({"x-claude-code-session-id": "cc-1"}, "cc-1"),
                                ({"session-id": "s-2", "x-crew": "crew-3"}, "crew-3"), ({"session-id": "not an id"}, "default-flow"),
                                ({"session-id": "s-4", "x-llm-d-inference-fairness-id": "team"}, "team")):
            label = f'fairness_id="{tenant}"'
            before = metric(port, "llm_d_epp_request_total", label)
            assert request(port, "POST", "/v1/completions", ASK, headers).status == 200
            wait_for(f"{headers} is of {tenant}", lambda: metric(port, "llm_d_epp_request_total", label) == before + 1, 5)


def who_served_is_told():
    workers = [free_port(), free_port()]
    for w in workers:
        fake_worker("127.0.0.1", w)
    config = HEAD + "plugins: [{type: destination-endpoint-served-verifier}, {type: random-picker}]\n"
    with scheduler(config, workers) as port:
        said = {request(port, "POST", "/v1/completions", ASK).headers["x-conformance-test-served-endpoint"] for _ in range(40)}
        assert said == {f"127.0.0.1:{w}" for w in workers}, said


class InOrder(Worker):
    """Notes who comes, and answers each when it is told to."""

    came, may_end = [], threading.Semaphore(0)

    def do_POST(self):
        InOrder.came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"])
        self.may_end.acquire()
        self.reply(json.dumps({"choices": [{"index": 0, "text": "done", "finish_reason": "stop"}]}))


def the_earliest_deadline_leaves_the_queue_first():
    worker = free_port()
    fake_worker("127.0.0.1", worker, kind=InOrder)
    config = HEAD + """featureGates: [flowControl]
plugins: [{type: concurrency-detector, parameters: {maxConcurrency: 1}}, {type: queue-scorer}, {type: slo-deadline-ordering-policy}]
flowControl:
  defaultPriorityBand: {orderingPolicyRef: slo-deadline-ordering-policy}
  saturationDetector: {pluginRef: concurrency-detector}
"""
    with scheduler(config, [worker]) as port:
        asked = []

        def ask(prompt, headers, waiting):
            t = threading.Thread(target=lambda: asked.append(request(port, "POST", "/v1/completions", dict(ASK, prompt=prompt), headers)),
                                 daemon=True)
            t.start()
            wait_for(f"{prompt} waits", lambda: metric(port, "llm_d_epp_flow_control_queue_size") == waiting, 5)
            return t

        threads = [ask("first", {}, 0)]
        wait_for("the first one runs", lambda: InOrder.came == ["first"], 5)
        threads += [ask("none", {}, 1), ask("rubbish", {"x-llm-d-slo-ttft-ms": "soon"}, 2), ask("late", {"x-llm-d-slo-ttft-ms": "60000"}, 3),
                    ask("older name", {"x-slo-ttft-ms": "20000.5"}, 4), ask("early", {"x-llm-d-slo-ttft-ms": "100", "x-slo-ttft-ms": "90000"}, 5)]
        for i in range(6):
            wait_for(f"{i + 1} came", lambda: len(InOrder.came) == i + 1, 5)
            InOrder.may_end.release()
        for t in threads:
            t.join(5)
        assert InOrder.came == ["first", "early", "older name", "late", "none", "rubbish"], InOrder.came
        assert [r.status for r in asked] == [200] * 6


def an_engine_is_read_by_configured_names():
    ours, other = free_port(), free_port()
    page = 'jobs{state="queued"} 7\njobs{state="run"} 2\ncore_temp 90\nvllm:num_requests_waiting 1\n'
    server = fake_worker("127.0.0.1", ours, page=page)
    fake_worker("127.0.0.1", other)
    config = HEAD + """plugins:
- type: core-metrics-extractor
  parameters:
    engineConfigs:
    - name: ours
      queuedRequestsSpec: jobs{state=queued}
      runningRequestsSpec: jobs{state=run}
      customMetrics: [{attributeKey: heat, metricSpec: core_temp}]
- type: endpoint-attribute-filter
  parameters: {attribute: heat, algorithm: {type: threshold, threshold: {operator: LessThan, value: 80}}}
- type: random-picker
- type: destination-endpoint-served-verifier
"""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as endpoints:
        endpoints.write("endpoints:\n" + "".join(
            f'- {{name: w{i}, address: 127.0.0.1, port: "{p}", labels: {{llm-d.ai/engine-type: {engine}}}}}\n'
            for i, (p, engine) in enumerate(((ours, "ours"), (other, "vllm")))))
        endpoints.flush()
        with scheduler(config, [], "--endpoints-file", endpoints.name, "--allow-experimental-plugins", ready=2) as port:
            queue = lambda: [metric(port, "llm_d_epp_per_endpoint_queue_size", f':{p}"') for p in (ours, other)]
            wait_for(f"its queue is known, not {queue()}", lambda: queue() == [7, 0], 5)
            served = lambda: {request(port, "POST", "/v1/completions", ASK).headers["x-conformance-test-served-endpoint"]
                              for _ in range(30)}
            assert served() == {f"127.0.0.1:{other}"}  # the other one is too hot
            server.page = page.replace("90", "20")
            wait_for("it has cooled down", lambda: len(served()) == 2, 5)
            missing = lambda: metric(port, "llm_d_epp_datalayer_extract_errors_total", 'extractor_type="core-metrics-extractor"')
            assert missing() == 0
            server.page = page.replace("core_temp", "core_tmp")
            wait_for("what is missing is counted", missing, 5)


def a_burst_goes_where_its_beginning_goes():
    workers, grpc = [free_port(), free_port()], free_port()
    for w in workers:
        fake_worker("127.0.0.1", w)
    config = HEAD + """plugins:
- {type: burst-prefix-cache-producer, parameters: {windowDurationMs: 700}}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: burst-prefix-cache-producer}}
- type: max-score-picker
- type: destination-endpoint-served-verifier
"""
    prompts = [f"{w} " * 600 for w in ("apple", "berry")]
    with scheduler(config, workers, "--grpc-port", str(grpc), "--allow-experimental-plugins") as port:
        served, begin = [], time.monotonic()

        def ask(i):
            r = request(port, "POST", "/v1/completions", dict(ASK, prompt=prompts[i % 2]))
            served.append((i % 2, r.headers["x-conformance-test-served-endpoint"]))

        threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(8)]
        for t in threads:
            t.start()
        low, gone = Envoy(grpc), Envoy(grpc)  # the other door's requests belong to the same burst
        low.ask(json.dumps(dict(ASK, prompt=prompts[0])))
        gone.ask(json.dumps(dict(ASK, prompt=prompts[1])))
        time.sleep(0.2)
        assert served == [] and A_REQUEST_HEADERS not in low.answers()
        gone.peer.s.close()  # and whoever leaves while it waits harms nobody
        for t in threads:
            t.join(5)
        assert time.monotonic() - begin >= 0.7
        places = [{to for k, to in served if k == kind} for kind in (0, 1)]
        assert len(served) == 8 and all(len(p) == 1 for p in places) and places[0] != places[1], served
        told = wait_for("the other door's is picked", lambda: low.answers().get(A_REQUEST_HEADERS), 5)
        assert field(1, "x-gateway-destination-endpoint") + field(3, places[0].pop()) in told, told
        low.headers(RESPONSE_HEADERS, {":status": "200"})
        low.body(RESPONSE_BODY, "{}")
        wait_for("it is answered", lambda: A_RESPONSE_BODY in low.answers(), 5)


def envoy_is_told_who_served_and_what_it_cost():
    worker, grpc = free_port(), free_port()
    fake_worker("127.0.0.1", worker)
    config = HEAD + """plugins:
- type: destination-endpoint-served-verifier
- type: request-attribute-reporter
  parameters:
    attributes:
    - key: {name: x-cost}
      expression: usage.prompt_tokens + 2.5 * usage.completion_tokens
      condition: has(usage.prompt_tokens_details)
"""
    usage = {"prompt_tokens": 40, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
    with scheduler(config, [worker], "--grpc-port", str(grpc), "--allow-experimental-plugins"):
        for stream in (False, True):
            e = Envoy(grpc)
            e.ask(json.dumps(dict(ASK, stream=stream)))
            wait_for("it is picked", lambda: A_REQUEST_BODY in e.answers(), 5)
            e.headers(RESPONSE_HEADERS, {":status": "200", "content-type": "text/event-stream" if stream else "application/json"},
                      metadata("envoy.lb", "x-gateway-destination-endpoint-served", "10.9.9.9:1") if stream else b"")
            told = wait_for("its head is answered", lambda: e.answers().get(A_RESPONSE_HEADERS), 5)
            want = "10.9.9.9:1" if stream else "fail: missing envoy lb metadata"
            assert field(1, "x-conformance-test-served-endpoint") + field(3, want) in told, told
            text = json.dumps({"choices": [], "usage": usage})
            e.body(RESPONSE_BODY, f"data: {text}\n\ndata: [DONE]\n\n" if stream else text)
            told = wait_for("its body is answered", lambda: e.answers().get(A_RESPONSE_BODY), 5)
            assert field(1, "x-cost") + field(2, b"\x11" + struct.pack("<d", 52)) in told and b"envoy.lb" in told, told


def envoy_ends_a_request_for_a_higher_one():
    worker, grpc = free_port(), free_port()
    fake_worker("127.0.0.1", worker)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as objects:
        objects.write(OBJECTIVES)
        objects.flush()
        with scheduler(EVICTS % 1, [worker], "--objects-file", objects.name, "--grpc-port", str(grpc)) as port:
            for begun in (False, True):  # before and after its first byte
                low, high = Envoy(grpc), Envoy(grpc)
                low.ask(json.dumps(ASK), {"x-llm-d-inference-objective": "batch"})
                wait_for("it is picked", lambda: A_REQUEST_BODY in low.answers(), 5)
                if begun:
                    low.headers(RESPONSE_HEADERS, {":status": "200"})
                    low.body(RESPONSE_BODY, "first", end=False)
                    wait_for("its first byte passes", lambda: A_RESPONSE_BODY in low.answers(), 5)
                high.ask(json.dumps(ASK), {"x-llm-d-inference-objective": "urgent"})
                told = wait_for("the low one ends", lambda: low.answers().get(A_IMMEDIATE), 5)
                assert field(1, b"\x08" + b"\xad\x03") in told and field(3, "request evicted by flow control") in told, told
                assert field(1, "x-llm-d-request-dropped-reason") + field(3, "evicted") in told, told
                wait_for("the high one is picked", lambda: A_REQUEST_BODY in high.answers(), 5)
                high.headers(RESPONSE_HEADERS, {":status": "200"})
                high.body(RESPONSE_BODY, "{}")
                wait_for("the high one is answered", lambda: A_RESPONSE_BODY in high.answers(), 5)
            wait_for("both have ended", lambda: metric(port, "llm_d_epp_flow_control_revocations_total", 'outcome="confirmed"') == 2, 5)


if __name__ == "__main__":
    main(an_agent_is_a_tenant_unless_a_header_names_one, who_served_is_told,
         the_earliest_deadline_leaves_the_queue_first, an_engine_is_read_by_configured_names,
         a_burst_goes_where_its_beginning_goes, envoy_is_told_who_served_and_what_it_cost,
         envoy_ends_a_request_for_a_higher_one)
