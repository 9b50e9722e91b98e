"""What only a controller shows: packed charms, deployed, integrated, granted secrets, drained, scaled and refreshed.

Needs juju with a controller on Kubernetes, LLMD_CHARMS (a folder with the four .charm files of `charmcraft pack`) and LLMD_IMAGE (what
the nodes pull).  LLMD_CA names a charm that provides certificates (self-signed-certificates); with LLMD_CHARMHUB=1 traefik-k8s, prometheus-k8s and loki-k8s
are deployed, too.  Each test goes on from the one before.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pathlib
import shutil
import subprocess

import jubilant
import pytest

LLMD, IMAGE = os.environ["LLMD"], os.environ.get("LLMD_IMAGE", "")
FOLDER = pathlib.Path(os.environ.get("LLMD_CHARMS", ""))
CONTAINERS = {"llm-d-inference-scheduler-k8s": "llm-d-inference-scheduler", "llm-d-kv-cache-k8s": "llm-d-kv-cache",
              "llm-d-prefill-k8s": "llm-d-prefill", "llm-d-decode-k8s": "llm-d-decode"}
SCHEDULER, CACHE, PREFILL, DECODE = CONTAINERS
WAIT_S = 900


def missing():
    if shutil.which("juju") is None:
        return "no juju here: deploy, refresh, hook order, secret grants and storage are NOT tested"
    if subprocess.run(["juju", "whoami"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        return "juju has no controller: deploy, refresh, hook order, secret grants and storage are NOT tested"
    if not IMAGE or len(list(FOLDER.glob("llm-d-*.charm"))) < len(CONTAINERS):
        return "LLMD_IMAGE and LLMD_CHARMS (the four packed charms) are not set: nothing is deployed"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def charm(name):
    return next(FOLDER.glob(name + "*.charm"))


def image(name):
    return {CONTAINERS[name] + "-image": IMAGE}


@pytest.fixture(scope="module")
def juju():
    with jubilant.temp_model() as model:
        model.wait_timeout = WAIT_S
        yield model


def message(status, name):
    return status.apps[name].units[name + "/0"].workload_status.message


def endpoints(juju):
    return juju.run(SCHEDULER + "/leader", "list-endpoints").results["endpoints"].splitlines()


def url(juju):
    """What workers are told of the scheduler."""
    shown = json.loads(juju.cli("show-unit", DECODE + "/0", "--format=json"))[DECODE + "/0"]["relation-info"]
    return next(r["application-data"]["scheduler-url"] for r in shown if r["endpoint"] == "decode-worker")


def ask(juju):
    """The status of a completion, asked within the model by the Python of another charm's container."""
    program = ("import json,sys,urllib.request as u\n"
               "b=json.dumps({'model':'smollm2-135m','prompt':'Hello','max_tokens':1}).encode()\n"
               "print(u.urlopen(u.Request(sys.argv[1]+'/v1/completions',b,{'Content-Type':'application/json'}),timeout=60).status)\n")
    return juju.exec("python3", "-c", program, url(juju), unit=CACHE + "/0").stdout.strip()


def test_a_deployment_becomes_active(juju):
    for name in CONTAINERS:
        juju.deploy(charm(name), app=name, resources=image(name))
    juju.wait(lambda s: "juju integrate" in message(s, SCHEDULER), error=jubilant.any_error)  # and says what is missing
    for a, b in ((SCHEDULER + ":decode-worker", DECODE), (SCHEDULER + ":prefill-worker", PREFILL), (SCHEDULER + ":kv-cache-manager", CACHE),
                 (DECODE + ":kv-cache-manager", CACHE), (PREFILL + ":kv-cache-manager", CACHE)):
        juju.integrate(a, f"{b}:{a.split(':')[1]}")
    juju.wait(jubilant.all_active, error=jubilant.any_error)
    assert juju.run(SCHEDULER + "/0", "check").results["state"] == "active"
    assert juju.run(SCHEDULER + "/0", "list-models").results["models"]
    assert ask(juju) == "200"  # by the service's name


def test_a_worker_more_and_one_less(juju):
    juju.add_unit(DECODE)
    juju.wait(lambda s: jubilant.all_active(s) and len(endpoints(juju)) == 3, error=jubilant.any_error)
    juju.remove_unit(DECODE, num_units=1)
    juju.wait(lambda s: jubilant.all_active(s) and len(endpoints(juju)) == 2, error=jubilant.any_error)


def test_a_drained_unit_gets_nothing_new(juju):
    juju.run(PREFILL + "/0", "drain")
    juju.wait(lambda s: jubilant.all_maintenance(s, PREFILL) and len(endpoints(juju)) == 1, error=jubilant.any_error)
    juju.run(PREFILL + "/0", "undrain")
    juju.wait(lambda s: jubilant.all_active(s) and len(endpoints(juju)) == 2, error=jubilant.any_error)


