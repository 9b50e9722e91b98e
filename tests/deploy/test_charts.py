#!/usr/bin/env python3
"""Every chart with every example: lint, schemas, what must meet; old keys fail with advice; what default values ask for."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import yaml

import objects as k

CHARTS = ("llmd-router", "llmd-modelservice", "llmd")
NEEDS = {"llmd-modelservice": ["--set", "modelArtifacts.uri=file:///models/m.gguf"]}

def examples(chart):
    folder = os.path.join(k.DEPLOY, "charts", chart, "examples")
    return [os.path.join(folder, f) for f in sorted(os.listdir(folder))]


def lint():
    for chart in CHARTS:
        for f in examples(chart):
            r = subprocess.run([k.tools()["helm"], "lint", "--strict", os.path.join(k.DEPLOY, "charts", chart), "-f", f],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            k.say(f"lint {chart} {os.path.basename(f)}", [] if r.returncode == 0 else r.stdout.splitlines())


def render():
    for chart in CHARTS:
        for f in [None, *examples(chart)]:
            # with and without the APIs of operators
            for apis in ([], ["--api-versions", k.MONITORING]):
                args = (["-f", f] if f else NEEDS.get(chart, [])) + apis
                objects, error = k.helm(chart, *args)
                foreign = chart == "llmd-router" or (f or "").endswith("vllm.yaml")
                k.say(f"template {chart} {os.path.basename(f or 'default values')}{' with operators' if apis else ''}",
                    [error] if error else k.check(objects, foreign))


def monitors_follow_the_api():
    f = ["-f", os.path.join(k.DEPLOY, "charts/llmd/examples/production.yaml")]
    without, with_api = k.helm("llmd", *f)[0], k.helm("llmd", *f, "--api-versions", k.MONITORING)[0]
    count = lambda objects: sum(o["kind"] in ("ServiceMonitor", "PodMonitor") for o in objects)
    k.say("monitors only where their API is", [] if (count(without), count(with_api)) == (0, 4) else
        [f"{count(without)} without, {count(with_api)} with"])


def one_of_the_replicas_leads():
    """By the value or by llm-d's flag: the flag once, the right to leases, no budget that keeps the only ready one."""
    for values in ("leaderElection=true", "flags.ha-enable-leader-election=true", "flags.ha-enable-leader-election=false"):
        objects = {k.name_of(o): o for o in k.helm("llmd-router", "--set", f"router.epp.replicas=2,router.epp.{values}")[0]}
        spec, rules = objects["Deployment/rel-epp"]["spec"], objects["Role/rel-epp"]["rules"]
        args = [a for a in spec["template"]["spec"]["containers"][0]["args"] if "leader-election" in a]
        leases = [r["verbs"] for r in rules if "leases" in r["resources"]]
        got = (args, leases, spec["strategy"]["type"], "PodDisruptionBudget/rel-epp" in objects)
        want = (["--ha-enable-leader-election"], [["get", "list", "watch", "create", "update"]], "Recreate", False)
        if values.endswith("false"):
            want = ([], [], "RollingUpdate", True)
        k.say(f"leader election, router.epp.{values}", [] if got == want else [f"{got}, want {want}"])


def cpu_m(q):
    return int(q[:-1]) if q.endswith("m") else int(float(q) * 1000)


def mib(q):
    return int(q[:-2]) * {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}[q[-2:]]


def defaults_fit_a_small_node():
    objects = k.helm("llmd")[0]
    containers = [(c, k.template_of(o)) for o in objects if k.template_of(o) for c in k.template_of(o)["spec"]["containers"]]
    cpu = sum(cpu_m(c["resources"]["requests"]["cpu"]) for c, _ in containers)
    memory = sum(mib(c["resources"]["requests"]["memory"]) for c, _ in containers)
    bad = [] if cpu <= 2000 and memory <= 4096 else [f"{cpu}m CPU and {memory} MiB"]
    roles = sorted(t["metadata"]["labels"]["llm-d.ai/role"] for _, t in containers if "llm-d.ai/role" in t["metadata"]["labels"])
    if roles != ["decode", "prefill"]:
        bad.append(f"roles {roles}")
    foreign = {o["apiVersion"] for o in objects} & k.FOREIGN
    if foreign or any(o["kind"] in ("PersistentVolumeClaim", "Namespace") for o in objects):
        bad.append(f"needs more than Kubernetes has: {foreign}")
    if any(len(set(c["resources"]["requests"]) - {"cpu", "memory"}) for c, _ in containers):
        bad.append("asks for a device")
    k.say(f"default values: {cpu}m CPU, {memory:.0f} MiB, roles {', '.join(roles)}", bad)


def selectors_are_stable():
    """Version and optional labels may change in an upgrade; selectors may not."""
    pick = lambda args: {k.name_of(o): o["spec"]["selector"] for o in k.helm("llmd", *args)[0] if o["kind"] == "Deployment"}
    a, b = pick([]), pick(["--set", "images.tag=9.9.9,model.name=other,networkPolicy.enabled=true,decode.replicas=3"])
    k.say("selectors do not move", [] if a == b else [f"{a} and {b}"])


