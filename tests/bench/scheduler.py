#!/usr/bin/env python3
"""The scheduler beside other routers, in one run: requests/s, CPU a request, added latency, idle CPU.

In front of the same simulated workers (which answer at once and serve 16 KB of metrics) each router in
turn gets, for prompts of 1k, 10k and 100k tokens, streamed and whole:
  - 16 users that ask as fast as they are answered: requests/s, and the CPU time of all processes of the router
    (utime and stime of /proc) by requests answered in it;
  - one user, in turns with the same user at the workers themselves: the latency that the router adds;
  - half of those requests/s at random moments: its p99, and that of the workers themselves at the same rate.
Half of each prompt is shared by its group (32 groups), so that prefix routing has something to find and to note.
A streamed answer leaves its worker in one piece; 40 ms added to it are a router that writes its head and its body
apart without TCP_NODELAY.  "others' CPU" is what processes outside of the run took: on a busy machine only the CPU
columns mean something.

  BENCH_QUICK=1   a part, in about two minutes
  BENCH_ROUTERS   names, to run only these
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import sys
import time

from benchlib import (BACKEND, BUILD, LOAD, Backends, Others, Unavailable, haproxy, load, machine, more_files, nginx,
                      ours, ours_behind_envoy, python_router)

QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
USERS = 16
ROUTERS = {
    "nginx round robin": nginx,
    "haproxy round robin": haproxy,
    "sglang-router round robin": lambda ports: python_router("sglang-router", "round_robin", ports),
    "sglang-router cache aware": lambda ports: python_router("sglang-router", "cache_aware", ports),
    "smg round robin": lambda ports: python_router("smg", "round_robin", ports),
    "smg cache aware": lambda ports: python_router("smg", "cache_aware", ports),
    "llmd scheduler": ours,
    "Envoy + llmd scheduler": ours_behind_envoy,
}
QUICK_ROUTERS = ("nginx round robin", "haproxy round robin", "sglang-router cache aware", "smg cache aware",
                 "llmd scheduler", "Envoy + llmd scheduler")
CELLS = [(tokens, stream) for tokens in (1000, 10000, 100000) for stream in (True, False)]
QUICK_CELLS = [(1000, True), (1000, False), (100000, True)]
SECONDS = {"saturate": 3.0, "one": 0.8, "half": 1.2, "idle": 4 if QUICK else 10}


def prompts(tokens, stream):
    return {"prompt_tokens": tokens, "shared_tokens": tokens // 2, "groups": 32, "stream": stream, "max_tokens": 16}


def cell(router, port, direct, backends, tokens, stream, whole):
    """The figures of one router at one kind of request.  router None: the workers themselves."""
    kind = prompts(tokens, stream)
    load(port, connections=USERS, seconds=0.3, **kind)  # connections, buffers, first prefixes
    others = Others(backends.process, *([router] if router else []))
    before = router.cpu() if router else (0, 0)
    full = load(port, connections=USERS, seconds=SECONDS["saturate"], drain_s=2, **kind)
    after = router.cpu() if router else (0, 0)
    out = {"requests_per_s": full["requests_per_s"], "errors": full["requests"] - full["ok"],
           "user_ms": (after[0] - before[0]) * 1000 / max(full["ok"], 1),
           "system_ms": (after[1] - before[1]) * 1000 / max(full["ok"], 1),
           "others_percent": others.percent()}
    out["cpu_ms"] = out["user_ms"] + out["system_ms"]
    one = load(port, connections=1, seconds=SECONDS["one"], **kind)["latency_ms"]
    if router:
        base = load(direct, connections=1, seconds=SECONDS["one"], **kind)["latency_ms"]
        out["added_p50_ms"], out["added_p99_ms"] = one["p50"] - base["p50"], one["p99"] - base["p99"]
    else:
        out["added_p50_ms"], out["added_p99_ms"] = one["p50"], one["p99"]
    if whole:
        rate = max(full["requests_per_s"] / 2, 1)
        for key, at in (("half_p99_ms", port), ("half_direct_p99_ms", direct)):
            half = load(at, connections=256, rate=rate, warmup_s=0.3, seconds=SECONDS["half"], **kind)
            out[key] = half["latency_ms"]["p99"]
    return out


def measure(name, make, backends, cells, whole, results, skipped):
    try:
        router = make(backends.ports) if make else None
    except Unavailable as e:
        skipped[name] = str(e)
        return
    except RuntimeError as e:
        skipped[name] = "did not answer: " + str(e)[-300:].replace("\n", " ")
        return
    try:
        for tokens, stream in cells:
            r = cell(router, router.port if router else backends.first, backends.first, backends, tokens, stream, whole)
            results.setdefault((len(backends.ports), tokens, stream), {})[name] = r
            print(f"  {len(backends.ports)} workers, {tokens} tokens, {'stream' if stream else 'whole'}, {name}: "
                  f"{r['requests_per_s']:.0f}/s, {r['cpu_ms']:.3f} ms", file=sys.stderr, flush=True)
    finally:
        if router:
            router.end()


def ratio(results, mine, name, key="cpu_ms"):
    return results[mine][key] / results[name][key] if name in results and results[name][key] > 0 else None


def show(value, digits=3):
    return "-" if value is None else f"{value:.{digits}f}"


def table(at, rows):
    workers, tokens, stream = at
    print(f"\n### {workers} workers, {tokens} tokens, {'streamed' if stream else 'whole'}\n")
    print("| router | requests/s | CPU ms a request | user | system | CPU / nginx | added p50 ms | added p99 ms "
          "| p99 at half load ms | workers' own | errors | others' CPU % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, r in rows.items():
        none = name == "none (p50, p99 themselves)"
        print(f"| {name} | {r['requests_per_s']:.0f} | {'-' if none else show(r['cpu_ms'])} "
              f"| {'-' if none else show(r['user_ms'])} | {'-' if none else show(r['system_ms'])} "
              f"| {'-' if none else show(ratio(rows, name, 'nginx round robin'), 2)} | {show(r['added_p50_ms'])} "
              f"| {show(r['added_p99_ms'])} | {show(r.get('half_p99_ms'))} | {show(r.get('half_direct_p99_ms'))} | {r['errors']} | {r['others_percent']:.0f} |")


def goals(results):
    """The promises that one run can tell, as yes or no."""
    print("\n### Goals\n")
    limit = {1000: 0.08, 100000: 0.4}
    for at, rows in sorted(results.items()):
        mine = rows.get("llmd scheduler")
        if mine is None:
            continue
        where = f"{at[0]} workers, {at[1]} tokens, {'streamed' if at[2] else 'whole'}"
        for name in ("sglang-router cache aware", "smg cache aware"):
            if name in rows and mine["cpu_ms"] > 0:
                k = rows[name]["cpu_ms"] / mine["cpu_ms"]
                print(f"- {where}: {k:.1f} times less CPU than {name} (goal 2): {'PASS' if k >= 2 else 'FAIL'}")
        if at[1] in limit:
            print(f"- {where}: {mine['cpu_ms']:.3f} ms a request (goal {limit[at[1]]}): "
                  f"{'PASS' if mine['cpu_ms'] <= limit[at[1]] else 'FAIL'}")
        if at[1] == 1000:
            print(f"- {where}: added p50 {mine['added_p50_ms']:.3f} ms (goal 0.15): "
                  f"{'PASS' if mine['added_p50_ms'] <= 0.15 else 'FAIL'}")
            if "half_p99_ms" in mine:
                print(f"- {where}: p99 at half load {mine['half_p99_ms']:.3f} ms, of the workers themselves "
                      f"{mine['half_direct_p99_ms']:.3f} (goal 1): "
                      f"{'PASS' if mine['half_p99_ms'] < 1 else 'FAIL'}")


def idle(backends):
    out = {}
    for name, flags in (("--scrape-ms 50", ("--scrape-ms", "50")), ("default", ())):
        router = ours(backends.ports, *flags)
        try:
            time.sleep(2)
            before, begin = router.cpu(), time.monotonic()
            time.sleep(SECONDS["idle"])
            after, seconds = router.cpu(), time.monotonic() - begin
            out[name] = 100 * (sum(after) - sum(before)) / seconds
        finally:
            router.end()
    return out


def main():
    for path in (BACKEND, LOAD):
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: make")
    more_files()
    only = [n.strip() for n in os.environ.get("BENCH_ROUTERS", "").split(",") if n.strip()]
    names = [n for n in (QUICK_ROUTERS if QUICK else ROUTERS) if not only or n in only]
    results, skipped, begin = {}, {}, time.monotonic()
    print(f"{machine()}")
    for count in (16,) if QUICK else (16, 100):
        with Backends(count) as backends:
            for name in ["none (p50, p99 themselves)", *names]:
                measure(name, ROUTERS.get(name), backends, QUICK_CELLS if QUICK else CELLS, count == 16, results,
                        skipped)
    for at, rows in sorted(results.items(), key=lambda r: (r[0][0], r[0][1], not r[0][2])):
        table(at, rows)
    with Backends(100) as backends:
        still = idle(backends)
    print("\n### CPU of an idle scheduler with 100 endpoints, per cent of a core\n")
    for name, percent in still.items():
        print(f"- {name}: {percent:.1f} %" + (f" (goal < 5): {'PASS' if percent < 5 else 'FAIL'}"
                                               if name != "default" else ""))
    goals(results)
    for name, why in skipped.items():
        print(f"skipped: {name}: {why}")
    with open(os.path.join(BUILD, "bench-scheduler.json"), "w") as f:
        json.dump({"machine": machine(), "idle_percent": still, "skipped": skipped,
                   "cells": [{"workers": k[0], "tokens": k[1], "stream": k[2], "routers": v}
                             for k, v in results.items()]}, f, indent=1)
    print(f"\n{time.monotonic() - begin:.0f} s; figures in {os.path.relpath(f.name)}")
    mine = [r for rows in results.values() for n, r in rows.items() if "llmd" in n]
    sys.exit(0 if mine and all(r["errors"] == 0 for r in mine) else 1)


if __name__ == "__main__":
    main()
