"""The four charms under ops.testing: every event in every state, and what they say and write.

Run by `make charm-test`; the workload's answers are the test's, the workload itself is test_pebble.py's."""
# SPDX-License-Identifier: Apache-2.0
import base64
import dataclasses
import importlib.util
import itertools
import json
import lzma
import os
import pathlib
import shlex
import subprocess
import sys

import ops
import pytest
import yaml
from ops import testing

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHARMS = ROOT / "deploy" / "charms"
PACKED = pathlib.Path(os.environ["CHARMS_PACKED"])
NAMES = ["llm-d-inference-scheduler-k8s", "llm-d-kv-cache-k8s", "llm-d-prefill-k8s", "llm-d-decode-k8s"]
sys.path.insert(0, str(CHARMS / "lib"))
from llmd_charm import base, probe  # noqa: E402


def load(name):
    folder = PACKED / name
    spec = importlib.util.spec_from_file_location("charm_" + name.replace("-", "_"), folder / "src" / "charm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    meta = yaml.safe_load((folder / "charmcraft.yaml").read_text())
    config, actions = meta.pop("config"), meta.pop("actions")
    for key in ("type", "platforms", "parts"):
        meta.pop(key)
    return testing.Context(module.Charm, meta=meta, config=config, actions=actions, charm_root=folder), meta


CONTEXTS = {name: load(name) for name in NAMES}
WORKERS = {"llm-d-prefill-k8s": "prefill", "llm-d-decode-k8s": "decode"}


def metrics(running, waiting=0):
    return (f'vllm:num_requests_running{{engine="0",model_name="m"}} {running}\n'
            f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}\nvllm:num_requests_running_total 99\n')


@pytest.fixture(autouse=True)
def workload(monkeypatch):
    """Answers as a healthy llmd would; `down` makes it fail."""
    state = {"down": None, "asked": [], "key": None, "answers": {
        "/v1/models": {"data": [{"id": "smollm2-135m"}]}, "/version": {"version": "0.1.0"}, "/metrics": metrics(0)}}

    def call(request, timeout, context):
        state["asked"].append(request.full_url)
        state["key"] = request.get_header("Authorization")
        if state["down"]:
            raise probe.ProbeError(state["down"])
        answer = state["answers"].get(request.selector, {"choices": [{"text": "!"}]})
        return answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    monkeypatch.setattr(probe, "_call", call)
    monkeypatch.setattr(base.LlmdCharm, "patience_s", 0)
    return state


def container(name, tmp_path, connected=True, model=True):
    main = next(iter(CONTEXTS[name][1]["containers"]))
    mounts = {}
    if name in WORKERS and model:
        file = tmp_path / "model.gguf"
        file.write_text("GGUF")
        mounts["model"] = testing.Mount(location="/models/smollm2-135m.gguf", source=file)
    checks = {testing.CheckInfo("ready", level=ops.pebble.CheckLevel.READY), testing.CheckInfo("hung")}
    return testing.Container(main, can_connect=connected, mounts=mounts, check_infos=checks if connected else set(),
                             service_statuses={main: ops.pebble.ServiceStatus.ACTIVE},
                             layers={main: layer_of(main)} if connected else {})


def layer_of(main):
    return ops.pebble.Layer({"services": {main: {"override": "replace", "command": "old", "startup": "enabled"}},
                             "checks": {c: {"override": "replace", "http": {"url": "http://localhost:1/"}, **level} for c, level in
                                        (("ready", {"level": "ready"}), ("hung", {}))}})


def worker_bag(role, n=0, ready=True):
    return {"endpoint": f"http://10.1.0.{n}:8000", "worker": json.dumps({
        "schema": 1, "role": role, "address": f"10.1.0.{n}", "port": 8000, "model": "m", "kv_events": f"tcp://10.1.0.{n}:5556",
        "kv_replay": f"tcp://10.1.0.{n}:5558", "ready": ready})}


def relation(name, endpoint, units=1, app="remote", **kw):
    meta = CONTEXTS[name][1]
    interface = next(r[endpoint]["interface"] for r in (meta["requires"], meta["provides"]) if endpoint in r)
    bags = {}
    for n in range(units):
        bags[n] = {"decode-worker": worker_bag("decode", n), "prefill-worker": worker_bag("prefill", n + 50),
                   "kv-cache-manager": {**worker_bag("decode", n), "endpoint": "http://10.2.0.1:8090"},
                   "logging": {"endpoint": json.dumps({"url": f"http://10.3.0.{n}:3100/loki/api/v1/push"})}}.get(endpoint, {})
    return testing.Relation(endpoint, interface, remote_app_name=app, remote_units_data=bags, **kw)


def state(name, tmp_path, relations=(), leader=True, config=None, **kw):
    storages = {testing.Storage("models")} if "storage" in CONTEXTS[name][1] else set()
    return testing.State(leader=leader, config=config or {}, containers={container(name, tmp_path, **kw)}, storages=storages,
                         relations={testing.PeerRelation("peers"), *relations})


def run(name, event, before):
    ctx = CONTEXTS[name][0]
    return ctx.run(event(ctx) if callable(event) else event, before)


def plan(name, after):
    main = next(iter(CONTEXTS[name][1]["containers"]))
    return after.get_container(main).plan.services[main]


def words(name, after):
    return shlex.split(plan(name, after).command)


# ---- every event in every state ----

EVENTS = {e: (lambda e: lambda ctx: getattr(ctx.on, e)())(e) for e in
          ("install", "start", "config_changed", "upgrade_charm", "update_status", "leader_elected", "stop", "remove")}


def endpoints(name):
    meta = CONTEXTS[name][1]
    return [*meta["requires"], *meta["provides"]]


def happenings(before):
    """Every event that Juju may send in this state."""
    yield from EVENTS.values()
    for r in before.relations:
        if r.endpoint != "peers":
            for event in ("created", "joined", "changed", "departed", "broken"):
                unit = {} if event in ("created", "broken") else {"remote_unit": 0}
                yield lambda ctx, r=r, event=event, unit=unit: getattr(ctx.on, f"relation_{event}")(r, **unit)
    for storage in before.storages:
        yield lambda ctx: ctx.on.storage_attached(storage)
        yield lambda ctx: ctx.on.storage_detaching(storage)
    (main,) = before.containers
    if main.can_connect:
        yield lambda ctx: ctx.on.pebble_ready(main)
        for check in main.check_infos:
            yield lambda ctx, check=check: ctx.on.pebble_check_failed(main, dataclasses.replace(
                check, status=ops.pebble.CheckStatus.DOWN, failures=check.threshold or 3))
            yield lambda ctx, check=check: ctx.on.pebble_check_recovered(main, check)


@pytest.mark.parametrize("name", NAMES)
def test_matrix(name, tmp_path, workload):
    """Whatever happens in whatever state: no exception, one status that says what to do, the same plan and databags the second time."""
    seen, count = set(), 0
    alone, everything = [()] + [(e,) for e in endpoints(name)], tuple(endpoints(name))
    for connected, leader, down in itertools.product((True, False), (True, False), (None, "/v1/models: timed out")):
        workload["down"] = down
        for with_relations in ([*alone, everything] if connected and leader and not down else [(), everything]):
            before = state(name, tmp_path, [relation(name, e, units=2) for e in with_relations], leader, connected=connected)
            for event in happenings(before):
                status = run(name, event, before).unit_status
                count += 1
                seen.add(type(status).__name__)
                assert status.name in ("active", "waiting", "blocked"), status
                assert status.name == "active" or status.message, status
                assert status.name != "active" or (connected and down is None), status
                assert status.name != "blocked" or "juju " in status.message, status
            if connected:
                first = run(name, EVENTS["update_status"], before)
                again = run(name, EVENTS["update_status"], first)
                assert plan(name, again).to_dict() == plan(name, first).to_dict()
                bags = [{r.id: (r.local_app_data, r.local_unit_data) for r in s.relations} for s in (first, again)]
                assert bags[0] == bags[1]
    print(f"{name}: {count} events")
    assert {"ActiveStatus", "WaitingStatus"} <= seen, seen


@pytest.mark.parametrize("name,role", WORKERS.items())
def test_a_unit_withdraws_before_it_stops(name, role, tmp_path):
    mine = relation(name, f"{role}-worker", units=0)

    def ready(s):
        return json.loads(s.get_relation(mine.id).local_unit_data["worker"])["ready"]
    before = run(name, EVENTS["update_status"], state(name, tmp_path, [mine]))
    after = run(name, EVENTS["stop"], before)
    assert ready(before) and not ready(after) and after.unit_status == testing.WaitingStatus("for what runs to end")
    assert plan(name, after).to_dict() == plan(name, before).to_dict()
    assert ready(run(name, EVENTS["start"], after))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_just_started_is_given_time(name, tmp_path, workload, monkeypatch):
    """It answers a little later, and no event would tell; where nothing is new nobody waits."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            workload["down"] = None
    monkeypatch.setattr(base.LlmdCharm, "patience_s", 10)
    monkeypatch.setattr(base.time, "sleep", sleep)
    workload["down"] = "/v1/models: connection refused"
    before = state(name, tmp_path, [relation(name, "decode-worker")] if name == NAMES[0] else [])
    after = run(name, EVENTS["config_changed"], before)
    assert after.unit_status == testing.ActiveStatus() and len(slept) == 3
    if name != NAMES[0]:  # whose endpoints file is gone in the next run of the test
        workload["down"] = "/v1/models: connection refused"
        assert run(name, EVENTS["update_status"], after).unit_status.name == "waiting" and len(slept) == 3


@pytest.mark.parametrize("name", NAMES)
def test_two_applications_at_each_endpoint(name, tmp_path):
    """One of two goes: what is left is what one alone gives, whatever the endpoint."""
    meta = CONTEXTS[name][1]
    for endpoint in endpoints(name):
        spec = next(meta[k][endpoint] for k in ("requires", "provides") if endpoint in meta[k])
        if spec.get("limit") == 1:
            continue
        two = [relation(name, endpoint, units=2), relation(name, endpoint, units=1, app="more")]
        needed = [relation(name, "decode-worker", app="needed")] if name == NAMES[0] and endpoint != "decode-worker" else []
        both = run(name, EVENTS["update_status"], state(name, tmp_path, two + needed))
        assert both.unit_status == testing.ActiveStatus(), (endpoint, both.unit_status)
        for r in (both.get_relation(r.id) for r in two):
            run(name, lambda ctx: ctx.on.relation_departed(r, remote_unit=0, departing_unit=0), both)
            run(name, lambda ctx: ctx.on.relation_broken(r), both)
        alone = run(name, EVENTS["update_status"], state(name, tmp_path, two[:1] + needed))
        went = dataclasses.replace(both, relations={r for r in both.relations if r.id != two[1].id})
        assert plan(name, run(name, EVENTS["update_status"], went)).to_dict() == plan(name, alone).to_dict(), endpoint


@pytest.mark.parametrize("name", NAMES)
def test_an_upgrade_says_the_new_version_and_changes_nothing_else(name, tmp_path, workload):
    needed = [relation(name, "decode-worker")] if name == NAMES[0] else []
    before = run(name, EVENTS["update_status"], state(name, tmp_path, needed))
    workload["answers"]["/version"] = {"version": "9.9.9"}
    after = run(name, EVENTS["upgrade_charm"], before)
    assert plan(name, after).to_dict() == plan(name, before).to_dict() and after.unit_status == testing.ActiveStatus()
    assert name == "llm-d-kv-cache-k8s" or after.workload_version == "9.9.9"


@pytest.mark.parametrize("name", NAMES)
def test_a_service_that_does_not_run(name, tmp_path):
    before = state(name, tmp_path, [relation(name, "decode-worker")] if name == NAMES[0] else [])
    main = before.get_container(next(iter(CONTEXTS[name][1]["containers"])))
    stopped = {main.name: ops.pebble.ServiceStatus.INACTIVE}
    ctx = CONTEXTS[name][0]
    after = ctx.run(ctx.on.action("check"), dataclasses.replace(before, containers={dataclasses.replace(main, service_statuses=stopped)}))
    assert after.unit_status.name == "waiting" and f"juju debug-log --include {name}/0" in after.unit_status.message


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_deployment_becomes_active(name, tmp_path, workload):
    needed = [relation(name, "decode-worker")] if name == NAMES[0] else []
    after = run(name, EVENTS["update_status"], state(name, tmp_path, needed))
    assert after.unit_status == testing.ActiveStatus(), after.unit_status
    if name != "llm-d-kv-cache-k8s":  # said only after a completion
        assert workload["asked"][-2].endswith("/v1/completions") and after.workload_version == "0.1.0"
    workload["down"] = "/v1/completions answers 503"
    after = run(name, EVENTS["update_status"], state(name, tmp_path, needed))
    assert after.unit_status.name == "waiting" and "503" in after.unit_status.message


@pytest.mark.parametrize("name,config,says", [
    ("llm-d-decode-k8s", {"port": 80}, "option port must be 1024..65535: juju config llm-d-decode-k8s port=8000"),
    ("llm-d-decode-k8s", {"log-level": "loud"}, "option log-level"),
    ("llm-d-decode-k8s", {"extra-args": "'"}, "option extra-args"),
    ("llm-d-decode-k8s", {"threads": -1}, "option threads"),
    ("llm-d-decode-k8s", {"model-id": "/models/mine.gguf"}, "/models/mine.gguf is not in the container: juju attach-storage"),
    ("llm-d-inference-scheduler-k8s", {"router-port": 1}, "option router-port"),
    ("llm-d-inference-scheduler-k8s", {"metrics-port": 8080}, "option metrics-port must be 1024..65535 and not router-port"),
    ("llm-d-inference-scheduler-k8s", {"scheduler-config": "kind: x\nplugins: [\n"}, "option scheduler-config, line 3: "),
    ("llm-d-inference-scheduler-k8s", {"scheduler-config": "plugins"}, "must be an EndpointPickerConfig: juju config"),
    ("llm-d-inference-scheduler-k8s", {}, "no workers: juju integrate"),
])
def test_blocked_names_the_command(name, config, says, tmp_path):
    after = run(name, EVENTS["config_changed"], state(name, tmp_path, config=config))
    assert after.unit_status.name == "blocked" and says in after.unit_status.message, after.unit_status


# ---- what is written ----

def test_the_scheduler_follows_its_workers_without_a_restart(tmp_path):
    name = NAMES[0]
    two = [relation(name, "decode-worker", units=2), relation(name, "decode-worker", units=1, app="more"),
           relation(name, "prefill-worker"), relation(name, "kv-cache-manager")]
    ctx = CONTEXTS[name][0]
    after = run(name, EVENTS["update_status"], state(name, tmp_path, two))
    main = after.get_container("llm-d-inference-scheduler")
    listed = json.loads((main.get_filesystem(ctx) / "tmp/llmd/endpoints.yaml").read_text())["endpoints"]
    assert [(e["name"], e["labels"]["llm-d.ai/role"]) for e in listed] == [
        ("more-0", "decode"), ("remote-0", "prefill"), ("remote-1", "decode")] or len(listed) == 3, listed
    assert "--cache=10.2.0.1:8090" in words(name, after) and "--endpoints-file=/tmp/llmd/endpoints.yaml" in words(name, after)
    fewer = run(name, EVENTS["update_status"], state(name, tmp_path, two[1:]))
    assert plan(name, fewer).command == plan(name, after).command
    for r in after.get_relations("decode-worker"):
        assert r.local_app_data["scheduler-url"].startswith("http://")


def test_a_worker_that_is_not_ready_is_not_listed(tmp_path):
    name = NAMES[0]
    r = testing.Relation("decode-worker", "llm-d-decode", remote_units_data={0: worker_bag("decode", ready=False), 1: {}})
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [r]))
    assert after.unit_status.name == "waiting" and "decode worker" in after.unit_status.message


@pytest.mark.parametrize("name,role", WORKERS.items())
def test_workers_say_who_they_are(name, role, tmp_path, workload):
    mine = relation(name, f"{role}-worker", units=0)
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [mine, relation(name, "kv-cache-manager")]))
    bag = after.get_relation(mine.id).local_unit_data
    worker = json.loads(bag["worker"])
    assert bag["endpoint"] == f"http://{worker['address']}:8000" and worker["ready"] and worker["role"] == role
    assert worker["fqdn"].startswith(name + "-0.") and worker["kv_events"].endswith(":5556")
    assert after.get_relation(mine.id).local_app_data["model"] == "smollm2-135m"
    assert after.opened_ports == {testing.TCPPort(8000)}
    service = plan(name, after)
    assert service.to_dict()["kill-delay"] == "50s" and service.user_id == 65532
    checks = after.get_container(next(iter(CONTEXTS[name][1]["containers"]))).plan.checks
    assert not [c for c in checks.values() if c.level == ops.pebble.CheckLevel.ALIVE]
    workload["down"] = "down"
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [mine]))
    assert json.loads(after.get_relation(mine.id).local_unit_data["worker"])["ready"] is False


def test_the_cache_manager_hears_every_worker(tmp_path):
    name = "llm-d-kv-cache-k8s"
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [relation(name, "kv-cache-manager", units=2),
                                                                      relation(name, "kv-cache-manager", units=1, app="other")]))
    assert sum(w.startswith("--endpoint=") for w in words(name, after)) == 3
    drained = testing.Relation("kv-cache-manager", "kv-cache-manager", remote_units_data={0: worker_bag("decode", ready=False)})
    alone = run(name, EVENTS["update_status"], state(name, tmp_path, [drained]))
    assert "--endpoint=remote-0=10.1.0.0:8000@10.1.0.0:5556@10.1.0.0:5558" in words(name, alone)  # no restart for a drain
    assert "--endpoint=remote-1=10.1.0.1:8000@10.1.0.1:5556@10.1.0.1:5558" in words(name, after)
    for r in after.get_relations("kv-cache-manager"):
        assert r.local_unit_data["endpoint"].endswith(":8090") and r.local_app_data["block_size"] == "16"


@pytest.mark.parametrize("name", NAMES)
def test_public_interfaces(name, tmp_path):
    """Keys and shapes as the interfaces publish them."""
    metrics, grafana = relation(name, "metrics-endpoint"), relation(name, "grafana-dashboard")
    logging = relation(name, "logging", units=2)
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [metrics, grafana, logging]))
    app, unit = after.get_relation(metrics.id).local_app_data, after.get_relation(metrics.id).local_unit_data
    jobs = json.loads(app["scrape_jobs"])
    assert jobs[0]["metrics_path"] == "/metrics" and jobs[0]["static_configs"][0]["targets"][0].startswith("*:")
    assert set(json.loads(app["scrape_metadata"])) == {"model", "model_uuid", "application", "charm_name", "unit"}
    rules = [r for g in json.loads(app["alert_rules"])["groups"] for r in g["rules"]]
    assert rules and all({"alert", "expr"} <= set(r) for r in rules if "record" not in r)
    assert unit["prometheus_scrape_unit_address"] and unit["prometheus_scrape_unit_name"] == name + "/0"
    dashboards = json.loads(after.get_relation(grafana.id).local_app_data["dashboards"])
    assert len(dashboards["templates"]) >= 5
    for key, t in dashboards["templates"].items():
        assert key.startswith("file:") and "panels" in json.loads(lzma.decompress(base64.b64decode(t["content"])))
    main = next(iter(CONTEXTS[name][1]["containers"]))
    targets = after.get_container(main).plan.log_targets
    assert len(targets) == 2 and all(t.type == "loki" and t.labels["juju_unit"] == name + "/0" for t in targets.values())


def test_ingress_and_clients(tmp_path):
    name = NAMES[0]
    ingress = relation(name, "ingress", remote_app_data={"ingress": json.dumps({"url": "http://door.example/llm"})})
    clients = relation(name, "inference-endpoint")
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [relation(name, "decode-worker"), ingress, clients]))
    app = {k: json.loads(v) for k, v in after.get_relation(ingress.id).local_app_data.items()}
    assert app["port"] == 8080 and app["name"] == name and set(app) >= {"model", "name", "port"}
    assert set(after.get_relation(ingress.id).local_unit_data) >= {"host", "ip"}
    assert after.get_relation(clients.id).local_app_data == {"url": "http://door.example/llm", "model": "smollm2-135m"}


def test_tracing(tmp_path):
    name = NAMES[0]
    collector = relation(name, "tracing", remote_app_data={"receivers": json.dumps(
        [{"protocol": {"name": "otlp_grpc", "type": "grpc"}, "url": "tempo:4317"},
         {"protocol": {"name": "otlp_http", "type": "http"}, "url": "http://tempo:4318"}])})
    after = run(name, EVENTS["update_status"], state(name, tmp_path, [relation(name, "decode-worker"), collector]))
    assert "--otlp-endpoint=http://tempo:4318" in words(name, after)
    assert json.loads(after.get_relation(collector.id).local_app_data["receivers"]) == ["otlp_http"]


@pytest.mark.parametrize("name", NAMES)
def test_actions(name, tmp_path, workload):
    ctx = CONTEXTS[name][0]
    needed = [relation(name, "decode-worker")] if name == NAMES[0] else []
    before = state(name, tmp_path, needed)
    ctx.run(ctx.on.action("check"), before)
    assert ctx.action_results == {"state": "active", "reason": ""}
    workload["down"] = "/v1/models answers 503"
    ctx.run(ctx.on.action("check"), before)
    assert ctx.action_results["state"] == "waiting" and "503" in ctx.action_results["reason"]
    ctx.run(ctx.on.action("show-config"), before)
    assert "log-level=info" in ctx.action_results["config"] and "/usr/bin/llmd" in ctx.action_results["command"]
    ctx.run(ctx.on.action("get-endpoint"), before)
    assert ctx.action_results["url"].startswith("http://")


# ---- the files ----

@pytest.mark.parametrize("name", NAMES)
def test_flags_are_the_binarys(name, tmp_path):
    """Every flag of the layer is one that `llmd PART --help` lists."""
    needed = [relation(name, e) for e in endpoints(name) if e not in ("logging", "certificates")]
    after = run(name, EVENTS["update_status"], state(name, tmp_path, needed, config={"extra-args": ""}))
    flags_are_known(words(name, after))


def flags_are_known(command):
    _, part, *flags = command
    text = subprocess.run([os.environ["LLMD"], part, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    known = {w.split()[0] for w in text.splitlines() if w.startswith("  --")}
    assert [f for f in flags if f.split("=")[0].replace("--no-", "--") not in known] == []


def test_files_are_current_and_the_bundle_fits():
    subprocess.run([sys.executable, str(CHARMS / "generate"), "--check"], check=True)
    bundle = yaml.safe_load((CHARMS / "bundle.yaml").read_text())
    sides = {}
    for name in NAMES:
        meta = yaml.safe_load((CHARMS / name / "charmcraft.yaml").read_text())
        for kind in ("provides", "requires"):
            sides.update({(name, e): (kind, r["interface"]) for e, r in meta[kind].items()})
    for a, b in bundle["relations"]:
        (ka, ia), (kb, ib) = (sides[tuple(end.split(":"))] for end in (a, b))
        assert ia == ib and {ka, kb} == {"provides", "requires"}, (a, b)
