"""Rendered Kubernetes objects: how to make them, and what must hold for each.

check(objects) returns what is wrong, one line each.  Schemas are Kubernetes' own where the package with them was
fetched; the rest (names that must meet, security, flags of the real binary) is checked here.
"""
# SPDX-License-Identifier: Apache-2.0
import functools
import json
import os
import re
import subprocess
import sys

import yaml

failed = 0


def say(what, bad):
    """A line for what was looked at, and one for each fault of it."""
    global failed
    print(f"{'FAIL' if bad else 'ok'}   {what}")
    for line in bad:
        print(f"       {line}")
    failed += bool(bad)


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = os.path.join(ROOT, "deploy")
LLMD = os.environ.get("LLMD") or os.path.join(ROOT, "build", "src", "cmd", "llmd")
MONITORING = "monitoring.coreos.com/v1"
# Flags that other changes bring; a flag that the binary has must leave this list.
COMING = {"scheduler": {"endpoints-dns"}}
# Kinds whose API is not Kubernetes' own; deploy/crds has the schemas of the last three.
FOREIGN = {"monitoring.coreos.com/v1", "leaderworkerset.x-k8s.io/v1", "gateway.networking.k8s.io/v1",
           "networking.istio.io/v1", "gateway.envoyproxy.io/v1alpha1", "keda.sh/v1alpha1", "inference.networking.k8s.io/v1", "llm-d.ai/v1alpha2"}


@functools.lru_cache
def tools():
    r = subprocess.run([os.path.join(ROOT, "tools", "deploy_tools")], stdout=subprocess.PIPE, text=True, check=True)
    return dict(line.split("=", 1) for line in r.stdout.split())


