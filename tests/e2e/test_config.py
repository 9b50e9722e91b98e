"""llm-d's configuration runs unchanged: its profile handler splits prompts between real workers, a changed file takes
over, a broken one is refused with its line while the old one stays; headers choose another rule for one request."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import tempfile

from harness import LLMD, Setup, free_port, main, metric, prompt_of, request, wait_for

CHAT = "/v1/chat/completions"
PD = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: prefill-filter
- type: decode-filter
- type: prefix-cache-scorer
- type: queue-scorer
- type: session-affinity-scorer
- type: max-score-picker
- type: prefix-based-pd-decider
  parameters: {nonCachedTokens: 64}
- type: disagg-profile-handler
  parameters: {deciders: {prefill: prefix-based-pd-decider}}
schedulingProfiles:
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}, {pluginRef: max-score-picker}]
- name: decode
  plugins:
  - {pluginRef: decode-filter}
  - {pluginRef: prefix-cache-scorer, weight: 2}
  - {pluginRef: queue-scorer}
  - {pluginRef: session-affinity-scorer, weight: 5}
  - {pluginRef: max-score-picker}
"""
PLAIN = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: decode-filter}, {type: queue-scorer}]
"""


def write(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def refused(text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write(text)
        f.flush()
        r = subprocess.run([LLMD, "scheduler", "--endpoint", "127.0.0.1:9", "--config-file", f.name],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        assert r.returncode != 0
        return r.stdout.replace(f.name, "FILE")


def flags_of_llm_d_are_understood():
    run = lambda *args: subprocess.run([LLMD, "scheduler", "--endpoint", "127.0.0.1:9", *args], stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True, timeout=10)
    for args, want in [(["--lora-info-metric", "x"], "engineConfigs"), (["--refresh-metrics-interval", "fast"], "no duration such as 50ms"),
                       (["--metrics-cert-dir=/x"], "plain text"), (["--drain-timeout"], "needs a value"),
                       (["--disable-endpoint-subset-filter"], "always kept to"), (["-v=much"], "must be debug"),
                       (["--refresh-metrics-intervall=1s"], "no such flag")]:
        r = run(*args)
        assert r.returncode == 2 and want in r.stdout and len(r.stdout.splitlines()) == 1, (args, r.stdout)
    port, log = free_port(), tempfile.NamedTemporaryFile("w+", suffix=".log")
    p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{port}", "--endpoint", "127.0.0.1:9", "--zap-encoder", "json",
                          "-v=4", "--refresh-metrics-interval=50ms", "--metrics-staleness-threshold", "5s", "--drain-timeout=1m30s",
                          "--ha-enable-leader-election", "--secure-serving=false", "--metrics-endpoint-auth=false",
                          "--disable-endpoint-subset-filter=false"], stdout=log, stderr=log)
    try:
        wait_for("it serves", lambda: request(port, "GET", "/readyz").status == 200, 10)
    finally:
        p.terminate()
        assert p.wait(10) == 0
    said = open(log.name).read()
    assert said.count("has no effect here") == 1 and "workers do not come from Kubernetes" in said, said
    assert "timeout_ms=90000" in said, said


def configuration():
    path = os.path.join(tempfile.mkdtemp(prefix="llmd-config-"), "config.yaml")
    write(path, PD)
    with Setup(["prefill", "decode", "decode"],
               scheduler_args=["--config-file", path, "--allow-experimental-plugins"]) as s:
        used = lambda: [p for p in request(s.port, "GET", "/v1/status").json()["parts"] if p["state"] == "used" and p["name"] != "cache"]
        wait_for("all workers are used", lambda: len(used()) == 3, 10)
        ask = {"messages": [{"role": "user", "content": prompt_of(300, 3)}], "max_tokens": 8, "temperature": 0}
        first = s.ask(CHAT, ask)
        assert first.status == 200, first.body
        assert metric(s.port, "llmd_scheduler_split_total") == 1
        assert metric(s.port, "llm_d_epp_disagg_decision_total", 'decision_type="prefill-decode"') == 1
        prefill = s.workers[0].port
        wait_for("the prefill worker computed it", lambda: metric(prefill, "vllm:prompt_tokens_total") > 200, 5)
        # the same again is held by its decode worker: nothing is worth splitting
        again = s.ask(CHAT, ask)
        text = lambda r: r.json()["choices"][0]["message"]["content"]
        assert text(again) == text(first)
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 200
        assert metric(s.port, "llmd_scheduler_split_total") == 1
        # the session's header comes back and binds
        token = first.headers.get("x-session-token")
        assert token, first.headers
        assert s.ask(CHAT, ask, {"x-session-token": token}).headers.get("x-session-token") == token
        state = request(s.port, "GET", "/debug/plugins/state")
        assert state.status == 200 and state.json()["approx-prefix-cache-producer"]["blocks"] > 0, state.body
        # one request by another rule
        s.ask(CHAT, ask, {"x-llmd-strategy": "round_robin"})
        assert metric(s.port, "llmd_scheduler_decisions_total", 'strategy="round_robin"') == 1

        write(path, PLAIN.replace("queue-scorer", "queue-scoer"))
        wait_for("the broken file is refused", lambda: metric(s.port, "llmd_config_reload_failures_total") == 1, 10)
        assert s.ask(CHAT, ask, {"x-session-token": token}).headers.get("x-session-token") == token
        write(path, PLAIN)
        wait_for("the good one is taken over", lambda: metric(s.port, "llmd_config_reloads_total") == 1, 10)
        other = dict(ask, messages=[{"role": "user", "content": prompt_of(300, 4)}])
        r = s.ask(CHAT, other)
        assert r.status == 200 and "x-session-token" not in r.headers
        assert metric(s.port, "llmd_scheduler_split_total") == 1
        s.wait_idle()


def faults_have_a_place():
    out = refused(PLAIN.replace("queue-scorer", "queue-scoer"))
    assert 'FILE:3:' in out and "queue-scorer" in out, out
    out = refused(PLAIN.replace("{type: queue-scorer}", "{type: prefix-cache-scorer, parameters: {matchLengthWeigt: 1}}"))
    assert "FILE:3:" in out and "matchLengthWeight" in out, out
    out = refused(PD)
    assert "session-affinity-scorer" in out and "--allow-experimental-plugins" in out, out
    out = refused(PLAIN.replace("kind: EndpointPickerConfig", "kind: Endpoint"))
    assert "FILE:2:" in out, out


main(flags_of_llm_d_are_understood, configuration, faults_have_a_place)
