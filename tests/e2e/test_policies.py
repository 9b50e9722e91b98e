"""What a configuration's policies do to requests on their way, before small workers of our own that do as they are told:
tenants by agent, the header of who served, names of metrics."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import subprocess
import tempfile

from fake_worker import fake_worker
from harness import LLMD, free_port, main, metric, request, wait_for

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
ASK = {"model": "m", "prompt": "hello there", "max_tokens": 4}


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
            assert p.wait(10) == 0


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
            assert metric(port, "llm_d_epp_request_total", label) == before + 1, (headers, tenant)


def who_served_is_told():
    workers = [free_port(), free_port()]
    for w in workers:
        fake_worker("127.0.0.1", w)
    config = HEAD + "plugins: [{type: destination-endpoint-served-verifier}, {type: random-picker}]\n"
    with scheduler(config, workers) as port:
        said = {request(port, "POST", "/v1/completions", ASK).headers["x-conformance-test-served-endpoint"] for _ in range(40)}
        assert said == {f"127.0.0.1:{w}" for w in workers}, said


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


if __name__ == "__main__":
    main(an_agent_is_a_tenant_unless_a_header_names_one, who_served_is_told, an_engine_is_read_by_configured_names)
