"""What other programs read: charmcraft's own models, HCL, and the public schemas of the relations."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil
import subprocess
import sys
from typing import Annotated, Any, Literal

import charmcraft.const
import charmcraft.linters
import charmcraft.parts
import hcl2
import pydantic
import pytest
import yaml
from charmcraft.models.project import CharmcraftProject

import test_charms as charms
import test_tls as tls
from test_charms import CHARMS, NAMES, PACKED, workload  # noqa: F401

SCHEDULER = NAMES[0]


# ---- charmcraft ----

@pytest.mark.parametrize("name", NAMES)
def test_charmcraft_takes_it(name):
    charmcraft.parts.setup_parts()
    text = yaml.safe_load((CHARMS / name / "charmcraft.yaml").read_text())
    project = CharmcraftProject.unmarshal(text)
    assert project.name == name and set(project.config["options"]) == set(text["config"]["options"])
    with pytest.raises(pydantic.ValidationError):  # it does look
        CharmcraftProject.unmarshal({**text, "contaners": {}})


def prime(name, tmp_path):
    """What charmcraft packs, but for the environment that it installs."""
    home = tmp_path / "charm"
    shutil.copytree(PACKED / name, home)
    meta = yaml.safe_load((home / "charmcraft.yaml").read_text())
    (home / "metadata.yaml").write_text(json.dumps({k: v for k, v in meta.items() if k not in ("config", "actions", "parts", "platforms", "type")}))
    (home / "config.yaml").write_text(json.dumps(meta["config"]))
    (home / "actions.yaml").write_text(json.dumps(meta["actions"]))
    (home / "dispatch").write_text(charmcraft.const.DISPATCH_CONTENT.format(entrypoint_relative_path="src/charm.py"))
    (home / "dispatch").chmod(0o755)
    return home


@pytest.mark.parametrize("name", NAMES)
def test_charmcrafts_linters_find_nothing(name, tmp_path):
    found = {}  # what looks into the environment says that it is not applicable
    for checker in charmcraft.linters.CHECKERS:
        c, home = checker(), prime(name, tmp_path / checker.name)
        (home / "venv" / "ops").mkdir(parents=True)
        found[c.name] = (c.run(home), c.text)
    assert found.pop("language")[0] == "python" and found.pop("framework")[0] == "operator"
    assert found and {k: v for k, v in found.items() if v[0] not in ("ok", "nonapplicable")} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_charm_begins(name, tmp_path):
    """The layout of a packed charm, by charmcraft's dispatch, under hook tools that Juju would bring: it runs without a controller."""
    home, tools = prime(name, tmp_path), tmp_path / "tools"
    meta = yaml.safe_load((home / "charmcraft.yaml").read_text())
    tools.mkdir()
    config = json.dumps({k: v["default"] for k, v in meta["config"]["options"].items() if "default" in v})
    log = tmp_path / "log"
    # what each hook tool answers; status-set is what is looked at
    answers = {"config-get": config, "is-leader": "true", "relation-ids": "[]", "relation-get": "{}", "status-get": '{"status":"unknown"}',
               "network-get": '{"bind-addresses":[]}', "juju-log": "", "status-set": "", "relation-set": "", "relation-list": "[]",
               "storage-list": "[]", "opened-ports": "[]", "state-get": "{}", "state-set": "", "application-version-set": "",
               "secret-ids": "[]"}
    for tool, answer in answers.items():
        (tools / tool).write_text(f"#!/bin/sh\necho {tool} \"$@\" >> {log}\ncat <<'END'\n{answer}\nEND\n")
        (tools / tool).chmod(0o755)
    (tools / "secret-get").write_text("#!/bin/sh\necho 'ERROR secret not found' >&2\nexit 1\n")
    (tools / "secret-get").chmod(0o755)
    env = {"PATH": f"{tools}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "JUJU_CHARM_DIR": str(home),
           "CHARM_DIR": str(home), "JUJU_DISPATCH_PATH": "hooks/start", "JUJU_UNIT_NAME": f"{name}/0", "JUJU_MODEL_NAME": "m",
           "JUJU_MODEL_UUID": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "JUJU_VERSION": "3.6.0", "JUJU_HOOK_NAME": ""}
    ran = subprocess.run(["./dispatch"], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ran.returncode == 0, ran.stdout + log.read_text()[-3000:]
    said = log.read_text()
    assert "status-set" in said and "waiting" in said and "for the container" in said, said


# ---- terraform ----

def test_the_module_is_hcl_and_names_what_there_is():
    with open(CHARMS / "terraform" / "main.tf") as f:
        module = hcl2.load(f)
    (values,) = module["locals"]
    sides = {}
    for name in NAMES:
        meta = yaml.safe_load((CHARMS / name / "charmcraft.yaml").read_text())
        sides.update({(name, e): (kind, r["interface"]) for kind in ("provides", "requires") for e, r in meta[kind].items()})
    plain = lambda v: v.strip('"') if isinstance(v, str) else v  # noqa: E731
    relations = {k: [plain(x) for x in v] for k, v in values["relations"].items() if isinstance(v, list)}
    ends = [{tuple(r[:2]), tuple(r[2:])} for r in relations.values()]
    for a, b in ends:
        (kind_a, interface_a), (kind_b, interface_b) = sides[a], sides[b]
        assert interface_a == interface_b and {kind_a, kind_b} == {"provides", "requires"}
    bundle = yaml.safe_load((CHARMS / "bundle.yaml").read_text())
    pairs = [{tuple(a.split(":")), tuple(b.split(":"))} for a, b in bundle["relations"]]
    assert sorted(map(sorted, ends)) == sorted(map(sorted, pairs))  # the module and the bundle are the same deployment
    assert all(name in str(values["applications"]) for name in NAMES)


@pytest.mark.skipif(shutil.which("terraform") is None, reason="no terraform: its own formatting is not looked at")
def test_the_module_is_formatted():
    subprocess.run(["terraform", "fmt", "-check", "-diff", str(CHARMS / "terraform")], check=True)


# ---- databags: the interfaces as they are published, as models of our own ----

class Bag(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Static(Bag):
    targets: list[Annotated[str, pydantic.Field(pattern=r"^(\*|[^:]+):\d+$")]]
    labels: dict[str, str] = {}


class Job(Bag):
    metrics_path: str
    static_configs: list[Static]


class Rule(Bag):
    alert: str | None = None
    record: str | None = None
    expr: str
    duration: str | None = pydantic.Field(None, alias="for")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Group(Bag):
    name: str
    interval: str | None = None
    rules: list[Rule]


class Groups(Bag):
    groups: list[Group]


class Topology(Bag):
    model: str
    model_uuid: str
    application: str
    unit: str
    charm_name: str


class ScrapeApp(Bag):
    alert_rules: pydantic.Json[Groups]
    scrape_jobs: pydantic.Json[list[Job]]
    scrape_metadata: pydantic.Json[Topology]


class ScrapeUnit(Bag):
    prometheus_scrape_unit_address: str
    prometheus_scrape_unit_name: str
    prometheus_scrape_unit_path: Literal[""] = ""  # a prefix of the job's path; Juju keeps no empty value


class IngressApp(Bag):
    model: pydantic.Json[str]
    name: pydantic.Json[str]
    port: pydantic.Json[int]
    scheme: pydantic.Json[str]


class IngressUnit(Bag):
    host: pydantic.Json[str]
    ip: pydantic.Json[str | None]


class TracingApp(Bag):
    receivers: pydantic.Json[list[Annotated[str, pydantic.Field(pattern="^(otlp_grpc|otlp_http|zipkin|jaeger_grpc|jaeger_thrift_http)$")]]]


class Request(Bag):
    certificate_signing_request: str
    ca: bool


class CertificatesUnit(Bag):
    certificate_signing_requests: pydantic.Json[list[Request]]


class Template(Bag):
    charm: str
    content: str
    juju_topology: dict[str, str]
    inject_dropdowns: bool


class Dashboards(Bag):
    templates: dict[Annotated[str, pydantic.Field(pattern="^file:")], Template]
    uuid: str


class GrafanaApp(Bag):
    dashboards: pydantic.Json[Dashboards]


class LokiApp(Bag):
    metadata: pydantic.Json[Topology]


class Nothing(Bag):
    pass


# endpoint: (the app's bag, the unit's)
SCHEMAS: dict[str, Any] = {"metrics-endpoint": (ScrapeApp, ScrapeUnit), "ingress": (IngressApp, IngressUnit), "tracing": (TracingApp, Nothing),
                           "certificates": (Nothing, CertificatesUnit), "grafana-dashboard": (GrafanaApp, Nothing), "logging": (LokiApp, Nothing)}


@pytest.mark.parametrize("name", NAMES)
def test_every_public_interface_has_a_schema(name):
    own = {"decode-worker", "prefill-worker", "kv-cache-manager", "inference-endpoint"}
    assert set(charms.endpoints(name)) - own <= set(SCHEMAS)


@pytest.mark.parametrize("name,endpoint", [(n, e) for n in NAMES for e in SCHEMAS if e in charms.endpoints(n)])
def test_databags_fit_their_interface(name, endpoint, tmp_path):
    for leader in (True, False):
        r = charms.relation(name, endpoint)
        before = charms.state(name, tmp_path, [r, *([charms.relation(name, "decode-worker")] if name == SCHEDULER else [])], leader)
        after = charms.run(name, charms.EVENTS["update_status"], before).get_relation(r.id)
        app, unit = SCHEMAS[endpoint]
        (app if leader else Nothing).model_validate(after.local_app_data)
        unit.model_validate({k: v for k, v in after.local_unit_data.items() if k not in ("egress-subnets", "ingress-address", "private-address")})


def test_a_providers_answer_in_the_published_form_is_taken(tmp_path):
    """The published example has a chain of one text; libraries send a list."""
    waiting = tls.first(tmp_path)
    row = tls.ROOT.answer(tls.asked(waiting))
    after = tls.changed(waiting, {**row, "chain": row["chain"][0]})
    assert after.unit_status.name == "active", after.unit_status