def helm(chart, *args):
    """(objects, None) or (None, the error)."""
    r = subprocess.run([tools()["helm"], "template", *([] if "--name-template" in args else ["rel"]),
                        os.path.join(DEPLOY, "charts", chart), *args],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode != 0:
        return None, r.stderr
    return [o for o in yaml.safe_load_all(r.stdout) if o], None


def kustomize(folder):
    r = subprocess.run([tools()["kubectl"], "kustomize", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode != 0:
        return None, r.stderr
    return [o for o in yaml.safe_load_all(r.stdout) if o], None


def name_of(o):
    return f"{o['kind']}/{o['metadata']['name']}"


# ---- schemas ----

@functools.lru_cache
def definitions():
    with open(os.path.join(tools()["schemas"], "_definitions.json")) as f:
        return json.load(f)


@functools.lru_cache
def kinds():
    """{(apiVersion, kind): name of its definition}"""
    found = {}
    for name, d in definitions()["$defs"].items():
        for gvk in d.get("x-kubernetes-group-version-kind", []):
            found[((gvk["group"] + "/" if gvk["group"] else "") + gvk["version"], gvk["kind"])] = name
    return found


@functools.lru_cache
def validator(definition):
    import jsonschema
    import referencing
    resource = referencing.Resource.from_contents({"$schema": "https://json-schema.org/draft/2020-12/schema", **definitions()})
    registry = referencing.Registry().with_resource("/api/_definitions.json", resource)
    return jsonschema.Draft202012Validator({"$ref": f"/api/_definitions.json#/$defs/{definition}"}, registry=registry)


def crds():
    """{(apiVersion, kind): schema} of deploy/crds"""
    found = {}
    for f in sorted(os.listdir(os.path.join(DEPLOY, "crds"))):
        with open(os.path.join(DEPLOY, "crds", f)) as text:
            for o in yaml.safe_load_all(text):
                if o and o["kind"] == "CustomResourceDefinition":
                    for v in o["spec"]["versions"]:
                        found[(f"{o['spec']['group']}/{v['name']}", o["spec"]["names"]["kind"])] = v["schema"]["openAPIV3Schema"]
    return found


def closed(schema):
    """The same with unknown fields refused, as --dry-run=server with strict validation does."""
    if isinstance(schema, dict):
        schema = {k: closed(v) for k, v in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [closed(v) for v in schema]
    return schema


def schema_errors(o):
    import jsonschema
    key = (o.get("apiVersion"), o.get("kind"))
    own = crds()
    if key in own:
        s = closed(own[key])
        s["properties"].update(apiVersion=True, kind=True, metadata=True)
        return [f"{name_of(o)}: {e.json_path}: {e.message[:200]}" for e in jsonschema.Draft202012Validator(s).iter_errors(o)]
    if o["apiVersion"] in FOREIGN:
        return []
    if "schemas" not in tools():
        return []
    if key not in kinds():
        return [f"{name_of(o)}: Kubernetes has no {key[1]} in {key[0]}"]
    return [f"{name_of(o)}: {e.json_path}: {e.message[:200]}" for e in validator(kinds()[key]).iter_errors(o)]


# ---- what must meet ----

def template_of(o):
    if o["kind"] in ("Deployment", "StatefulSet", "Job"):
        return o["spec"]["template"]
    if o["kind"] == "LeaderWorkerSet":
        return o["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return None


def matches(selector, labels):
    return all(labels.get(k) == v for k, v in selector.items())


@functools.lru_cache
def flags_of(part):
    r = subprocess.run([LLMD, part, "--help"], stdout=subprocess.PIPE, text=True, check=True)
    names = set(re.findall(r"^  --([a-z0-9-]+)", r.stdout, re.M))
    return names | set(re.findall(r"\(--(no-[a-z0-9-]+)\)", r.stdout))


def flag_errors(where, args):
    if not args or args[0] not in ("scheduler", "cache", "worker"):
        return []
    part, bad = args[0], []
    for a in args[1:]:
        flag = a[2:].split("=", 1)[0] if a.startswith("--") else None
        if flag is None:
            bad.append(f"{where}: {a!r} is no --flag=value")
        elif flag not in flags_of(part) | COMING.get(part, set()):
            bad.append(f"{where}: llmd {part} has no flag --{flag}")
    return bad


def container_errors(o, pod, c):
    where, bad = f"{name_of(o)}/{c['name']}", []
    ports = {p["name"]: p["containerPort"] for p in c.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in c:
            bad.append(f"{where}: no {probe}")
            continue
        port = c[probe].get("httpGet", {}).get("port")
        if port not in ports:
            bad.append(f"{where}: {probe} asks port {port}, which is not there")
    security = c.get("securityContext", {})
    if not (security.get("readOnlyRootFilesystem") and security.get("allowPrivilegeEscalation") is False
            and security.get("capabilities", {}).get("drop") == ["ALL"]):
        bad.append(f"{where}: not restricted")
    if set(security.get("capabilities", {}).get("add", [])) - {"IPC_LOCK"}:
        bad.append(f"{where}: adds capabilities")
    resources = c.get("resources", {})
    if "cpu" not in resources.get("requests", {}) or "memory" not in resources.get("limits", {}):
        bad.append(f"{where}: no request of CPU or limit of memory")
    mounts = {m["name"] for m in c.get("volumeMounts", [])}
    volumes = {v["name"] for v in pod.get("volumes", [])}
    if mounts - volumes:
        bad.append(f"{where}: mounts {sorted(mounts - volumes)}, which no volume gives")
    if not {"/tmp", "/cache"} <= {m["mountPath"] for m in c.get("volumeMounts", [])}:
        bad.append(f"{where}: /tmp and /cache must be writable")
    if ":" not in c["image"].rsplit("/", 1)[-1] or c["image"].endswith(":latest"):
        bad.append(f"{where}: image {c['image']} has no fixed tag")
    if c.get("imagePullPolicy") != "IfNotPresent":
        bad.append(f"{where}: imagePullPolicy is {c.get('imagePullPolicy')}")
    stop = c.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    args = c.get("args", [])
    timeout = next((int(a.split("=")[1]) for a in args if a.startswith("--shutdown-timeout=")), 0)
    if not stop:
        bad.append(f"{where}: no preStop")
    elif pod["terminationGracePeriodSeconds"] < int(stop[-1]) + timeout + 5:
        bad.append(f"{where}: {pod['terminationGracePeriodSeconds']} s of grace are less than preStop and shutdown take")
    return bad + flag_errors(where, args)


def pod_errors(o, accounts, secured):
    t = template_of(o)
    pod, bad = t["spec"], []
    s = pod.get("securityContext", {})
    if not (s.get("runAsNonRoot") and s.get("runAsUser", 0) > 0 and s.get("seccompProfile", {}).get("type") == "RuntimeDefault"):
        bad.append(f"{name_of(o)}: the pod is not restricted")
    if pod.get("automountServiceAccountToken") is not (pod.get("serviceAccountName") in secured):
        bad.append(f"{name_of(o)}: a token is for those alone that have a Role")
    if pod.get("serviceAccountName") not in accounts:
        bad.append(f"{name_of(o)}: no ServiceAccount {pod.get('serviceAccountName')}")
    if pod.get("hostNetwork") or pod.get("hostPID") or any("hostPath" in v for v in pod.get("volumes", [])):
        bad.append(f"{name_of(o)}: uses the host")
    if o["kind"] == "Deployment" and not matches(o["spec"]["selector"]["matchLabels"], t["metadata"]["labels"]):
        bad.append(f"{name_of(o)}: its selector does not match its pods")
    if o["kind"] == "Deployment" and any("version" in k or "chart" in k for k in o["spec"]["selector"]["matchLabels"]):
        bad.append(f"{name_of(o)}: a selector must not name a version")
    for c in pod["containers"]:
        bad += container_errors(o, pod, c)
    return bad


def reference_errors(o, objects, foreign_pods):
    """Services, budgets, policies, autoscalers, pools: what they name must be there."""
    pods = [template_of(x) for x in objects if template_of(x)]
    spec, bad = o.get("spec", {}), []
    selector = {"Service": spec.get("selector"), "PodDisruptionBudget": (spec.get("selector") or {}).get("matchLabels"),
                "PodMonitor": (spec.get("selector") or {}).get("matchLabels"),
                "NetworkPolicy": (spec.get("podSelector") or {}).get("matchLabels"),
                "InferencePool": (spec.get("selector") or {}).get("matchLabels")}.get(o["kind"])
    chosen = [p for p in pods if selector and matches(selector, p["metadata"]["labels"])]
    if selector and not chosen and not (foreign_pods and o["kind"] == "InferencePool"):
        bad.append(f"{name_of(o)}: selects no pod")
    ports = {p["name"] for t in chosen for c in t["spec"]["containers"] for p in c.get("ports", [])}
    numbers = {p["containerPort"] for t in chosen for c in t["spec"]["containers"] for p in c.get("ports", [])}
    if o["kind"] == "Service":
        bad += [f"{name_of(o)}: target port {p['targetPort']} is not there" for p in spec["ports"] if p["targetPort"] not in ports]
    if o["kind"] == "InferencePool" and chosen:
        bad += [f"{name_of(o)}: target port {p['number']} is not there" for p in spec["targetPorts"] if p["number"] not in numbers]
    if o["kind"] == "InferencePool":
        ref = spec["endpointPickerRef"]
        service = next((x for x in objects if x["kind"] == "Service" and x["metadata"]["name"] == ref["name"]), None)
        if service is None:
            bad.append(f"{name_of(o)}: no Service {ref['name']}")
    if o["kind"] == "NetworkPolicy":
        bad += [f"{name_of(o)}: port {p['port']} is not there" for rule in spec.get("ingress", []) for p in rule.get("ports", [])
                if isinstance(p["port"], str) and p["port"] not in ports]
    if o["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
        ref = spec["scaleTargetRef"]
        target = [x for x in objects if x["kind"] == ref.get("kind", "Deployment") and x["metadata"]["name"] == ref["name"]]
        if target and "replicas" in target[0]["spec"]:
            bad.append(f"{name_of(o)}: {ref['name']} also says replicas")
        if not target and not foreign_pods:
            bad.append(f"{name_of(o)}: no {ref['name']} to scale")
    if o["kind"] in ("ClusterRole", "ClusterRoleBinding"):
        bad.append(f"{name_of(o)}: rights beyond the namespace")
    return bad


def cache_errors(objects):
    """The scheduler's --cache must name a Service."""
    services = {(x["metadata"]["name"], p["port"]) for x in objects if x["kind"] == "Service" for p in x["spec"]["ports"]}
    bad = []
    for o in objects:
        for c in (template_of(o) or {}).get("spec", {}).get("containers", []):
            for a in c.get("args", []):
                if a.startswith("--cache="):
                    host, port = a[8:].rsplit(":", 1)
                    if (host, int(port)) not in services:
                        bad.append(f"{name_of(o)}: {a} names no Service")
    return bad


def check(objects, foreign_pods=False):
    bad, seen = [], set()
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    secured = {s["name"] for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]}
    for o in objects:
        if name_of(o) in seen:
            bad.append(f"{name_of(o)}: there twice")
        seen.add(name_of(o))
        if len(o["metadata"]["name"]) > 63:
            bad.append(f"{name_of(o)}: name above 63 characters")
        bad += schema_errors(o)
        bad += reference_errors(o, objects, foreign_pods)
        if template_of(o):
            bad += pod_errors(o, accounts, secured)
    return bad + cache_errors(objects)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)
