"""The actions: what each changes, and for whom."""
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import tarfile
import threading

import pytest
from ops import testing

import test_charms as charms
import test_pebble as pebble
import test_secrets as secrets
from test_charms import NAMES, WORKERS, workload  # noqa: F401

SCHEDULER, CACHE = NAMES[0], NAMES[1]


def act(name, action, before, **params):
    ctx = charms.CONTEXTS[name][0]
    return ctx.run(ctx.on.action(action, params=params), before), ctx.action_results or {}


def fails(name, action, before, **params):
    with pytest.raises(testing.ActionFailed) as e:
        act(name, action, before, **params)
    return e.value.message


@pytest.mark.parametrize("name,role", WORKERS.items())
def test_drain_takes_a_unit_out_and_undrain_puts_it_back(name, role, tmp_path, workload):  # noqa: F811
    mine = charms.relation(name, f"{role}-worker", units=0)
    workload["answers"]["/metrics"] = charms.metrics(2, 1)
    out, results = act(name, "drain", charms.state(name, tmp_path, [mine]))
    assert results == {"running": 3}
    ready = lambda s: json.loads(s.get_relation(mine.id).local_unit_data["worker"])["ready"]  # noqa: E731
    assert ready(out) is False
    assert out.unit_status == testing.MaintenanceStatus(f"drained, 3 requests left: juju run {name}/0 undrain")
    later = charms.run(name, charms.EVENTS["update_status"], out)  # it stays so
    assert ready(later) is False and later.unit_status.name == "maintenance"
    assert act(name, "check", later)[1]["state"] == "drained"
    back, results = act(name, "undrain", later)
    assert ready(back) is True and back.unit_status == testing.ActiveStatus() and results == {"state": "active", "reason": ""}


def listed(after):
    return [e["name"] for e in json.loads(secrets.file(after, "endpoints.yaml").read_text())["endpoints"]]


def test_drain_endpoint_holds_for_every_scheduler(tmp_path, workload):  # noqa: F811
    before = charms.state(SCHEDULER, tmp_path, [charms.relation(SCHEDULER, "decode-worker", units=2)])
    out, results = act(SCHEDULER, "drain-endpoint", before, endpoint="remote/0")
    assert results == {"running": 0} and listed(out) == ["remote-1"]
    assert "http://10.1.0.0:8000/metrics" in workload["asked"]
    peers = out.get_relations("peers")[0]
    assert json.loads(peers.local_app_data["drained"]) == ["remote/0"]
    other = charms.run(SCHEDULER, charms.EVENTS["update_status"], dataclasses.replace(out, leader=False))
    assert listed(other) == ["remote-1"]
    assert "drained" in act(SCHEDULER, "list-endpoints", out)[1]["endpoints"]
    assert "no worker here" in fails(SCHEDULER, "drain-endpoint", out, endpoint="remote/7")
    assert "is not drained" in fails(SCHEDULER, "undrain-endpoint", out, endpoint="remote/1")
    assert f"juju run {SCHEDULER}/leader" in fails(SCHEDULER, "drain-endpoint", dataclasses.replace(before, leader=False), endpoint="remote/0")
    back, _ = act(SCHEDULER, "undrain-endpoint", out, endpoint="remote/0")
    assert listed(back) == ["remote-0", "remote-1"]


def test_drain_endpoint_waits_for_what_runs(tmp_path, workload, monkeypatch):  # noqa: F811
    left = iter([2, 1, 0])
    monkeypatch.setattr("time.sleep", lambda _: workload["answers"].update({"/metrics": charms.metrics(next(left))}))
    workload["answers"]["/metrics"] = charms.metrics(next(left))
    before = charms.state(SCHEDULER, tmp_path, [charms.relation(SCHEDULER, "decode-worker", units=2)])
    assert act(SCHEDULER, "drain-endpoint", before, endpoint="remote/1", timeout=30)[1] == {"running": 0}


def test_what_a_scheduler_tells(tmp_path, workload):  # noqa: F811
    before = charms.state(SCHEDULER, tmp_path, [charms.relation(SCHEDULER, "decode-worker")])
    assert act(SCHEDULER, "list-models", before)[1] == {"models": "smollm2-135m", "count": 1}
    workload["answers"]["/v1/status"] = {"parts": [{"name": "scheduler", "role": "scheduler"}, {
        "address": "10.1.0.0:8000", "role": "decode", "state": "used", "inflight": 3, "reason": ""}]}
    assert act(SCHEDULER, "list-endpoints", before)[1]["endpoints"] == "remote/0 10.1.0.0:8000 decode used inflight=3"
    assert json.loads(act(SCHEDULER, "explain", before, prompt="Hello")[1]["receipt"])
    receipt = next(i for i, url in enumerate(workload["asked"]) if "/v1/receipts/" in url)
    assert workload["asked"][receipt - 1].endswith("/v1/completions")
    workload["down"] = "/v1/models answers 503"
    assert fails(SCHEDULER, "list-models", before) == "/v1/models answers 503"


