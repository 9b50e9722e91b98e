#!/usr/bin/env python3
"""metrics.json is what real parts expose; no dashboard, alert or autoscaling recipe names another; alerts have passing
unit tests; every panel's query is answered by a real Prometheus that scrapes real parts."""
# SPDX-License-Identifier: Apache-2.0
import importlib.machinery
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness as h  # noqa: E402

import objects as k  # noqa: E402

OBS = os.path.join(k.DEPLOY, "observability")
tool = importlib.machinery.SourceFileLoader("observability", os.path.join(k.ROOT, "tools", "observability")).load_module()
# Panels whose series exist only after an event that this test does not cause.
QUIET = re.compile(r"request_error_total|queue_size\b|flow_control|attempts_total|rejected_total|resync")
OTHERS = re.compile(r"^(kube_|epp_|ALERTS)")  # of kube-state-metrics, and names that adapters give

def known():
    with open(os.path.join(OBS, "metrics.json")) as f:
        parts = json.load(f)
    names = {}
    for families in parts.values():
        for n, v in families.items():
            names.setdefault(n, v)
    return parts, names


def named(expr):
    """Metric names and the labels beside them in a query."""
    for name, where in re.findall(r"\b([a-zA-Z_][\w:]*)(?:\{([^}]*)\})?(?=[\[\s){,]|$)", re.sub(r'"[^"]*"', '""', re.sub(r"by \([^)]*\)", "", expr))):
        if "_" in name and name not in ("histogram_quantile", "label_values") and not name.startswith("__"):
            yield name, set(re.findall(r"(\w+)\s*[=!]", where or ""))


def name_errors(where, expr, names):
    bad = []
    for name, labels in named(expr):
        base = name if name in names else re.sub(r"_(bucket|sum|count)$", "", name)
        if OTHERS.match(name):
            continue
        if base not in names:
            bad.append(f"{where}: {name} is no metric of llmd")
        elif labels - set(names[base]["labels"]) - {"namespace", "job", "instance", "le"}:
            bad.append(f"{where}: {name} has no label {labels - set(names[base]['labels'])}")
    return bad


def contract(pages):
    parts, _ = known()
    bad = []
    for part, text in pages.items():
        live = tool.families(text)
        for n in sorted(set(live) ^ set(parts[part])):
            bad.append(f"{part}: {n} is {'new' if n in live else 'gone'}; write metrics.json by tools/observability --metrics")
        bad += [f"{part}: {n} is a {live[n]['type']}, not a {v['type']}" for n, v in parts[part].items()
                if n in live and live[n]["type"] != v["type"]]
        bad += [f"{part}: {n} has labels {sorted(v['labels'])}" for n, v in live.items()
                if n in parts[part] and v["labels"] - set(parts[part][n]["labels"])]
    k.say("metrics.json is what the parts expose", bad)


def names():
    _, all_names = known()
    bad = []
    for uid, (_, panels) in tool.DASHBOARDS.items():
        for title, _, targets in panels:
            for expr, _ in targets:
                bad += name_errors(f"{uid}, {title}", expr, all_names)
                if "histogram_quantile" in expr and not re.search(r"by \(le\b", expr):
                    bad.append(f"{uid}, {title}: a quantile without le")
    for name, row in tool.ALERTS.items():
        bad += name_errors(name, row[0], all_names)
    folder = os.path.join(k.DEPLOY, "autoscaling")
    count = 0
    for f in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        with open(os.path.join(folder, f)) as text:
            for expr in re.findall(r"^\s*(?:query|seriesQuery|metricsQuery): '(.*)'$", text.read(), re.M):
                bad += name_errors(f, expr.replace("<<.LabelMatchers>>", ""), all_names)
                count += 1
    k.say(f"dashboards, alerts and {count} autoscaling queries name metrics and labels that exist", bad)
    k.say("a name that does not exist is found", [] if name_errors("x", "sum (rate(vllm:nonsense_total[5m]))", all_names) and
        name_errors("x", 'vllm:kv_cache_usage_perc{no_such="1"}', all_names) else ["not found"])


