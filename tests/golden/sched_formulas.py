#!/usr/bin/env python3
"""Golden decisions of the scheduling plugins: tests/golden/sched_*.json.

Every formula here is written from llm-d's documentation of the plugin, not from src/sched, so that
the two are two opinions.  Run from anywhere: the rows are rewritten beside this file, the same
every time (the seed is fixed).  tests/unit/sched/test_golden.c sends each row through the plugin
built from the row's configuration.

A row: kind (what is asked), plugin (its type), config (YAML; the plugin's name is "t"), request,
endpoints, and expect.  "nan" is a metric that is not a number; null in a list of scores: no score.
"""
import base64
import hashlib
import itertools
import json
import math
import os
import random

from cel import Cel

R = random.Random(20260801)
HERE = os.path.dirname(os.path.abspath(__file__))
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
NAN = float("nan")
ROLE = "llm-d.ai/role"
FILES = {}


def yaml_plugin(kind, params=None, name="t"):
    text = "- name: %s\n  type: %s\n" % (name, kind)
    if params:
        text += "  parameters: %s\n" % json.dumps(params)
    return text


def config(kind, params=None, more=""):
    return HEAD + "plugins:\n" + yaml_plugin(kind, params) + more


def clean(x):
    if isinstance(x, float):
        if math.isnan(x):
            return "nan"
        if math.isinf(x):
            return "inf" if x > 0 else "-inf"
    if isinstance(x, dict):
        return {k: clean(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [clean(v) for v in x]
    return x


def row(file, kind, plugin, expect, eps=(), request=None, params=None, more="", text=None, **extra):
    one = {"kind": kind, "plugin": plugin, "config": text or config(plugin, params, more)}
    if request:
        one["request"] = request
    one["endpoints"] = list(eps)
    one.update(extra)
    one["expect"] = expect
    FILES.setdefault(file, []).append(json.dumps(clean(one), separators=(",", ":")))


def kept(eps):
    return [i for i, e in enumerate(eps) if e.get("keep", True)]


def fill(eps, scores):
    """Scores of the kept ones (a dict by index); the others have none."""
    return [scores.get(i) for i in range(len(eps))]


# ---- fleets -----------------------------------------------------------------------------------

def fleets(make, count=8):
    """Edges first: nobody, one, all equal, some filtered out before; then random ones."""
    yield []
    yield [make()]
    one = make()
    yield [dict(one), dict(one), dict(one)]
    some = [make() for _ in range(5)]
    some[1]["keep"] = some[4]["keep"] = False
    yield some
    yield [dict(make(), keep=False) for _ in range(2)]
    for _ in range(count):
        yield [make() for _ in range(R.randint(2, 6))]


def load():
    return {"waiting": R.choice([0, 0, 1, 3, 7, 40, 127, 128, 500]), "running": R.randint(0, 64),
            "kv": R.choice([0, 0.25, 0.5, 0.8, 0.9375, 1.0, round(R.random(), 3)]),
            "inflight": R.choice([0, 0, 1, 2, 5, 17, 100]), "tokens": R.choice([0, 16, 4096, 70000, 5000000])}


# ---- scorers ----------------------------------------------------------------------------------

def by_range(values, i):
    lo, hi = min(values.values()), max(values.values())
    return 1.0 if lo == hi else (hi - values[i]) / (hi - lo)


def load_scorers():
    def fields(plugin, get, params_list=({},), nan_field=None, make=load):
        for params in params_list:
            for eps in fleets(make):
                row("scorers", "score", plugin, fill(eps, get(eps, params)), eps, params=params)
        if nan_field:
            eps = [load(), dict(load(), **{nan_field: NAN}), load()]
            scores = get([dict(e, keep=i != 1) for i, e in enumerate(eps)], params_list[0])
            row("scorers", "score", plugin, fill(eps, scores), eps, params=params_list[0])

    def ranged(field):
        def get(eps, _):
            values = {i: eps[i][field] for i in kept(eps)}
            return {i: by_range(values, i) for i in values}
        return get

    fields("queue-scorer", ranged("waiting"), nan_field="waiting")
    fields("running-requests-size-scorer", ranged("running"), nan_field="running")
    fields("kv-cache-utilization-scorer",
           lambda eps, _: {i: 1 - eps[i]["kv"] for i in kept(eps)}, nan_field="kv")

    def aware(eps, params):
        t = params.get("threshold", 128)
        t = 128 if t <= 0 else t
        return {i: 0.5 if eps[i]["waiting"] == 0 else 0.5 * (1 - min(eps[i]["waiting"], t) / t)
                for i in kept(eps)}
    fields("load-aware-scorer", aware, ({}, {"threshold": 5}, {"threshold": 0}, {"threshold": -3}),
           nan_field="waiting")

    def active(eps, params):
        idle, busy = params.get("idleThreshold", 0), params.get("maxBusyScore", 1.0)
        busy = busy if 0 <= busy <= 1 else 1.0
        top = max([eps[i]["inflight"] for i in kept(eps)], default=0)
        return {i: 1.0 if eps[i]["inflight"] <= idle else (top - eps[i]["inflight"]) / top * busy
                for i in kept(eps)}
    fields("active-request-scorer", active,
           ({}, {"idleThreshold": 2, "maxBusyScore": 0.5}, {"maxBusyScore": 1.5}, {"maxBusyScore": 0}))

    for params in ({}, {"queueThresholdTokens": 5000}):
        limit = params.get("queueThresholdTokens", 4194304)
        for eps in fleets(load, 6):
            own = [R.choice([0, 100, 4096]) for _ in eps]
            scores = {}
            for i in kept(eps):
                t = eps[i]["tokens"] + own[i]
                scores[i] = 1.0 if t <= 0 else 1 - min(t, limit) / limit
            row("scorers", "score", "token-load-scorer", fill(eps, scores), eps,
                {"uncached": own}, params)


def prefix_info(eps, producer, total=None):
    total = R.choice([0, 1, 4, 10, 200]) if total is None else total
    match = [R.randint(0, total) for _ in eps]
    return {"producer": producer, "total": total, "block": R.choice([16, 64]), "match": match,
            "cached": match}


def prefix_score(info, i, weight=0, scale=8192):
    if info is None or info["total"] == 0:
        return 0.0
    share = info["match"][i] / info["total"]
    length = min(1, info["match"][i] * info["block"] / scale) ** 2
    return weight * length + (1 - weight) * share


def prefix_scorers():
    approx = "approx-prefix-cache-producer"
    for params in ({}, {"matchLengthWeight": 0.5}, {"matchLengthWeight": 1, "matchLengthScaleTokens": 1024}):
        for eps in fleets(load, 6):
            info = prefix_info(eps, approx) if R.random() < 0.9 else None
            scores = {i: prefix_score(info, i, params.get("matchLengthWeight", 0),
                                      params.get("matchLengthScaleTokens", 8192)) for i in kept(eps)}
            row("scorers", "score", "prefix-cache-scorer", fill(eps, scores), eps,
                {"prefix": [info] if info else []}, params)
    for eps in fleets(load, 6):  # by the name of another producer
        mine, other = prefix_info(eps, "exact"), prefix_info(eps, approx)
        row("scorers", "score", "prefix-cache-scorer",
            fill(eps, {i: prefix_score(mine, i) for i in kept(eps)}), eps, {"prefix": [other, mine]},
            {"prefixMatchInfoProducerName": "exact"},
            more=yaml_plugin("precise-prefix-cache-producer", name="exact"))
    for eps in fleets(load, 6):
        info = prefix_info(eps, "t")
        row("scorers", "score", "precise-prefix-cache-scorer",
            fill(eps, {i: prefix_score(info, i) for i in kept(eps)}), eps, {"prefix": [info]})
    name = "multicluster-approx-prefix-cache-producer"
    for eps in fleets(load, 6):
        info = prefix_info(eps, name)
        row("scorers", "score", "multicluster-prefix-cache-scorer",
            fill(eps, {i: prefix_score(info, i) for i in kept(eps)}), eps, {"prefix": [info]},
            more=yaml_plugin(name, name=name))


def lora_scorer():
    names = ["a", "b", "c", "d"]

    def make():
        running = R.sample(names, R.randint(0, 2))
        return {"lora_active": running, "lora_waiting": R.sample(names, R.randint(0, 2)),
                "lora_max": R.choice([0, 1, 2, 4])}
    for model in ("a", "base"):
        for eps in fleets(make, 10):
            scores = {}
            for i in kept(eps):
                e = eps[i]
                if model in e["lora_active"]:
                    scores[i] = 1.0
                elif len(e["lora_active"]) + len(e["lora_waiting"]) < e["lora_max"]:
                    scores[i] = 0.8
                elif model in e["lora_waiting"]:
                    scores[i] = 0.6
                else:
                    scores[i] = 0.0
            row("scorers", "score", "lora-affinity-scorer", fill(eps, scores), eps, {"target_model": model})


def no_hit_lru():
    approx = "approx-prefix-cache-producer"
    for size, n in ((None, 4), (2, 4), (None, 1), (None, 6), (0, 3), (None, 3)):
        for cold in (True, False):
            eps = [{"id": "e%d" % i} for i in range(n)]
            if n == 6:
                eps[2]["keep"] = False
            used, history = [], []
            for _ in range(R.randint(0, 7)):
                pick, was_cold = R.randrange(n), R.random() < 0.8
                info = prefix_info(eps, approx, 4)
                info["match"] = info["cached"] = [0 if was_cold else 1] * n
                history.append({"pick": pick, "prefix": [info]})
                if was_cold:
                    used = [u for u in used if u != pick] + [pick]
                    if len(used) > (size or 1024):
                        used.pop(0)
            info = prefix_info(eps, approx, 4)
            info["match"] = info["cached"] = [0] * n if cold else [0] * (n - 1) + [2]
            live, scores = kept(eps), {}
            never = [i for i in live if i not in used]
            for i in live:
                if not cold:
                    scores[i] = 0.5
                elif len(live) == 1:
                    scores[i] = 1.0
                elif i in never:
                    scores[i] = 1 - never.index(i) / (len(live) - 1)
                else:
                    scores[i] = max(0, 1 - (len(never) + used.index(i)) / (len(live) - 1))
            row("scorers", "score", "no-hit-lru-scorer", fill(eps, scores), eps, {"prefix": [info]},
                {} if size is None else {"lruSize": size}, history=history)


def context_fit(label, n):
    """('in'|'out'|'none'|'bad', score)."""
    if label is None:
        return "none", 0.5
    parts = label.split("-")
    if len(parts) != 2 or not all(p.strip().isdigit() for p in parts):
        return "bad", 0.0
    lo, hi = int(parts[0]), int(parts[1])
    if lo > hi:
        return "bad", 0.0
    if lo <= n <= hi:
        width = hi - lo
        raw = 1.0 if width == 0 else 0.7 / (1 + width / 10000) + 0.3 * (hi - n) / width
        return "in", 1.0 if width == 0 else 0.3 + 0.7 * raw
    distance = lo - n if n < lo else n - hi
    return "out", 0.3 / (1 + distance / 1000)


CONTEXT = "llm-d.ai/context-length-range"


def context_length():
    def make():
        label = R.choice([None, "0-2048", "2048-8192", "0-131072", "4096-4096", "x", "9-1", "1000", "", "8193-32768"])
        return {"labels": {} if label is None else {CONTEXT: label}}
    for n in (0, 1000, 2048, 4096, 100000):
        for eps in fleets(make, 4):
            for enabled in (False, True):
                fits = {i: context_fit(eps[i]["labels"].get(CONTEXT), n) for i in range(len(eps))}
                params = {"enableFiltering": True} if enabled else {}
                request = {"prompt_tokens": n}
                row("filters", "filter", "context-length-aware",
                    [i in kept(eps) and (not enabled or fits[i][0] in ("none", "in"))
                     for i in range(len(eps))], eps, request, params)
                row("scorers", "score", "context-length-aware",
                    fill(eps, {i: fits[i][1] for i in kept(eps)}), eps, request, params)


def prediction():
    return {"ttft": R.choice([10, 50, 200, 900]), "tpot": R.choice([5, 20]),
            "ttft_headroom": R.choice([-200, -50, -1, 0, 1, 40, 300]),
            "tpot_headroom": R.choice([-9, -1, 0, 3, 12]), "dispatched": R.choice([0, 0, 1, 4])}


def go_round(x):
    return math.floor(x + 0.5)  # half away from zero; scores are not negative


def latency_bucket(group, preds, wt, wp, most):
    dims = []
    for key in ("ttft_headroom", "tpot_headroom"):
        values = {i: abs(preds[i][key]) for i in group}
        lo, hi = min(values.values()), max(values.values())
        flat = hi - lo <= 1e-9
        dims.append(({i: 0.5 if flat else (values[i] - lo) / (hi - lo) for i in group}, flat))
    a, b = (wt / (wt + wp), wp / (wt + wp)) if wt + wp > 0 else (1.0, 0.0)
    if dims[0][1] and not dims[1][1]:
        a, b = 0.0, 1.0
    elif dims[1][1] and not dims[0][1]:
        a, b = 1.0, 0.0
    out = {}
    for i in group:
        c = a * dims[0][0][i] + b * dims[1][0][i]
        x = (c if most else 1 - c) * 100
        if abs(x - round(x)) < 1e-6 and abs(x - round(x)) > 0:
            return None  # the cut would depend on the last bit
        out[i] = min(1.0, (int(x) + 1) / 100)
    return out


def latency_scorer():
    made = 0
    while made < 40:
        params = R.choice([{}, {"headroomSelectionStrategy": "most"}, {"ttftWeight": 1, "tpotWeight": 1},
                           {"ttftWeight": 0, "tpotWeight": 0}])
        eps = [load() for _ in range(R.choice([0, 1, 2, 3, 5]))]
        preds = [prediction() for _ in eps]
        if R.random() < 0.4:  # all miss
            for p in preds:
                p["ttft_headroom"] = -abs(p["ttft_headroom"]) - 1
                p["dispatched"] = max(p["dispatched"], R.choice([0, 1, 1]))
        live = kept(eps)
        miss = {i: (preds[i]["ttft_headroom"] < 0, preds[i]["tpot_headroom"] < 0) for i in live}
        good = [i for i in live if miss[i] == (False, False)]
        most = params.get("headroomSelectionStrategy") == "most"
        group = good
        if not good and live:
            most = False
            group = [i for i in live if preds[i]["dispatched"] == 0]
            for want in ((False, True), (True, False), (True, True)):
                group = group or [i for i in live if miss[i] == want]
        scores = {i: 0.0 for i in live}
        if group:
            part = latency_bucket(group, preds, params.get("ttftWeight", 0.8), params.get("tpotWeight", 0.2), most)
            if part is None:
                continue
            scores.update(part)
        row("scorers", "score", "latency-scorer", fill(eps, scores), eps,
            {"predictions": preds} if eps else {}, params)
        made += 1
    for params in ({}, {"compositeKVWeight": 3, "compositePrefixWeight": 0}, {"compositeQueueWeight": 0},
                   {"compositeKVWeight": 0, "compositeQueueWeight": 0, "compositePrefixWeight": 1}):
        for eps in fleets(load, 5):
            w = [params.get(k, 1) for k in ("compositeKVWeight", "compositeQueueWeight", "compositePrefixWeight")]
            info = prefix_info(eps, "approx-prefix-cache-producer", 10)
            top = max([eps[i]["waiting"] for i in kept(eps)], default=0)
            scores = {}
            for i in kept(eps):
                queue = (top - eps[i]["waiting"]) / top if top else 1.0
                x = (w[0] * (1 - eps[i]["kv"]) + w[1] * queue + w[2] * prefix_score(info, i)) / sum(w)
                scores[i] = go_round(x * 100) / 100
            row("scorers", "score", "latency-scorer", fill(eps, scores), eps, {"prefix": [info]}, params,
                within=0.0101 if any(abs(v * 100 % 1 - 0.5) < 1e-6 for v in scores.values()) else 1e-9)


def media_scorer():
    for eps in fleets(load, 6):
        share = [R.choice([0, 0.25, 1.0]) for _ in eps]
        row("scorers", "score", "mm-embeddings-cache-scorer", fill(eps, {i: share[i] for i in kept(eps)}),
            eps, {"media_match": share} if eps else {})
    row("scorers", "score", "mm-embeddings-cache-scorer", [0.0, 0.0], [load(), load()])


def attribute(key="queue_s", producer="core-metrics-extractor", values=(0, 0.5, 2, 2, 7, -3, 100)):
    def make():
        e = {}
        if R.random() < 0.8:
            e["attributes"] = [{"key": key, "producer": producer, "value": R.choice(values)}]
        return e
    return make


def value_of(e, key="queue_s"):
    for a in e.get("attributes", []):
        if a["key"] == key and not math.isnan(a["value"]):
            return a["value"]
    return None


def attribute_scorer():
    for kind in ("linear_lower_is_better", "linear_higher_is_better"):
        for fixed in (None, {"min": 0, "max": 10}, {"min": -5, "max": 2.5}):
            norm = {"adaptiveRange": {}} if fixed is None else {"fixedRange": fixed}
            params = {"attributeKey": "queue_s", "algorithm": {"type": kind, "normalization": norm}}
            if fixed is None and kind == "linear_lower_is_better":
                del params["algorithm"]["normalization"]  # adaptive is the default
            many = list(fleets(attribute(), 5))
            many.append([{"attributes": [{"key": "queue_s", "producer": "core-metrics-extractor", "value": v}]}
                         for v in (1, NAN, 3)])
            for eps in many:
                values = {i: value_of(eps[i]) for i in kept(eps) if value_of(eps[i]) is not None}
                scores = {}
                for i in kept(eps):
                    if i not in values:
                        scores[i] = 0.0
                        continue
                    if fixed is None:
                        lo, hi = min(values.values()), max(values.values())
                        if lo == hi:
                            scores[i] = 1.0
                            continue
                    else:
                        lo, hi = fixed["min"], fixed["max"]
                    x = min(1, max(0, (values[i] - lo) / (hi - lo)))
                    scores[i] = 1 - x if kind == "linear_lower_is_better" else x
                row("scorers", "score", "endpoint-attribute-scorer", fill(eps, scores), eps, params=params)


def label_scorers():
    for header, make in (("X-Tier", lambda: {"labels": R.choice([{}, {"tier": ""}, {"tier": "gold"}, {"tier": "Gold"}])}),):
        for value in (None, "", "gold", " gold ", "iron"):
            for eps in fleets(make, 3):
                want = (value or "").strip()
                scores = {i: float(want != "" and eps[i]["labels"].get("tier") == want) for i in kept(eps)}
                row("scorers", "score", "header-label-affinity-scorer", fill(eps, scores), eps,
                    {"headers": {} if value is None else {"x-tier": value}},
                    {"headerName": header, "labelKey": "tier"})


PLACES = ["kubernetes.io/hostname", "topology.kubernetes.io/rack", "topology.kubernetes.io/zone",
          "topology.kubernetes.io/region"]


def common(a, b):
    for level, key in enumerate(PLACES):
        x = a["labels"].get(key, "")
        if x != "" and x == b["labels"].get(key):
            return level
    return 4


def topology():
    def make():
        labels = {}
        for key in PLACES:
            v = R.choice([None, "", "1", "2"])
            if v is not None:
                labels[key] = v
        return {"labels": labels}
    for eps in fleets(make, 20):
        for peer in {None, 0 if eps else None, len(eps) - 1 if eps else None}:
            request = {} if peer is None else {"peer": peer}
            value = [1, 0.2, 0.05, 0.02, 0]
            scores = {i: 0.0 if peer is None else value[common(eps[i], eps[peer])] for i in kept(eps)}
            row("scorers", "score", "topology-affinity-scorer", fill(eps, scores), eps, request)
            widest = R.randrange(4)
            params = R.choice([{}, {"minAffinity": "host"}]) if widest == 0 else \
                {"minAffinity": ["host", "rack", "zone", "region"][widest]}
            near = [i for i in kept(eps) if peer is not None and common(eps[i], eps[peer]) <= widest]
            stay = near or kept(eps)
            row("filters", "filter", "topology-affinity-filter", [i in stay for i in range(len(eps))], eps,
                request, params)


def multicluster():
    for plugin, key in (("multicluster-queue-scorer", "llm-d.ai/multicluster-queue-size"),
                        ("multicluster-kv-cache-utilization-scorer", "llm-d.ai/multicluster-kv-cache-utilization")):
        for eps in fleets(attribute(key, "", (0, 0.25, 0.5, 1)), 6):
            values = {i: value_of(eps[i], key) for i in kept(eps) if value_of(eps[i], key) is not None}
            if plugin == "multicluster-queue-scorer":
                scores = {i: by_range(values, i) for i in values}
            else:
                scores = {i: 1 - values[i] for i in values}
            row("scorers", "score", plugin, fill(eps, scores), eps)


def b64(text):
    return base64.b64encode(text.encode()).decode()


def session():
    eps3 = [{"id": "default/pod-%d-rank-0" % i} for i in range(3)]
    cases = []
    for token in (None, "", b64("default/pod-1-rank-0"), b64("default/gone"), "!!!", b64("default/pod-1-rank-0") + "x"):
        bound = None
        try:
            bound = [e["id"] for e in eps3].index(base64.b64decode(token or "", validate=True).decode())
        except ValueError:
            pass
        cases.append(({}, "x-session-token", token, bound, []))
        cases.append(({"encodedEndpointHeaderConfig": {"header": "X-Mine"}}, "x-mine", token, bound, []))
    by_id = {"strategy": "session_id"}
    for params in (by_id, dict(by_id, sessionIdConfig={"sources": [{"header": "X-A"}, {"header": "x-session-id"}]})):
        seen = [{"pick": 2, "headers": {"x-session-id": "s"}}, {"pick": 0, "headers": {"x-session-id": " s "}},
                {"pick": 1, "headers": {}}, {"pick": 1, "headers": {"x-session-id": "other"}}]
        cases += [(params, "x-session-id", "s", 2, seen), (params, "x-session-id", "other", 1, seen),
                  (params, "x-session-id", "new", None, seen), (params, "x-session-id", None, None, seen),
                  (params, "x-session-id", "s", None, [])]
    for params, header, value, bound, history in cases:
        request = {"headers": {} if value is None else {header: value}}
        for eps in (eps3, [dict(e, keep=i != 1) for i, e in enumerate(eps3)]):
            live = kept(eps)
            row("scorers", "score", "session-affinity-scorer", fill(eps, {i: float(i == bound) for i in live}),
                eps, request, params, history=history)
            stay = [bound] if bound in live else live
            for plugin in ("session-affinity-filter", "multicluster-session-affinity-filter"):
                row("filters", "filter", plugin, [i in stay for i in range(len(eps))], eps, request, params,
                    history=history)


# ---- filters ----------------------------------------------------------------------------------

def role_filters():
    keeps = {"decode-filter": {None, "decode", "prefill-decode", "both", "encode-prefill-decode"},
             "prefill-filter": {"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"},
             "encode-filter": {"encode", "encode-prefill", "encode-prefill-decode"}}
    roles = [None, "", "decode", "prefill", "encode", "both", "prefill-decode", "encode-prefill",
             "encode-prefill-decode", "Decode", "none"]

    def one(role):
        return {"labels": {} if role is None else {ROLE: role}}
    for plugin, good in keeps.items():
        for eps in [[one(r) for r in roles]] + list(fleets(lambda: one(R.choice(roles)), 5)):
            row("filters", "filter", plugin,
                [i in kept(eps) and e["labels"].get(ROLE) in good for i, e in enumerate(eps)], eps)


def selects(sel, labels):
    for k, v in sel.get("matchLabels", {}).items():
        if labels.get(k) != v:
            return False
    for x in sel.get("matchExpressions", []):
        have, key, values = x["key"] in labels, x["key"], x.get("values", [])
        ok = {"In": have and labels.get(key) in values, "NotIn": not have or labels[key] not in values,
              "Exists": have, "DoesNotExist": not have}[x["operator"]]
        if not ok:
            return False
    return True


def label_filters():
    def make():
        return {"labels": {k: R.choice(["a", "b", ""]) for k in ("x", "y") if R.random() < 0.7}}
    for plugin in ("label-selector-filter", "by-label-selector"):
        for sel in ({}, {"matchLabels": {"x": "a"}}, {"matchLabels": {"x": "a", "y": "b"}},
                    {"matchExpressions": [{"key": "x", "operator": "In", "values": ["a", "b"]}]},
                    {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["a"]}]},
                    {"matchExpressions": [{"key": "y", "operator": "Exists"}]},
                    {"matchExpressions": [{"key": "y", "operator": "DoesNotExist"}], "matchLabels": {"x": "b"}}):
            for eps in fleets(make, 2):
                row("filters", "filter", plugin,
                    [i in kept(eps) and selects(sel, e["labels"]) for i, e in enumerate(eps)], eps, params=sel)
    for params in ({"label": "x"}, {"label": "x", "validValues": ["a"]}, {"label": "x", "validValues": ["a", ""]},
                   {"label": "x", "validValues": ["b"], "allowsNoLabel": True}, {"label": "x", "allowsNoLabel": True}):
        for eps in fleets(make, 4):
            good = set(params.get("validValues", []))
            out = []
            for i, e in enumerate(eps):
                v = e["labels"].get("x")
                ok = v in good if v is not None else params.get("allowsNoLabel", False) or "" in good
                out.append(i in kept(eps) and ok)
            row("filters", "filter", "by-label", out, eps, params=params)