def test_rotate_key(tmp_path):
    _, text = secrets.rows("--tenant", "acme")
    users = secrets.user_secret(text)
    client = charms.relation(SCHEDULER, "inference-endpoint", app="chat")
    first = charms.run(SCHEDULER, charms.EVENTS["config_changed"], secrets.state(tmp_path, [users], {"api-key-secret": users.id}, [client]))
    of = lambda s: next(x for x in s.secrets if x.label == f"client-{client.id}")  # noqa: E731
    rows = lambda s: [r["sha256"] for r in json.loads(secrets.file(s, "keys.yaml").read_text())["keys"] if r["tenant"] == "chat"]  # noqa: E731
    before = rows(first)
    after, results = act(SCHEDULER, "rotate-key", first)
    assert results == {"rotated": 1} and of(after).latest_content != of(first).latest_content
    assert len(rows(after)) == 2 and rows(after)[1] == before[0]  # the one before is good until the next time
    assert len(rows(act(SCHEDULER, "rotate-key", after)[0])) == 2
    assert "leader" in fails(SCHEDULER, "rotate-key", dataclasses.replace(first, leader=False))


def test_the_cache_managers(tmp_path, workload):  # noqa: F811
    workload["answers"]["/v1/index"] = {"blocks": 7}
    before = charms.state(CACHE, tmp_path)
    assert json.loads(act(CACHE, "index-stats", before)[1]["index"]) == {"blocks": 7}
    first = charms.run(CACHE, charms.EVENTS["update_status"], before)
    act(CACHE, "flush", first)
    assert "container" in fails(CACHE, "flush", charms.state(CACHE, tmp_path, connected=False))


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, results = act(name, "collect-diagnostics", charms.state(name, tmp_path))
    with tarfile.open(results["path"]) as tar:
        assert set(tar.getnames()) == {"plan.yaml", "services.txt", "checks.txt", "metrics.txt", "health.txt"}
        assert b"num_requests_running" in tar.extractfile("metrics.txt").read()
    assert results["get"].startswith(f"juju scp {name}/0:")


@pytest.mark.parametrize("name", NAMES)
def test_every_action_is_written_and_described(name):
    ctx, _ = charms.CONTEXTS[name]
    for action, spec in ctx.charm_spec.actions.items():
        assert hasattr(ctx.charm_spec.charm_type, "act_" + action.replace("-", "_")), action
        assert spec["description"] and spec["additionalProperties"] is False


@pebble.pytestmark
def test_a_drained_worker_ends_what_it_runs(tmp_path, monkeypatch):
    """Scheduler and worker of the real binary: the charm's file without the worker, a stream in the middle, and the door shut after it."""
    monkeypatch.undo()
    port, metrics, worker_port = (pebble.free_port() for _ in range(3))
    (tmp_path / "worker").mkdir()
    worker = pebble.layer("llm-d-decode-k8s", tmp_path / "worker", {"port": worker_port, "threads": 1, "kv-cache-memory-bytes": 1 << 28})
    main = worker["services"]["llm-d-decode"]
    main["command"] = pebble.local_worker(main["command"])
    plan = pebble.layer(SCHEDULER, tmp_path, {"router-port": port, "metrics-port": metrics}, [charms.relation(SCHEDULER, "decode-worker")])
    endpoints = tmp_path / "llmd" / "endpoints.yaml"

    def write(found):
        (tmp_path / "new").write_text(json.dumps({"endpoints": found}))
        os.rename(tmp_path / "new", endpoints)
    here = {"name": "w", "address": "127.0.0.1", "port": str(worker_port), "labels": {"llm-d.ai/role": "decode"}}
    write([here])
    (tmp_path / "w").mkdir()
    running = lambda: charms.probe.running(charms.probe.text(f"http://127.0.0.1:{worker_port}/metrics"))  # noqa: E731
    parts = [pebble.Pebble(tmp_path / "w" / "pebble", worker), pebble.Pebble(tmp_path / "pebble", plan)]
    try:
        pebble.wait("the worker is used", lambda: pebble.status(metrics, "/health/ready") == 200)
        model = pebble.ask(port, "/v1/models")["data"][0]["id"]
        late = {}
        body = {"model": model, "prompt": "Count: one two three", "max_tokens": 300, "ignore_eos": True}
        t = threading.Thread(target=lambda: late.update(pebble.ask(port, "/v1/completions", body)))
        t.start()
        pebble.wait("it runs", lambda: running() == 1)
        write([])
        pebble.wait("it is out", lambda: pebble.status(metrics, "/health/ready") == 503)
        assert running() == 1 and pebble.status(port, "/v1/completions", body) == 503
        t.join(90)
        assert late["usage"]["completion_tokens"] == 300 and running() == 0
        write([here])
        pebble.wait("it is back", lambda: pebble.status(metrics, "/health/ready") == 200)
        assert pebble.status(port, "/v1/completions", {**body, "max_tokens": 1}) == 200
    finally:
        assert [p.end() for p in parts] == [0, 0]