def rules():
    for what, argv in (("rules are valid", ["check", "rules", "alerts/llmd.rules.yaml"]),
                       ("each alert fires, and is quiet otherwise", ["test", "rules", "tests/llmd.test.yaml"])):
        r = subprocess.run(["promtool", *argv], cwd=OBS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        k.say(what, [] if r.returncode == 0 else r.stdout.splitlines())
    with open(os.path.join(k.ROOT, "docs", "ops", "alerts.md")) as f:
        page = f.read()
    k.say("each alert has its lines in docs/ops/alerts.md", [n for n in tool.ALERTS if f"## {n}\n" not in page])


def ask(port, expr):
    r = h.request(port, "GET", "/api/v1/query?query=" + urllib.parse.quote(expr)).json()
    return r["data"]["result"] if r["status"] == "success" else r["error"]


def traffic(s):
    for i in range(4):
        h.request(s.port, "POST", "/v1/chat/completions", {"model": s.model, "max_tokens": 6, "messages": [
            {"role": "user", "content": "The rain in Spain. " * 40 + "x" * (i % 2)}]})
        list(h.Stream(s.port, "/v1/chat/completions", {"model": s.model, "stream": True, "max_tokens": 6,
                                                       "messages": [{"role": "user", "content": f"Hello {i}"}]}))


def panels(s):
    port, folder = h.free_port(), tempfile.mkdtemp(prefix="llmd-prometheus-")
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "rule_files": [os.path.join(OBS, "alerts/llmd.rules.yaml")],
              "scrape_configs": [{"job_name": n, "static_configs": [{"targets": [f"127.0.0.1:{p.port}"], "labels": {"namespace": "llmd"}}]}
                                 for n, p in s.parts.items()]}
    with open(f"{folder}/p.yml", "w") as f:
        json.dump(config, f)
    with open(f"{folder}/log", "w") as log:
        p = subprocess.Popen(["prometheus", f"--config.file={folder}/p.yml", f"--storage.tsdb.path={folder}/data",
                              f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        h.wait_for("prometheus", lambda: h.request(port, "GET", "/-/ready").status == 200, 60)
        h.wait_for("every part is scraped", lambda: len(ask(port, "up == 1")) == len(s.parts), 30)
        traffic(s)
        # a rate needs two scrapes, and the traffic between two of them
        h.wait_for("scrapes", lambda: len(ask(port, "count_over_time(up[5m]) >= 4")) == len(s.parts), 30)
        traffic(s)
        seen = len(ask(port, "up"))
        end = time.time() + 3
        h.wait_for("one more scrape", lambda: len(ask(port, f"timestamp(up) > {end}")) == seen, 30)
        bad, count, quiet = [], 0, 0
        for uid, (_, rows) in tool.DASHBOARDS.items():
            for title, _, targets in rows:
                for expr, _ in targets:
                    got = ask(port, expr.replace("$__rate_interval", "30s").replace("$namespace", ".*").replace("$model_name", ".*"))
                    count += 1
                    if isinstance(got, str):
                        bad.append(f"{uid}, {title}: {got}")
                    elif not got and QUIET.search(expr):
                        quiet += 1
                    elif not got:
                        bad.append(f"{uid}, {title}: no data from {expr}")
        k.say(f"{count} queries of panels are answered by a real scrape, {quiet} of them have nothing to show", bad)
        firing = [a["metric"]["alertname"] for a in ask(port, 'ALERTS{alertstate="firing"}')]
        k.say("a healthy system raises no alert", firing)
    finally:
        p.terminate()
        p.wait()
        shutil.rmtree(folder)


def main():
    r = subprocess.run([sys.executable, os.path.join(k.ROOT, "tools/observability"), "--check"], stderr=subprocess.PIPE, text=True)
    k.say("the files are those of the tables", r.stderr.splitlines())
    names()
    for program in ("promtool", "prometheus"):
        if shutil.which(program) is None:
            print(f"{k.failed} failed")
            k.skip(f"{program} is not there (Debian package prometheus)") if not k.failed else sys.exit(1)
    rules()
    with h.Setup(["prefill", "decode"]) as s:
        traffic(s)
        page = lambda p: h.request(s.parts[p].port, "GET", "/metrics").body
        contract({"scheduler": page("scheduler"), "cache": page("cache"), "worker": page("decode-1")})
        panels(s)
    print(f"{k.failed} failed")
    sys.exit(k.failed != 0)


if __name__ == "__main__":
    main()
