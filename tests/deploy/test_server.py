#!/usr/bin/env python3
"""A real API server takes every chart, overlay and CRD (kubectl apply --dry-run=server), warns of nothing under the
restricted Pod Security Standard, and refuses what the CRDs' rules refuse.

Needs root and the programs that tests/kube/run keeps in its cache; without them it counts as skipped."""
# SPDX-License-Identifier: Apache-2.0
import glob
import json
import os
import subprocess
import sys
import shutil
import tempfile

import yaml

import objects as k

KUBE = os.path.join(k.ROOT, "tests", "kube")
CACHE = os.environ.get("KUBE_CACHE", os.path.expanduser("~/.cache/llmd-kube"))
OURS = ("inference.networking.k8s.io/v1", "llm-d.ai/v1alpha2")

def kubectl(run, *argv, given=None):
    r = subprocess.run([os.path.join(run, "in"), "kubectl", *argv], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return r.returncode, r.stdout


def dry_run(run, objects):
    """Refusals and warnings, without the kinds whose operators are not there."""
    mine = [o for o in objects if o["apiVersion"] not in k.FOREIGN or o["apiVersion"] in OURS]
    mine = [o for o in mine if o["kind"] != "Namespace"]
    code, out = kubectl(run, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
                        given=json.dumps({"apiVersion": "v1", "kind": "List", "items": mine}))
    return [line for line in out.splitlines() if code != 0 or line.startswith("Warning")]


def pool(**spec):
    base = {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}
    return {"apiVersion": OURS[0], "kind": "InferencePool", "metadata": {"name": "p", "namespace": "llmd"}, "spec": {**base, **spec}}


def rewrite(*targets):
    return {"apiVersion": OURS[1], "kind": "InferenceModelRewrite", "metadata": {"name": "r", "namespace": "llmd"},
            "spec": {"poolRef": {"name": "p"}, "rules": [{"targets": list(targets)}]}}


CASES = (("a pool", pool(), None), ("a picker without a port", pool(endpointPickerRef={"name": "epp"}), "port.number"),
         ("a port twice", pool(targetPorts=[{"number": 1}, {"number": 1}]), "must differ"),
         ("FailClosed", pool(endpointPickerRef={"name": "e", "port": {"number": 1}, "failureMode": "FailClosed"}), "FailClose"),
         ("no selector", pool(selector={"matchLabels": {}}), "matchLabels"),
         ("weights on all", rewrite({"modelRewrite": "a", "weight": 1}, {"modelRewrite": "b", "weight": 2}), None),
         ("a weight on one of two", rewrite({"modelRewrite": "a", "weight": 1}, {"modelRewrite": "b"}), "all targets"))


def checks(run):
    for name in ("llmd", "vllm", "default"):
        kubectl(run, "create", "namespace", name)
        kubectl(run, "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
    code, out = kubectl(run, "apply", "--server-side", "-f", os.path.join(k.DEPLOY, "crds"))
    k.say("CRDs", out.splitlines() if code else [])
    code, out = kubectl(run, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    k.say("CRDs are established", out.splitlines() if code else [])
    for what, o, wanted in CASES:
        bad = dry_run(run, [o])
        k.say(f"{what} is {'refused' if wanted else 'taken'}", bad if wanted is None else [] if wanted in "".join(bad) else [f"{bad}"])
    for chart in ("llmd-router", "llmd-modelservice", "llmd"):
        for f in sorted(glob.glob(os.path.join(k.DEPLOY, "charts", chart, "examples", "*.yaml"))):
            objects, error = k.helm(chart, "--namespace", "default", "-f", f)
            # RDMA locks memory, which the standard does not allow; nothing else may stand out.
            bad = [error] if error else [b for b in dry_run(run, objects) if "rdma" not in f or "IPC_LOCK" not in b]
            k.say(f"{chart} {os.path.basename(f)}", bad)
    for name in sorted(os.listdir(os.path.join(k.DEPLOY, "kustomize", "overlays"))):
        objects, error = k.kustomize(os.path.join(k.DEPLOY, "kustomize", "overlays", name))
        k.say(f"overlay {name}", [error] if error else dry_run(run, objects))
    for folder in ("autoscaling", "gateway"):
        for f in sorted(glob.glob(os.path.join(k.DEPLOY, folder, "*.yaml"))):
            with open(f) as text:
                objects = [o for o in yaml.safe_load_all(text) if o and "apiVersion" in o]
            if any(o["apiVersion"] not in k.FOREIGN or o["apiVersion"] in OURS for o in objects):
                k.say(f"{folder}/{os.path.basename(f)}", dry_run(run, objects))


def main():
    folders = sorted(f for f in glob.glob(f"{CACHE}/*/kube"))
    if os.geteuid() != 0:
        k.skip("a control plane in namespaces of its own needs root")
    if not folders:
        k.skip("no Kubernetes in the cache; tests/kube/run builds it")
    for tool in ("helm", "kubectl"):
        if tool not in k.tools():
            k.skip(f"{tool} is not there and could not be fetched (tools/deploy_tools)")
    folder = tempfile.mkdtemp(prefix="llmd-server-")
    env = dict(os.environ, RUN=f"{folder}/run", BIN=os.path.dirname(folders[-1]), IMAGES=folder, NODE="0")
    try:
        subprocess.run(["sh", os.path.join(KUBE, "up.sh")], env=env, check=True, stdout=subprocess.DEVNULL)
        checks(f"{folder}/run")
    finally:
        subprocess.run(["sh", os.path.join(KUBE, "down.sh")], env=env, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{k.failed} failed")
    sys.exit(k.failed != 0)


if __name__ == "__main__":
    main()