def legacy():
    for chart in CHARTS:
        r = subprocess.run([sys.executable, "-c", f"import importlib.machinery as m; v = m.SourceFileLoader('v', "
                            f"'{k.ROOT}/tools/values_schema').load_module(); print('\\n'.join(v.legacy('{chart}')))"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
        for key in r.stdout.split():
            error = k.helm(chart, *NEEDS.get(chart, []), "--set", f"{key}.x=1")[1] or "accepted"
            wanted = f"value {key} is not used here: "
            k.say(f"{chart}: {key} fails with advice", [] if wanted in error else [error])
        error = k.helm(chart, *NEEDS.get(chart, []), "--set", "no.such.key=1")[1] or "accepted"
        k.say(f"{chart}: an unknown key is refused", [] if "not allowed" in error else [error])


def wrong_values():
    for chart, setting, wanted in (
            ("llmd-router", "router.mode=sideways", "standalone"),
            ("llmd-router", "router.epp.pluginsConfigFile=none.yaml", "does not have"),
            ("llmd-router", "router.inferencePool.failureMode=FailClosed", "FailClose"),
            ("llmd-router", "autoscaling.enabled=true,router.epp.leaderElection=true", "choose one"),
            ("llmd-modelservice", "modelArtifacts.uri=s3://bucket/m", "write file:///PATH"),
            ("llmd-modelservice", "decode.create=false", "prefill.create needs decode.create"),
            ("llmd-modelservice", "decode.accelerators=1", "accelerator.resources must name"),
            ("llmd", "decode.replicas=-1", "minimum")):
        error = k.helm(chart, *NEEDS.get(chart, []), "--set", setting)[1] or "accepted"
        k.say(f"{chart}: {setting} is refused", [] if wanted in error else [error])


def checks_can_fail():
    """The checks themselves: each spoilt object must be found."""
    def spoilt(change):
        objects = k.helm("llmd", "--set", "kvCacheManager.mode=service")[0]
        change({k.name_of(o): o for o in objects})
        return k.check(objects)
    container = lambda o: o["Deployment/rel-decode"]["spec"]["template"]["spec"]["containers"][0]
    cases = {
        "an unknown field": lambda o: o["Service/rel-epp"]["spec"].update(tpye="x"),
        "an unknown flag": lambda o: container(o)["args"].append("--no-such-flag=1"),
        "a probe of no port": lambda o: container(o)["livenessProbe"]["httpGet"].update(port="web"),
        "a Service of nobody": lambda o: o["Service/rel-epp"]["spec"]["selector"].update(a="b"),
        "a root container": lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "too little grace": lambda o: o["Deployment/rel-decode"]["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=30),
        "a cache that is not there": lambda o: o.pop("x", None) or o["Service/rel-kv-cache"]["metadata"].update(name="other"),
    }
    for what, change in cases.items():
        k.say(f"{what} is found", [] if spoilt(change) else ["not found"])


def coming():
    """A flag that the binary has by now must not be excused any more."""
    bad = [f"llmd {part} has --{f}" for part, flags in k.COMING.items() for f in flags & k.flags_of(part)]
    k.say("no flag is excused that is there", bad)


def current():
    r = subprocess.run([sys.executable, os.path.join(k.ROOT, "tools/values_schema"), "--check"], stderr=subprocess.PIPE, text=True)
    k.say("values.schema.json are current", r.stderr.splitlines())
    r = subprocess.run([sys.executable, os.path.join(k.ROOT, "tools/kustomize_base"), "--check"], stderr=subprocess.PIPE, text=True)
    k.say("kustomize bases are those of the charts", r.stderr.splitlines())
    bad = []
    for o in ("llmd-lib", *CHARTS):
        with open(os.path.join(k.DEPLOY, "charts", o, "Chart.yaml")) as f:
            c = yaml.safe_load(f)
        r = subprocess.run([k.LLMD, "--version"], stdout=subprocess.PIPE, text=True)
        if f"llmd {c['appVersion']}" != r.stdout.strip():
            bad.append(f"{o}: appVersion {c['appVersion']}, but {r.stdout.strip()}")
    k.say("charts name the binary's version", bad)


def overlays():
    folder = os.path.join(k.DEPLOY, "kustomize", "overlays")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        objects, error = k.kustomize(os.path.join(folder, name))
        k.say(f"kustomize {name}", [error] if error else k.check(objects, name in ("vllm",)))


def recipes():
    for folder in ("autoscaling", "gateway"):
        for f in sorted(os.listdir(os.path.join(k.DEPLOY, folder))):
            with open(os.path.join(k.DEPLOY, folder, f)) as text:
                objects = [o for o in yaml.safe_load_all(text) if "apiVersion" in o]
            scaled = k.helm("llmd", "--name-template", "llmd", "--set", "autoscaling.enabled=true")[0]
            targets = {o["metadata"]["name"] for o in scaled if o["kind"] == "Deployment"}
            bad = [e for o in objects for e in k.schema_errors(o)]
            bad += [f"{k.name_of(o)}: the chart has no {o['spec']['scaleTargetRef']['name']}" for o in objects
                    if "scaleTargetRef" in o["spec"] and o["spec"]["scaleTargetRef"]["name"] not in targets]
            k.say(f"{folder}/{f}", bad)
    objects, error = k.kustomize(os.path.join(k.DEPLOY, "observability"))
    k.say("kustomize observability", [error] if error else [e for o in objects for e in k.schema_errors(o)])


def main():
    for tool in ("helm", "kubectl"):
        if tool not in k.tools():
            k.skip(f"{tool} is not there and could not be fetched (tools/deploy_tools)")
    if "schemas" not in k.tools():
        print("note: the schemas of Kubernetes are not there; only our own checks run")
    for f in (lint, render, monitors_follow_the_api, one_of_the_replicas_leads, defaults_fit_a_small_node, selectors_are_stable, legacy, wrong_values,
              checks_can_fail, coming, current, overlays, recipes):
        f()
    print(f"{k.failed} failed")
    sys.exit(k.failed != 0)


if __name__ == "__main__":
    main()