def affinity_filter():
    approx = "approx-prefix-cache-producer"
    for params in ({}, {"affinityThreshold": 0.5}, {"affinityThreshold": 0}, {"affinityThreshold": -1},
                   {"maxTTFTPenaltyMs": 0}, {"maxTTFTPenaltyMs": 100}, {"explorationProbability": 1},
                   {"maxTTFTPenaltyMs": 100, "peakPrefillThroughput": 1000},
                   {"ttftSource": "latencyPredictor", "maxTTFTPenaltyMs": 100}):
        for eps in fleets(load, 6):
            info = prefix_info(eps, approx, R.choice([0, 4, 10])) if R.random() < 0.9 else None
            preds = [prediction() for _ in eps] if R.random() < 0.5 else None
            threshold, live = params.get("affinityThreshold", 0.80), kept(eps)
            penalty = params.get("maxTTFTPenaltyMs", 18000)
            sticky = [i for i in live if prefix_score(info, i) >= threshold]
            rest = [i for i in live if i not in sticky]

            def ttft(i):
                if params.get("ttftSource") == "latencyPredictor":
                    return preds[i]["ttft"] if preds else math.inf
                return eps[i]["tokens"] / params.get("peakPrefillThroughput", 15928) * 1000
            stay = sticky
            if len(live) <= 1 or threshold <= 0 or params.get("explorationProbability") or not sticky:
                stay = live
            elif penalty > 0 and rest and \
                    min(map(ttft, sticky)) - min(map(ttft, rest)) > penalty:
                stay = live
            request = {"prefix": [info] if info else []}
            if preds and eps:
                request["predictions"] = preds
            row("filters", "filter", "prefix-cache-affinity-filter", [i in stay for i in range(len(eps))], eps,
                request, params)