def test_keys_by_a_granted_secret(juju):
    def row(tenant):
        out = subprocess.run([LLMD, "key", "new", "--tenant", tenant], stdout=subprocess.PIPE, text=True, check=True).stdout
        return {"keys": out[out.index("keys:"):]}
    secret = juju.add_secret("llmd-keys", row("acme"))
    juju.config(SCHEDULER, {"api-key-secret": secret})
    juju.wait(lambda s: f"juju grant-secret {secret}" in message(s, SCHEDULER), error=jubilant.any_error)
    juju.grant_secret(secret, SCHEDULER)
    juju.wait(jubilant.all_active, error=jubilant.any_error)
    before = juju.run(SCHEDULER + "/0", "show-config").results["command"]
    juju.update_secret(secret, row("globex"))
    juju.wait(lambda s: jubilant.all_active(s) and jubilant.all_agents_idle(s), error=jubilant.any_error)
    assert juju.run(SCHEDULER + "/0", "show-config").results["command"] == before
    juju.config(SCHEDULER, reset="api-key-secret")
    juju.wait(jubilant.all_active, error=jubilant.any_error)


def test_tls_by_a_relation_and_back(juju):
    if not os.environ.get("LLMD_CA"):
        pytest.skip("LLMD_CA is not set: no provider of certificates to integrate with")
    juju.deploy(os.environ["LLMD_CA"], app="ca")
    juju.integrate(SCHEDULER + ":certificates", "ca:certificates")
    juju.wait(lambda s: jubilant.all_active(s) and url(juju).startswith("https://"), error=jubilant.any_error)
    juju.remove_relation(SCHEDULER + ":certificates", "ca:certificates")
    juju.wait(lambda s: jubilant.all_active(s) and url(juju).startswith("http://"), error=jubilant.any_error)


def test_refresh_is_not_noticed(juju):
    """With two units of each that answers: while one is replaced the other does."""
    for name in (SCHEDULER, DECODE):
        juju.add_unit(name)
    juju.wait(lambda s: jubilant.all_active(s) and jubilant.all_agents_idle(s), error=jubilant.any_error)
    for name in CONTAINERS:
        juju.refresh(name, path=charm(name), resources=image(name))
    answers = []

    def is_done(status):
        answers.append(ask(juju))
        return jubilant.all_active(status) and jubilant.all_agents_idle(status)
    juju.wait(is_done, error=jubilant.any_error, successes=10)
    assert set(answers) == {"200"}
    for name in (SCHEDULER, DECODE):
        juju.remove_unit(name, num_units=1)
    juju.wait(lambda s: jubilant.all_active(s) and len(s.apps[SCHEDULER].units) == len(s.apps[DECODE].units) == 1)


def test_storage_is_mounted(juju):
    juju.cli("deploy", str(charm(DECODE)), "stored", "--resource", f"{CONTAINERS[DECODE]}-image={IMAGE}", "--storage", "models=1G")
    juju.wait(lambda s: jubilant.all_active(s, "stored"), error=jubilant.any_error)
    assert "models" in json.dumps(json.loads(juju.cli("storage", "--format", "json")))


from_charmhub = pytest.mark.skipif(not os.environ.get("LLMD_CHARMHUB"), reason="LLMD_CHARMHUB is not set: ingress and observability are NOT tested")


@from_charmhub
def test_an_ingress_gives_the_url(juju):
    juju.deploy("traefik-k8s", "traefik", trust=True, config={"routing_mode": "path"})
    juju.integrate(SCHEDULER + ":ingress", "traefik:ingress")
    juju.wait(lambda s: jubilant.all_active(s) and url(juju).endswith("-" + SCHEDULER), error=jubilant.any_error)
    assert ask(juju) == "200"
    juju.remove_application("traefik")
    juju.wait(lambda s: "traefik" not in s.apps and jubilant.all_active(s))


@from_charmhub
def test_metrics_and_logs_arrive(juju):
    for name in ("prometheus", "loki"):
        juju.deploy(name + "-k8s", name, trust=True)
    for name in CONTAINERS:
        juju.integrate(name + ":metrics-endpoint", "prometheus:metrics-endpoint")
        juju.integrate(name + ":logging", "loki:logging")
    juju.wait(lambda s: jubilant.all_active(s) and jubilant.all_agents_idle(s), error=jubilant.any_error)

    def got(app, port, path):
        return json.loads(juju.ssh(app + "/0", f"curl -s localhost:{port}{path}", container=app))["data"]

    def scraped(_):
        up = {t["labels"].get("juju_application") for t in got("prometheus", 9090, "/api/v1/targets")["activeTargets"] if t["health"] == "up"}
        return set(CONTAINERS) <= up
    juju.wait(scraped)
    rules = [r["name"] for g in got("prometheus", 9090, "/api/v1/rules")["groups"] for r in g["rules"]]
    assert any(r.startswith("Llmd") for r in rules)
    juju.wait(lambda _: set(CONTAINERS) <= set(got("loki", 3100, "/loki/api/v1/label/juju_application/values")))
