"""What a configuration's policies do to requests on their way, before small workers of our own that do as they are told:
tenants by agent, the header of who served."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import subprocess
import tempfile

from fake_worker import fake_worker
from harness import LLMD, free_port, main, metric, request, wait_for

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
ASK = {"model": "m", "prompt": "hello there", "max_tokens": 4}


@contextlib.contextmanager
def scheduler(config, workers, *args):
    """Ready, with every worker in rotation; yields its port."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f, tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        f.write(config)
        f.flush()
        endpoints = [x for w in workers for x in ("--endpoint", f"127.0.0.1:{w}")]
        p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{port}", "--config-file", f.name, *endpoints, *args],
                             stdout=log, stderr=log)
        try:
            wait_for("every worker is used", lambda: metric(port, "llm_d_epp_ready_endpoints") == len(workers), 10)
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


if __name__ == "__main__":
    main(an_agent_is_a_tenant_unless_a_header_names_one, who_served_is_told)