def headroom_filter():
    for epsilon in (0, 1):
        for eps in fleets(load, 10):
            preds = [prediction() for _ in eps] if R.random() < 0.85 and eps else None
            live = kept(eps)
            stay = live
            if preds and len(live) > 1:
                pos = [i for i in live if preds[i]["ttft_headroom"] >= 0 and preds[i]["tpot_headroom"] >= 0]
                neg = [i for i in live if i not in pos]
                if pos and neg:
                    stay = neg if epsilon else pos
            row("filters", "filter", "slo-headroom-tier-filter", [i in stay for i in range(len(eps))], eps,
                {"predictions": preds} if preds else {}, {"epsilonExploreNeg": epsilon})


def utilization_filter():
    names = {"active-requests": "inflight", "running-requests": "running", "waiting-queue": "waiting",
             "kv-cache-utilization": "kv"}
    for fallback in (False, True):
        for conditions in ([("waiting-queue", 5)], [("kv-cache-utilization", 0.5), ("active-requests", 2)],
                           [("running-requests", 0)], [("kv-cache-utilization", 1)]):
            for eps in list(fleets(load, 4)) + [[{}, {"waiting": NAN, "kv": NAN, "running": NAN, "inflight": 9}]]:
                ok = [i for i in kept(eps)
                      if all(eps[i].get(names[m], 0) <= v for m, v in conditions)]
                stay = ok or (kept(eps) if fallback else [])
                row("filters", "filter", "utilization-filter", [i in stay for i in range(len(eps))], eps, None,
                    {"conditions": [{"metric": m, "maxValue": v} for m, v in conditions],
                     "fallbackOnEmpty": fallback})


def attribute_filter():
    ops = {"LessThan": lambda a, b: a < b, "LessThanOrEqual": lambda a, b: a <= b,
           "GreaterThan": lambda a, b: a > b, "GreaterThanOrEqual": lambda a, b: a >= b,
           "Equal": lambda a, b: a == b, "NotEqual": lambda a, b: a != b}
    for name, op in ops.items():
        for missing in (None, "Pass", "Fail"):
            for eps in list(fleets(attribute(), 2))[3:]:
                params = {"attribute": "queue_s", "algorithm":
                          {"type": "threshold", "threshold": {"operator": name, "value": 2}}}
                if missing:
                    params["onMissing"] = missing
                if R.random() < 0.5:
                    params["fallbackOnEmpty"] = True
                ok = []
                for i in kept(eps):
                    v = value_of(eps[i])
                    if missing != "Fail" if v is None else op(v, 2):
                        ok.append(i)
                stay = ok or (kept(eps) if params.get("fallbackOnEmpty") else [])
                row("filters", "filter", "endpoint-attribute-filter", [i in stay for i in range(len(eps))], eps,
                    None, params)


def testing_filter():
    eps = [{"address": "10.0.0.%d:%d" % (i // 2 + 1, 8000 + i % 2)} for i in range(5)]
    for header in (None, "", "10.0.0.1", "10.0.0.1:8001", "10.0.0.3 , 10.0.0.1:8001", "10.9.9.9", "10.0.0.2:9000",
                   "10.0.0.1:8000,10.0.0.1:8001", "10.0.0.1,10.0.0.2"):
        chosen, ips = [], set()
        for one in (header or "").split(","):
            one = one.strip()
            for i, e in enumerate(eps):
                ip = e["address"].split(":")[0]
                if one in (ip, e["address"]) and ip not in ips:
                    chosen.append(i)
                    ips.add(ip)
                    break
        row("filters", "filter", "header-based-testing-filter", [i in chosen for i in range(5)], eps,
            {"headers": {} if header is None else {"test-epp-endpoint-selection": header}})


# ---- saturation -------------------------------------------------------------------------------

def metrics():
    return dict(load(), metrics=R.random() < 0.85, age=R.choice([0, 50, 199, 200, 201, 5000]),
                labels=R.choice([{}, {}, {ROLE: "decode"}, {ROLE: "prefill"}, {ROLE: "both"}, {ROLE: "encode"},
                                 {ROLE: "encode-prefill"}, {ROLE: "none"}]))


def detectors():
    gate = "flowControl: {saturationDetector: {pluginRef: t}}\n"
    prefill = {"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"}
    decode = {None, "none", "decode", "prefill-decode", "both", "encode-prefill-decode"}

    def whole(detect, eps):
        parts = [[e for e in eps if e.get("labels", {}).get(ROLE) in side] for side in (prefill, decode)]
        values = [detect(p) for p in parts if p]
        return max(values) if values else detect(eps)

    for params in ({}, {"queueDepthThreshold": 10, "kvCacheUtilThreshold": 0.5, "headroom": 0.2},
                   {"metricsStalenessThreshold": "1s"}):
        q, k = params.get("queueDepthThreshold", 5), params.get("kvCacheUtilThreshold", 0.8)
        stale = 1000 if "metricsStalenessThreshold" in params else 200
        h = params.get("headroom", 0)

        def fresh(e):
            return e.get("metrics", True) and e.get("age", 0) <= stale and \
                not math.isnan(e["waiting"]) and not math.isnan(e["kv"])

        def util(eps):
            if not eps:
                return 1.0
            return sum(max(e["waiting"] / q, e["kv"] / k) if fresh(e) else 1.0 for e in eps) / len(eps)
        many = list(fleets(metrics, 14))
        many.append([dict(load(), waiting=0, kv=NAN), dict(load(), waiting=NAN, kv=0.1)])
        for eps in many:
            row("flow", "saturation", "utilization-detector", whole(util, eps), eps, None, params, more=gate)
            ok = [i for i in kept(eps) if fresh(eps[i]) and eps[i]["waiting"] < q * (1 + h)
                  and eps[i]["kv"] < k * (1 + h)]
            row("filters", "filter", "utilization-detector",
                [i in (ok or kept(eps)) for i in range(len(eps))], eps, None, params)
    for mode in ("requests", "tokens", "hybrid"):
        for params in ({}, {"maxConcurrency": 5, "maxTokenConcurrency": 5000, "headroom": 0.25}):
            params = dict(params, concurrencyMode=mode)
            c, t = params.get("maxConcurrency", 100), params.get("maxTokenConcurrency", 1000000)
            h = params.get("headroom", 0)

            def conc(eps):
                if not eps:
                    return 1.0
                if mode == "requests":
                    return sum(e["inflight"] for e in eps) / (c * len(eps))
                if mode == "tokens":
                    return sum(e["tokens"] for e in eps) / (t * len(eps))
                return sum(max(e["inflight"] / c, e["tokens"] / t) for e in eps) / len(eps)
            for eps in fleets(metrics, 5):
                row("flow", "saturation", "concurrency-detector", whole(conc, eps), eps, None, params, more=gate)
                out = []
                for i, e in enumerate(eps):
                    a, b = e["inflight"] < int(c * (1 + h)), e["tokens"] < int(t * (1 + h))
                    ok = {"requests": a, "tokens": b, "hybrid": a and b}[mode]
                    out.append(ok and i in kept(eps))
                row("filters", "filter", "concurrency-detector", out, eps, None, params)


# ---- pickers ----------------------------------------------------------------------------------

def pickers():
    """How often each endpoint is the first pick, and how often it is picked at all."""
    def chances(weights, n, live):
        first, whole = dict.fromkeys(live, 0.0), dict.fromkeys(live, 0.0)

        def walk(left, p, depth):
            total = sum(weights[i] for i in left)
            for i in left:
                q = p * (weights[i] / total if total > 0 else 1 / len(left))
                whole[i] += q
                if depth == 0:
                    first[i] += q
                if depth + 1 < min(n, len(live)) and q > 0:
                    walk([j for j in left if j != i], q, depth + 1)
        if live:
            walk(live, 1.0, 0)
        return first, whole

    for n in (None, 0, -4, 1, 2, 3):
        count = 1 if n is None or n <= 0 else n
        params = {} if n is None else {"maxNumOfEndpoints": n}
        for scores in ([0.5], [1, 1, 1], [0, 0, 0, 0], [0.2, 3, 3, 1], [5, 0, 0], [1, 2, 3, 4], [-1, 0, 2],
                       [0.001, 0.002]):
            eps = [{} for _ in scores]
            if len(scores) == 4 and n == 2:
                eps[2]["keep"] = False
            live = kept(eps)
            for plugin in ("max-score-picker", "random-picker", "weighted-random-picker"):
                if plugin == "max-score-picker":
                    first, whole = dict.fromkeys(live, 0.0), dict.fromkeys(live, 0.0)
                    orders = list(itertools.permutations(live))
                    for order in orders:
                        best = sorted(order, key=lambda i: -scores[i])[:count]
                        first[best[0]] += 1 / len(orders)
                        for i in best:
                            whole[i] += 1 / len(orders)
                else:
                    w = [max(s, 0) for s in scores] if plugin == "weighted-random-picker" else [1] * len(scores)
                    first, whole = chances(w, count, live)
                row("pickers", "pick", plugin,
                    {"count": min(count, len(live)), "first": [first.get(i, 0.0) for i in range(len(eps))],
                     "picked": [whole.get(i, 0.0) for i in range(len(eps))]}, eps, None, params, scores=scores)


# ---- profile handlers and deciders ------------------------------------------------------------

def profiles(*named):
    text = "schedulingProfiles:\n"
    for name, filters in named:
        text += "- name: %s\n  plugins:\n  - pluginRef: max-score-picker\n" % name
        for f in filters:
            text += "  - pluginRef: %s\n" % f
    return text


def deciders():
    for params in ({}, {"nonCachedTokens": 100}, {"nonCachedTokens": 100, "promptTokens": 500},
                   {"nonCachedTokens": 1}):
        for n in (0, 50, 99, 100, 400, 500, 5000):
            for cached in (None, 0, 1, 6, 80):
                eps = [{}, {}]
                info = None if cached is None else {"producer": "approx-prefix-cache-producer", "total": 80,
                                                    "block": 64, "match": [0, 0], "cached": [0, cached]}
                need = params.get("nonCachedTokens", 0)
                yes = need > 0 and n >= params.get("promptTokens", 0) and n >= need and info is not None \
                    and n - cached * 64 >= need
                row("handlers", "decide", "prefix-based-pd-decider", yes, eps,
                    {"prompt_tokens": n, "prefix": [info] if info else []}, params, picked=1)
    for media in (0, 1, 3):
        row("handlers", "decide", "always-disagg-multimodal-decider", media > 0, [{}], {"media_items": media},
            picked=0)
        row("handlers", "decide", "always-disagg-pd-decider", True, [{}], {"media_items": media}, picked=0)


def handlers():
    d, p, e = ({"address": "10.0.0.1:8000", "labels": {ROLE: "decode"}},
               {"address": "10.0.0.2:8000", "labels": {ROLE: "prefill"}},
               {"address": "10.0.0.3:8000", "labels": {ROLE: "encode"}})
    filters = "".join("- type: %s\n" % t for t in ("decode-filter", "prefill-filter", "encode-filter",
                                                  "max-score-picker"))
    three = profiles(("decode", ["decode-filter"]), ("prefill", ["prefill-filter"]), ("encode", ["encode-filter"]))
    busy = "failed to find available decode workers"
    media = "always-disagg-multimodal-decider"
    for order in ("decode-first", "prefill-first", "Decode_First", "prefillfirst", "decode", "prefill"):
        first_prefill = order.startswith("prefill")
        for pd, ed, eps, items in itertools.product((False, True), (False, True), ([d, p, e], [d, p], [d, e], [p, e], [d]),
                                                    (0, 2)):
            if first_prefill and pd:
                continue
            dec = {}
            if pd:
                dec["prefill"] = "always-disagg-pd-decider"
            if ed:
                dec["encode"] = media
            more = filters + "- type: always-disagg-pd-decider\n- type: %s\n" % media + three
            params = {"stageOrder": order}
            if dec:
                params["deciders"] = dec
            wants_encode = ed and items > 0 and e in eps and (first_prefill or d in eps)
            wants_prefill = p in eps and (first_prefill or pd)
            expect = {"status": 0, "primary": "decode", "destination": d["address"], "headers": {}}
            if d not in eps:
                expect = {"status": 429, "reason": "rejected-saturated", "message": busy}
            else:
                if wants_prefill:
                    expect["headers"]["x-prefiller-host-port"] = p["address"]
                if wants_encode:
                    expect["headers"]["x-encoder-hosts-ports"] = e["address"]
                expect["dropped"] = ["x-prefiller-host-port", "x-encoder-hosts-ports"]
            row("handlers", "run", "disagg-profile-handler", expect, eps, {"media_items": items}, params, more=more)
    two = profiles(("decode", ["decode-filter"]), ("prefill", ["prefill-filter"]))
    for port, eps in itertools.product((None, 9000), ([d, p], [d], [p])):
        params = {"deciderPluginName": "always-disagg-pd-decider"}
        if port:
            params["primaryPort"] = port
        more = filters + "- type: always-disagg-pd-decider\n- type: disagg-headers-handler\n" + two
        expect = {"status": 429, "reason": "rejected-saturated", "message": busy}
        if d in eps:
            expect = {"status": 0, "primary": "decode", "destination": d["address"], "port": port or 0, "headers": {}}
            if p in eps:
                expect["headers"]["x-prefiller-host-port"] = p["address"]
            if port:
                expect["headers"]["x-data-parallel-host-port"] = d["address"]
        row("handlers", "run", "pd-profile-handler", expect, eps, None, params, more=more)
    for port, eps in itertools.product((None, 9000), ([d], [p])):
        expect = {"status": 429, "reason": "rejected-saturated", "message": "no endpoints available"}
        if d in eps:
            expect = {"status": 0, "primary": "only", "destination": d["address"], "port": port or 8000,
                      "headers": {"x-data-parallel-host-port": d["address"]}}
        row("handlers", "run", "data-parallel-profile-handler", expect, eps, None,
            {"primaryPort": port} if port else {}, more=filters + profiles(("only", ["decode-filter"])))
        expect = dict(expect, headers={}) if expect["status"] == 0 else expect
        expect.pop("port", None)
        row("handlers", "run", "single-profile-handler", expect, eps, None,
            more=filters + profiles(("only", ["decode-filter"])))
    for header, value in itertools.product((None, "X-Kind"), (None, "", "prefill", " prefill ", "Prefill", "decode", "?")):
        name = (value or "").strip() or "decode"
        expect = {"status": 429, "message": "failed to find target endpoint"}
        if name in ("decode", "prefill"):
            expect = {"status": 0, "primary": name, "headers": {},
                      "destination": (d if name == "decode" else p)["address"]}
        row("handlers", "run", "header-profile-handler", expect, [d, p],
            {"headers": {} if value is None else {(header or "EPP-Profile").lower(): value}},
            {"headerName": header} if header else {}, more=filters + two)
        row("handlers", "run", "header-profile-handler",
            {"status": 0, "primary": "only", "destination": d["address"], "headers": {}}, [d],
            {"headers": {} if value is None else {(header or "EPP-Profile").lower(): value}},
            {"headerName": header} if header else {}, more=filters + profiles(("only", ["decode-filter"])))


# ---- producers and admitters ------------------------------------------------------------------

def chain(tokens, unit):
    """A key for every full unit, and one for the rest; equal exactly for equal beginnings."""
    def key(n):
        return int.from_bytes(hashlib.sha256(repr(tokens[:n]).encode()).digest()[:4], "big") + 1
    full = len(tokens) // unit
    return [key((i + 1) * unit) for i in range(full)], key(len(tokens)) if len(tokens) % unit else 0


def approx_producer():
    for plugin in ("approx-prefix-cache-producer", "multicluster-approx-prefix-cache-producer"):
        for params in ({}, {"blockSizeTokens": 128}, {"blockSize": 128}, {"autoTune": False, "blockSizeTokens": 8},
                       {"maxPrefixTokensToMatch": 256}, {"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 3},
                       {"autoTune": False, "lruCapacityPerServer": 2}):
            if plugin.startswith("multi") and params:
                continue
            for cache_block in (0, 16, 128):
                eps = [{"id": "e%d" % i, "cache_block": cache_block} for i in range(3)]
                block = params.get("blockSizeTokens", params.get("blockSize", 16))
                if params.get("autoTune", True) and cache_block:
                    block = cache_block
                block = max(block, 64)
                limit = params.get("maxPrefixBlocksToMatch", 2048)
                if params.get("maxPrefixTokensToMatch", 131072):
                    limit = params.get("maxPrefixTokensToMatch", 131072) // block

                def blocks(tokens):
                    n = math.ceil(len(tokens) / block)
                    return [tuple(tokens[:(i + 1) * block]) for i in range(min(n, limit))]
                shared = [R.randrange(9) for _ in range(600)]
                held, history = [[], [], []], []
                for _ in range(5):
                    tokens = shared[:R.randint(0, 600)] + [R.randrange(9) for _ in range(R.randint(0, 100))]
                    pick = R.randrange(3)
                    keys, tail = chain(tokens, 16)
                    history.append({"pick": pick, "prompt_tokens": len(tokens), "keys": keys, "tail": tail})
                    for b in blocks(tokens):
                        held[pick] = [x for x in held[pick] if x != b] + [b]
                    cap = params.get("lruCapacityPerServer", 31250)
                    held[pick] = held[pick][-cap:]
                for tokens in (shared[:500], shared[:64], shared[:10], [], [7] * 300):
                    mine, match = blocks(tokens), [0, 0, 0]
                    for b in mine:
                        if not any(b in h for h in held):
                            break
                        for i in range(3):
                            match[i] += b in held[i]
                    keys, tail = chain(tokens, 16)
                    row("producers", "prefix", plugin, {"total": len(mine), "block": block, "match": match,
                                                        "cached": match}, eps,
                        {"prompt_tokens": len(tokens), "keys": keys, "tail": tail}, params, history=history)


def precise_producer():
    for n in (0, 15, 16, 100, 1000):
        for eps in fleets(load, 2):
            indexed = [R.choice([0, 1, 3, 62]) for _ in eps]
            match = [min(x, n // 16) for x in indexed]
            row("producers", "prefix", "precise-prefix-cache-producer",
                {"total": n // 16, "block": 16, "match": match, "cached": match}, eps,
                {"prompt_tokens": n, "indexed": indexed})


def inflight_producer():
    for named in (False, True):
        for n in (0, 63, 64, 1000):
            for eps in fleets(load, 3):
                info = prefix_info(eps, "exact" if named else "approx-prefix-cache-producer", R.choice([0, 1, n // 64]))
                info["block"] = 64
                if R.random() < 0.2:
                    info = None
                out = []
                for i in range(len(eps)):
                    if info is None:
                        out.append(float(n))
                    else:
                        out.append(float(max(0, info["total"] - info["match"][i]) * 64
                                         + max(0, n - info["total"] * 64)))
                row("producers", "uncached", "inflight-load-producer", out, eps,
                    {"prompt_tokens": n, "prefix": [info] if info else []},
                    {"prefixMatchInfoProducerName": "exact"} if named else {},
                    more=yaml_plugin("precise-prefix-cache-producer", name="exact") if named else "")


def session_producer():
    for params, headers, want in (
            ({"headerName": "X-Sid"}, {"x-sid": "abc"}, "abc"), ({"headerName": "X-Sid"}, {}, None),
            ({"headerName": "X-Sid"}, {"x-sid": ""}, None), ({"headerName": "x-sid"}, {"x-sid": "  q "}, "q"),
            ({"cookieName": "sid"}, {"cookie": "a=1; sid=abc; b=2"}, "abc"), ({"cookieName": "sid"}, {"cookie": "sid=z"}, "z"),
            ({"cookieName": "sid"}, {"cookie": "xsid=z; Sid=q"}, None), ({"cookieName": "sid"}, {}, None),
            ({"cookieName": "sid"}, {"cookie": "sid"}, None), ({"cookieName": "sid"}, {"cookie": "sid=\"v\""}, "v")):
        row("producers", "attribute", "session-id-producer", want, [{}], {"headers": headers}, params,
            key="SessionID")


def agent_identity():
    known = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")
    names = known + ("x-mine", "x-other")
    for _ in range(30):
        mine = R.sample(("X-Mine", "x-other"), R.randrange(3))
        said = {n: R.choice(("", "  ", "a1", " b-2 ", "c.3")) for n in R.sample(names, R.randrange(len(names)))}
        order = [said.get(n.lower(), "").strip() for n in list(mine) + list(known)]
        row("producers", "attribute", "agent-identity", next((v for v in order if v), None), [{}], {"headers": said},
            {"additionalSessionHeaders": mine} if mine else None, key="agent-identity", producer="")


def served_verifier():
    for reported, served, want in ((True, "10.0.0.1:8000", "10.0.0.1:8000"), (True, "[::1]:80", "[::1]:80"),
                                   (True, None, "fail: missing destination endpoint served metadata"),
                                   (False, None, "fail: missing envoy lb metadata")):
        more = {} if served is None else {"served": served}
        row("producers", "served", "destination-endpoint-served-verifier", want, [{}], reported=reported, **more)


def usage_reporter():
    for n in range(150):
        usage = R.choice(({}, {"prompt": 40, "completion": 0, "total": 40}, {"prompt": 1234, "completion": 57, "total": 1291, "cached": 1200},
                          {"prompt": 7, "completion": 5, "total": 12}))
        text, value = Cel(usage, R).number(n % 4)
        one = {"key": {"name": "cost"}, "expression": text}
        space = "envoy.lb"
        if n % 3 == 0:
            space = one["key"]["namespace"] = "mine"
        condition = True
        if n % 5 == 0:
            one["condition"], condition = Cel(usage, R).truth(2)
        said = condition is True and value is not None and not math.isnan(value) and 1 <= value < 9.2e18
        row("producers", "report", "request-attribute-reporter",
            {"value": math.trunc(value), "space": space, "name": "cost"} if said else {"value": 0}, [{}], params={"attributes": [one]}, usage=usage)


def learned():
    return dict(metrics(), prefill_ms=R.choice([0.5, 1, 2]), decode_ms=R.choice([10, 20, 40]),
                slope=R.choice([0.1, 0.3]), streams=R.choice([0, 1, 8]))


def slo_of(headers, what):
    text = headers.get("x-llm-d-slo-%s-ms" % what) or headers.get("x-slo-%s-ms" % what) or ""
    try:
        return float(text)
    except ValueError:
        return 0.0


def latency_producer():
    """Headrooms and validity as documented; ttft and tpot themselves are llmd's own estimate."""
    for params in ({}, {"streamingMode": True}, {"streamingMode": True, "sloBufferFactor": 0.5},
                   {"streamingMode": True, "endpointRoleLabel": ROLE}, {"predictInProduce": False}):
        for headers in ({}, {"x-llm-d-slo-ttft-ms": "2000", "x-slo-tpot-ms": "25"},
                        {"x-slo-ttft-ms": "500.5", "x-llm-d-slo-tpot-ms": "1e3"}, {"x-slo-ttft-ms": "soon"}):
            for eps in fleets(learned, 2):
                n, out = R.choice([0, 100, 1000]), []
                info = prefix_info(eps, "approx-prefix-cache-producer", n // 64)
                info["block"] = 64
                unknown = len(eps) > 1 and R.random() < 0.15
                if unknown:
                    eps[1]["prefill_ms"] = 0
                for i, e in enumerate(eps):
                    tokens = e["tokens"] + (info["total"] - info["match"][i]) * 64 + max(0, n - info["total"] * 64)
                    ttft, tpot = tokens * e["prefill_ms"], e["decode_ms"] * (1 + e["slope"] * e["streams"])
                    head, valid = 0.0, True
                    if params.get("streamingMode") and not ("endpointRoleLabel" in params
                                                            and e["labels"].get(ROLE) == "prefill"):
                        limit = slo_of(headers, "tpot") * params.get("sloBufferFactor", 1)
                        head, valid = limit - tpot, tpot < limit
                    out.append({"ttft": ttft, "tpot": tpot, "ttft_headroom": slo_of(headers, "ttft") - ttft,
                                "tpot_headroom": head, "ttft_valid": ttft < slo_of(headers, "ttft"),
                                "tpot_valid": valid, "dispatched": e["inflight"]})
                row("producers", "predict", "predicted-latency-producer",
                    None if unknown or params.get("predictInProduce") is False else out, eps,
                    {"prompt_tokens": n, "prefix": [info], "headers": headers}, params)


def latency_admitter():
    for priority in (0, -1, -5):
        for headers in ({}, {"x-slo-ttft-ms": "100"}, {"x-llm-d-slo-ttft-ms": "0"}, {"x-slo-ttft-ms": "-4"},
                        {"x-slo-ttft-ms": "abc"}):
            for eps in fleets(lambda: dict(load(), running=R.choice([0, 1, 9, 9, 9]), kv=R.choice([0.01, 0.02, 0.5, 0.9])), 6):
                preds = [prediction() for _ in eps] if eps and R.random() < 0.9 else None
                ok = priority >= 0 or slo_of(headers, "ttft") <= 0 or preds is None
                for i, e in enumerate(eps):
                    # a row gives headrooms: valid is > 0 and >= 0 there
                    ok = ok or (preds[i]["ttft_headroom"] > 0 and preds[i]["tpot_headroom"] >= 0) \
                        or e["running"] == 0 or e["kv"] < 0.02
                request = {"priority": priority, "headers": headers}
                if preds:
                    request["predictions"] = preds
                row("producers", "admit", "latency-slo-admitter", 1.0 if ok else 0.0, eps, request)


def fnv32a(text):
    h = 2166136261
    for b in text.encode():
        h = ((h ^ b) * 16777619) % 2 ** 32
    return h


def p2p_producer():
    name = "x-kv-cache-source-host-port"
    for params in ({}, {"minCachedTokenDelta": 129}, {"prefillProfileName": "other"}):
        for _ in range(20):
            eps = [dict(load(), address="10.0.0.%d:8000" % i) for i in range(R.randint(1, 5))]
            info = prefix_info(eps, "approx-prefix-cache-producer", R.choice([0, 2, 9]))
            rid, pick = "req-%d" % R.randrange(10 ** 9), R.randrange(len(eps))
            prefill = R.choice([None, R.randrange(len(eps))])
            computes = pick if prefill is None or "prefillProfileName" in params else prefill
            held, headers = info["cached"], {}
            if R.random() < 0.9:
                top = max(held)
                near = [i for i in range(len(eps)) if held[i] >= top - 1]
                weights = [1 / (1 + eps[i]["waiting"]) for i in near]
                at, source = fnv32a(rid) / 2 ** 32 * sum(weights), near[-1]
                for i, w in zip(near, weights):
                    at -= w
                    if at < 0:
                        source = i
                        break
                more = (held[source] - held[computes]) * info["block"]
                if source != computes and more >= params.get("minCachedTokenDelta", 1):
                    headers[name] = eps[source]["address"]
            else:
                info = None
            row("producers", "dispatch", "p2p-source-producer", {"headers": headers, "dropped": [name]}, eps,
                {"id": rid, "prefix": [info] if info else []}, params, pick=pick, prefill=prefill,
                more="- type: header-profile-handler\n" + "- type: max-score-picker\n"
                + profiles(("decode", []), ("prefill", [])))


def rollout():
    rev_key, role_key = "disaggregatedset.x-k8s.io/revision", "disaggregatedset.x-k8s.io/role"

    def make():
        labels = {"app": R.choice(["x", "x", "x", "y"])}
        if R.random() < 0.9:
            labels[rev_key] = R.choice(["r1", "r2", "r3"])
        if R.random() < 0.95:
            labels[role_key] = R.choice(["prefill", "decode", "decode", "encode"])
        if R.random() < 0.6:
            labels["slice"] = R.choice(["a", "b"])
        return {"labels": labels}
    for mode in ("sum", "max-role", "disabled"):
        for header in (None, "a", "zzz", ""):
            for sizes in (0, 1, 5, 9, 14, 14, 16):
                eps, roles = [make() for _ in range(sizes)], ["prefill", "decode"]
                params = {"scope": {"labelSelector": {"matchLabels": {"app": "x"}}}, "revisionGating": {"mode": mode},
                          "headerSelectors": [{"name": "s", "headerName": "X-Slice", "labelKey": "slice", "mode": "strict"},
                                              {"name": "p", "headerName": "x-near", "labelKey": "app", "mode": "prefer"}]}
                if mode != "disabled":
                    params["revisionGating"]["requireRoles"] = {"values": roles}
                headers = {"x-near": "y"}
                if header is not None:
                    headers["x-slice"] = header
                seen = {}
                for e in eps:
                    lb = e["labels"]
                    if lb["app"] == "x" and rev_key in lb and role_key in lb:
                        per = seen.setdefault(lb[rev_key], dict.fromkeys(roles, 0))
                        if lb[role_key] in per:
                            per[lb[role_key]] += 1
                covered = {r for r, per in seen.items() if all(per.values())}
                total = {role: sum(per[role] for per in seen.values()) for role in roles}
                big = max(roles, key=lambda role: total[role])
                weight = {r: seen[r][big] if mode == "max-role" else sum(seen[r].values()) for r in covered}
                out = []
                for e in eps:
                    lb, chance = e["labels"], 1.0
                    if mode != "disabled":
                        r = lb.get(rev_key)
                        inside = lb["app"] == "x" and role_key in lb and r in covered
                        chance = 0.0 if not inside else 1.0 if header else weight[r] / sum(weight.values())
                    if header and lb.get("slice") != header:
                        chance = 0.0
                    out.append(chance)
                row("filters", "screen", "disaggregatedset-rollout-screener", out, eps, {"headers": headers}, params)
                if eps:
                    lb = eps[0]["labels"]
                    told = {"x-near": lb["app"]}
                    if "slice" in lb:
                        told["x-slice"] = lb["slice"]
                    row("handlers", "respond", "disaggregatedset-rollout-screener", {"headers": told}, eps,
                        {"headers": headers}, params, pick=0)


def admitter():
    for params in ({}, {"queueDepthThreshold": 10, "kvCacheUtilThreshold": 0.4, "power": 2, "k": 0.5},
                   {"power": 1, "k": 0.1}):
        q, k = params.get("queueDepthThreshold", 5), params.get("kvCacheUtilThreshold", 0.8)
        for priority in (0, 3, -1):
            for eps in fleets(metrics, 3):
                if not eps:
                    continue
                s = sum(max(e["waiting"] / q, e["kv"] / k) if e.get("metrics", True) else 1.0 for e in eps) / len(eps)
                refused = min(s ** params.get("power", 5) * params.get("k", 300), 1) if priority < 0 else 0
                row("producers", "admit", "probabilistic-admitter", 1 - refused, eps, {"priority": priority}, params)


# ---- queues -----------------------------------------------------------------------------------

class Queues:
    """Bands high to low; one request a cycle."""

    def __init__(self, bands, ceilings, fairness="strict", order=lambda it: it["at"], half=60, ws=0.8, ww=0.2):
        self.bands, self.ceilings, self.fairness, self.order = bands, ceilings, fairness, order
        self.items, self.last, self.service = [], {}, {}
        self.half, self.ws, self.ww = half, ws, ww

    def attained(self, key, now):
        tokens, at = self.service.get(key, (0.0, now))
        return tokens * 0.5 ** ((now - at) / 1000 / self.half)

    def settle(self, tenant, priority, prompt, answer, now):
        key = (tenant, priority)
        self.service[key] = (self.attained(key, now) + prompt + 2 * answer, now)

    def choose(self, here, priority, now):
        flows = sorted({it["tenant"] for it in here})
        if self.fairness == "strict":
            return min(here, key=lambda it: (self.order(it), it["n"]))
        if self.fairness == "round":
            last = self.last.get(priority)
            later = [f for f in flows if last is not None and f > last]
            flow = (later or flows)[0]
            self.last[priority] = flow
        else:
            heads = {f: min((it for it in here if it["tenant"] == f), key=lambda it: (self.order(it), it["n"]))
                     for f in flows}
            s = {f: self.attained((f, priority), now) for f in flows}
            w = {f: now - heads[f]["at"] for f in flows}

            def norm(x, all_):
                lo, hi = min(all_.values()), max(all_.values())
                return (x - lo) / (hi - lo) if hi > lo else 0.5
            score = {f: self.ws * (1 - norm(s[f], s)) + self.ww * norm(w[f], w) for f in flows}
            best = sorted(score.values(), reverse=True)
            if len(best) > 1 and best[0] - best[1] < 1e-9:
                return None
            flow = max(flows, key=lambda f: score[f])
        return min((it for it in here if it["tenant"] == flow), key=lambda it: (self.order(it), it["n"]))

    def next(self, saturation, now):
        if not self.items:
            return -1  # no cycle at all
        ceilings = self.ceilings(saturation)
        for i, priority in enumerate(self.bands):
            here = [it for it in self.items if it["priority"] == priority]
            if saturation >= ceilings[i]:
                return -1
            if not here:
                continue
            it = self.choose(here, priority, now)
            if it is None:
                return None
            self.items.remove(it)
            return it["n"]
        return -1


def script(plugin, queues, text, saturations, tenants=("a", "b", "c"), slo=False, settle=False, steps=40):
    """A random script; None: a tie came up that the documentation does not decide."""
    ops, expect, now, n = [], [], 1000, 0
    for _ in range(steps):
        now += R.choice([0, 1, 7, 500]) if not settle else R.choice([1, 13, 700, 20011])
        what = R.random()
        if what < 0.45:
            it = {"n": n, "tenant": R.choice(tenants), "priority": R.choice(queues.bands), "at": now,
                  "received": now - R.randint(0, 900), "slo": R.choice([0, 100, 250, 2000]) if slo else 0}
            n += 1
            queues.items.append(it)
            ops.append({"enqueue": {k: v for k, v in it.items() if k != "n"}})
        elif what < 0.6 and settle:
            t, prompt, answer = R.choice(tenants), R.randint(1, 900), R.randint(0, 300)
            live = [it for it in queues.items if it["tenant"] == t]
            if live:  # a flow that exists
                queues.settle(t, live[0]["priority"], prompt, answer, now)
                ops.append({"settle": {"tenant": t, "priority": live[0]["priority"], "prompt": prompt,
                                       "answer": answer, "at": now}})
        else:
            s = R.choice(saturations)
            got = queues.next(s, now)
            if got is None:
                return False
            ops.append({"next": {"at": now, "saturation": s}})
            expect.append(got)
    row("flow", "flow", plugin, expect, [], None, text=text, ops=ops)
    return True


def flow_text(bands, fairness="global-strict-fairness-policy", ordering="fcfs-ordering-policy", plugins="", more=""):
    text = HEAD + "featureGates: [flowControl]\n"
    declared = {fairness, ordering}
    text += "plugins:\n- type: queue-scorer\n" + plugins
    for d in sorted(declared):
        if "type: %s\n" % d not in plugins:
            text += "- type: %s\n" % d
    text += "flowControl:\n  priorityBands:\n"
    for p in bands:
        text += "  - {priority: %d, fairnessPolicyRef: %s, orderingPolicyRef: %s}\n" % (p, fairness, ordering)
    return text + more


def policies():
    open_ = lambda s: [1.0] * 3
    orders = {"fcfs-ordering-policy": lambda it: it["at"], "edf-ordering-policy": lambda it: it["at"],
              "slo-deadline-ordering-policy":
              lambda it: (it["received"] + it["slo"] if it["slo"] else math.inf, it["received"])}
    for name, order in orders.items():
        for bands in ([0], [5, 0, -1]):
            for _ in range(6):
                script(name, Queues(bands, open_, order=order), flow_text(bands, ordering=name), (0, 0.5, 1, 1.5),
                       slo=True)
    for name, kind in (("global-strict-fairness-policy", "strict"), ("round-robin-fairness-policy", "round")):
        for bands in ([0], [5, 0, -1]):
            for _ in range(6):
                script(name, Queues(bands, open_, kind), flow_text(bands, name), (0, 0.9, 1))
    for params in ({}, {"lasWeightService": 0.5, "lasWeightHeadWait": 0.5, "lasHalfLifeSeconds": 5}):
        made = 0
        text = flow_text([0], "program-aware-fairness",
                         plugins="- type: program-aware-fairness\n  parameters: %s\n" % json.dumps(params))
        while made < 8:
            q = Queues([0], open_, "program", half=params.get("lasHalfLifeSeconds", 60),
                       ws=params.get("lasWeightService", 0.8), ww=params.get("lasWeightHeadWait", 0.2))
            made += script("program-aware-fairness", q, text, (0, 0.5), settle=True, steps=24)
    bands = [10, 4, 0, -3]
    limit = "  usageLimitPolicyPluginRef: limit\n"

    def declared(kind, params):
        return flow_text(bands, plugins=yaml_plugin(kind, params, "limit"), more=limit)
    for threshold in (None, 0.5, 0, 2):
        params = {} if threshold is None else {"threshold": threshold}
        for _ in range(3):
            script("static-usage-limit-policy", Queues(bands, lambda s: [1.0 if threshold is None else threshold] * 4),
                   declared("static-usage-limit-policy", params), (0, 0.49, 0.5, 0.99, 1, 1.9))
    for params in ({"minCeiling": 0.4}, {"minCeiling": 0, "maxCeiling": 0.9, "domain": "rank"},
                   {"minCeiling": 0.25, "domain": "value", "shape": "linear"}):
        lo, hi = params["minCeiling"], params.get("maxCeiling", 1.0)

        def held(_):
            if params.get("domain") == "value":
                return [lo + (hi - lo) * (p - bands[-1]) / (bands[0] - bands[-1]) for p in bands]
            return [hi - (hi - lo) * i / (len(bands) - 1) for i in range(len(bands))]
        for _ in range(5):
            script("priority-holdback-policy", Queues(bands, held), declared("priority-holdback-policy", params),
                   (0, 0.3, 0.45, 0.55, 0.7, 0.95, 1.2))
    for _ in range(10):
        cycles = [0] * 4

        def soft(s):
            out = []
            for i in range(4):
                r = 1 - i * s / 3
                if i == 0 or s < r:
                    out.append(1.0)
                elif s >= 1:
                    out.append(0.0)
                else:
                    cycles[i] += 1
                    out.append(1.0 if cycles[i] % max(1, go_round(s / (1 - s))) == 0 else 0.0)
            return out
        script("soft-reflective-ceiling-policy", Queues(bands, soft), declared("soft-reflective-ceiling-policy", None),
               (0.3, 0.55, 0.6, 0.75, 0.8, 0.9, 1.1), steps=60)


class Evictor:
    """Requests in flight; whom the documented controller ends when a band waits."""

    def __init__(self, grace):
        self.flying, self.gone, self.grace = {}, {}, grace  # id -> priority; id -> [credit, issued, retired]

    def end(self, rid, now):
        self.flying.pop(rid, None)
        if rid in self.gone and self.gone[rid][2] is None:
            self.gone[rid][2] = now

    def choose(self, queues, ceilings, saturation, now):
        for rid, d in list(self.gone.items()):
            if d[2] is None and now - d[1] >= 10000:
                d[2] = now
            if d[2] is not None and now - d[2] >= self.grace:
                del self.gone[rid]
                self.done.add(rid)
        able = sorted((p, -rid) for rid, p in self.flying.items() if p < 0 and rid not in self.gone and rid not in self.done)
        if self.gone or not able:
            return []
        for priority, ceiling in zip(queues.bands, ceilings):  # none above the one that blocked can be blocked too
            waits = any(it["priority"] == priority for it in queues.items)
            if waits and priority > able[0][0] and 0 < ceiling <= saturation:
                credit = saturation / len(self.flying)
                n = min(2, max(1, math.ceil((saturation - ceiling) / credit)))
                out = [-rid for p, rid in able if p < priority][:n]
                for rid in out:
                    self.gone[rid] = [credit, now, None]
                return out
        return []

    done = frozenset()


def eviction():
    bands = [10, 0, -1, -5]
    limits = {"{}": lambda s: [1.0] * 4, '{"threshold": 0.5}': lambda s: [0.5] * 4,
              '{"minCeiling": 0, "maxCeiling": 1}': lambda s: [1.0, 2 / 3, 1 / 3, 0.0]}
    for n in range(36):
        params, ceilings = list(limits.items())[n % 3]
        kind = "priority-holdback-policy" if "minC" in params else "static-usage-limit-policy"
        text = flow_text(bands, plugins=yaml_plugin(kind, json.loads(params), "limit"),
                         more="  usageLimitPolicyPluginRef: limit\n  enableEviction: true\n")
        grace = R.choice([10, 500])
        queues, ev, ops, expect, now, queued, flown = Queues(bands, ceilings), Evictor(grace), [], [], 1000, 0, 0
        ev.done = set()
        for _ in range(80):
            now += R.choice([0, 1, 3, 11, 200, 4000])
            what = R.random()
            if what < 0.2:
                it = {"n": queued, "tenant": "a", "priority": R.choice(bands), "at": now, "received": now, "slo": 0}
                queued += 1
                queues.items.append(it)
                ops.append({"enqueue": {k: v for k, v in it.items() if k != "n"}})
            elif what < 0.45:
                ev.flying[flown] = R.choice([-5, -5, -1, 0, 10])
                ops.append({"begin": {"priority": ev.flying[flown]}})
                flown += 1
            elif what < 0.6 and ev.flying:
                rid = R.choice(sorted(ev.gone) or sorted(ev.flying)) if R.random() < 0.7 else R.choice(sorted(ev.flying))
                if rid in ev.flying:
                    ev.end(rid, now)
                    ops.append({"end": {"id": rid, "at": now}})
            else:
                s = R.choice([0.3, 0.6, 1.0, 1.0, 1.2, 2.5])
                ops.append({"next": {"saturation": s, "at": now}})
                item = queues.next(s, now)
                expect.append({"item": item, "victims": ev.choose(queues, ceilings(s), s, now) if item == -1 and queues.items else []})
        row("flow", "evict", "sheddable-eviction-filter", expect, [{}], text=text, ops=ops, grace=grace)


def burst_producer():
    def place(params, prompts, ends):
        """prompts: per request the beginnings of 1, 2, ... blocks.  Where each goes, or None."""
        least, cap = params.get("minColocateBlocks", 0), params.get("maxPerReplica", -1)
        groups = {}
        for i, p in enumerate(prompts):
            if p:
                groups.setdefault(p[-1], []).append(i)
        many = [g for g in groups.values() if len(g) > 1]
        ones = [g for g in groups.values() if len(g) == 1 and least > 0 and
                any(j != g[0] and len(prompts[g[0]]) >= least and len(q) >= least and q[least - 1] == prompts[g[0]][least - 1]
                    for j, q in enumerate(prompts))]
        units = [g for part in (many, ones) for g in sorted(part, key=lambda g: (-len(prompts[g[0]]), g[0]))]
        by_tokens = params.get("balanceBy") == "tokens"
        share = math.ceil(sum(len(prompts[g[0]]) if by_tokens else len(g) for g in units) / ends) if ends else 0
        load, there, out = [0] * ends, [set() for _ in range(ends)], [None] * len(prompts)
        for g in units:
            mine, left, used = prompts[g[0]], list(g), set()
            held = [sum(b in there[e] for b in mine) for e in range(ends)]
            while left:
                free = [e for e in range(ends) if e not in used]
                near = [e for e in free if least > 0 and held[e] >= least and load[e] < share]
                if not free:
                    break
                to = min(near, key=lambda e: (-held[e], load[e], e)) if near else min(free, key=lambda e: (load[e], e))
                some = left if cap < 0 else left[:cap]
                left = left[len(some):]
                for i in some:
                    out[i] = to
                load[to] += len(mine) - held[to] if by_tokens else len(some)
                there[to] |= set(mine)
                used.add(to)
        return out

    for params in ({}, {"maxPerReplica": 2}, {"minColocateBlocks": 1}, {"minColocateBlocks": 2, "balanceBy": "tokens"},
                   {"balanceBy": "tokens", "maxPerReplica": 1}, {"blockSizeTokens": 20, "maxPrefixTokensToMatch": 96, "minColocateBlocks": 1},
                   {"maxBatchSize": 4, "windowDurationMs": 7}):
        for _ in range(8):
            block = math.ceil(params.get("blockSizeTokens", 64) / 16) * 16
            limit = params.get("maxPrefixTokensToMatch", 0) // block or 2048
            bases = [[R.randrange(50) for _ in range(R.choice([0, 40, 64, 200, 300]))] for _ in range(3)]
            kinds = [b[:R.choice([64, 128, 300])] + [R.randrange(50) for _ in range(R.choice([0, 0, 30, 100]))] for b in bases for _ in range(2)]
            tokens = [R.choice(kinds) for _ in range(R.randint(1, 14))]
            prompts = [[tuple(t[:(i + 1) * block]) for i in range(min(math.ceil(len(t) / block), limit))] for t in tokens]
            room, joined = params.get("maxBatchSize", 1000), []
            for i, p in enumerate(prompts):  # what finds no room does not wait
                if p and len(joined) < room:
                    joined.append(i)
            ends = R.randint(1, 4)
            placed = dict(zip(joined, place(params, [prompts[i] for i in joined], ends)))
            requests = []
            for t in tokens:
                keys, tail = chain(t, 16)
                requests.append({"prompt_tokens": len(t), "keys": keys, "tail": tail})
            row("producers", "burst", "burst-prefix-cache-producer", [placed.get(i, -1) if placed.get(i) is not None else -1 for i in range(len(tokens))],
                [{"id": "e%d" % i} for i in range(ends)], params=params, requests=requests, joined=joined,
                window=params.get("windowDurationMs", 100), total=[len(p) for p in prompts])


MAKERS = (load_scorers, prefix_scorers, lora_scorer, no_hit_lru, context_length, latency_scorer, media_scorer,
          attribute_scorer, label_scorers, topology, multicluster, session, role_filters, label_filters,
          affinity_filter, headroom_filter, utilization_filter, attribute_filter, testing_filter, detectors,
          pickers, deciders, handlers, approx_producer, precise_producer, inflight_producer, session_producer,
          admitter, policies, latency_producer, latency_admitter, p2p_producer,
          rollout, agent_identity, served_verifier, usage_reporter, eviction,
          burst_producer)


def main():
    for number, make in enumerate(MAKERS):
        R.seed(20260801 + number)  # a new maker leaves the rows of the others alone
        make()
    for name, rows in FILES.items():
        with open(os.path.join(HERE, "sched_%s.json" % name), "w", encoding="utf-8") as f:
            f.write("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
