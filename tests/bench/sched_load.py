#!/usr/bin/env python3
"""Scenarios of load on the scheduler, with workers that batch, queue and cache as real ones (sim_engine.h).

  sched_load.py [NAME ...]     prefix hotspot slow streams overload faults; none: all of them

Each prints its figures and PASS or FAIL for what the project promises; the exit status tells of any FAIL.
  BENCH_QUICK=1            shorter
  SECONDS=120              of overload
  SCHED_FLAGS="..."        more flags for the scheduler, e.g. those of flow control
  FAULTS_SEED=1 FAULTS_S=40
"""
# SPDX-License-Identifier: Apache-2.0
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time

from benchlib import (LLMD, Backends, Unavailable, free_ports, haproxy, load, load_begin, load_end, machine, metric,
                      more_files, nginx, ours, request, scheduler_knows, wait_for)

QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
FLAGS = shlex.split(os.environ.get("SCHED_FLAGS", ""))
verdicts = []


def verdict(name, what, ok):
    verdicts.append((name, what, ok))
    print(f"  {'PASS' if ok else 'FAIL'} {name}: {what}", flush=True)


def note(text):
    print(f"  {text}", flush=True)


def rr(ports):
    """Round robin to compare with: our own where the scheduler has it, else a proxy's."""
    if scheduler_knows("--strategy"):
        return "llmd scheduler --strategy round_robin", ours(ports, "--strategy", "round_robin")
    for name, make in (("haproxy round robin", haproxy), ("nginx round robin", nginx)):
        try:
            return name, make(ports)
        except Unavailable:
            continue
    raise Unavailable("no round robin to compare with")


# ---- prefix ----

def prefix():
    """32 prefixes of 2,000 tokens; the KV memory of one worker holds about 10 of them, that of four all."""
    engine = ("--engine", "--prefill-ms-per-token", "0.125", "--decode-ms", "2.5", "--slots", "16", "--kv-blocks",
              "1600")
    kind = {"connections": 32, "prompt_tokens": 2200, "shared_tokens": 2000, "groups": 32, "max_tokens": 64,
            "stream": True, "drain_s": 30}
    runs = {}
    for which in ("round robin", "ours"):
        with Backends(4, *engine) as backends:
            name, router = rr(backends.ports) if which == "round robin" else (
                "llmd scheduler", ours(backends.ports, *FLAGS))
            try:
                load(router.port, seconds=5 if QUICK else 10, **kind)
                before = backends.counters(anew=True)
                r = load(router.port, seconds=8 if QUICK else 20, **kind)
            finally:
                router.end()
            c = backends.counters()
        hit, asked = (sum(y[k] - x[k] for x, y in zip(before, c)) for k in ("hit_tokens", "queried_tokens"))
        hit /= max(asked, 1)
        runs[which] = r
        note(f"{name}: {r['output_tokens_per_s']:.0f} output tokens/s, TTFT p50 {r['ttft_ms']['p50']:.0f} "
             f"p90 {r['ttft_ms']['p90']:.0f} p99 {r['ttft_ms']['p99']:.0f} ms, {100 * hit:.0f} % of prompt tokens "
             f"cached, requests by worker {[x['requests'] for x in c]}, errors {r['errors']}")
    pinned(engine, kind)
    a, b = runs["ours"], runs["round robin"]
    k = a["output_tokens_per_s"] / max(b["output_tokens_per_s"], 1)
    t = a["ttft_ms"]["p90"] / max(b["ttft_ms"]["p90"], 1)
    verdict("prefix", f"{k:.2f} times the output tokens/s of round robin (goal 2)", k >= 2)
    verdict("prefix", f"p90 TTFT 1/{1 / max(t, 1e-9):.1f} of round robin's (goal 1/5)", t <= 0.2)
    verdict("prefix", "no errors", a["errors"] == 0 and a["ok"] == a["requests"])


def pinned(engine, kind):
    """What is possible: each prefix at a worker of its own from the beginning, without a router."""
    kind = {**kind, "connections": 8, "groups": 8}
    with Backends(4, *engine) as backends:
        for seconds in (5, 6):
            runs = [load_begin(p, seconds=seconds, seed=100 + i, **kind) for i, p in enumerate(backends.ports)]
            runs = [load_end(p) for p in runs]
    note(f"pinned by hand: {sum(r['output_tokens_per_s'] for r in runs):.0f} output tokens/s, TTFT p90 "
         f"{max(r['ttft_ms']['p90'] for r in runs):.0f} ms")


# ---- hotspot, slow ----

def hotspot():
    """64 requests at once with one prefix that one worker has cached."""
    with Backends(4, "--engine", "--prefill-ms-per-token", "0.2", "--decode-ms", "10", "--slots", "32") as backends:
        router = ours(backends.ports, *FLAGS)
        try:
            kind = {"prompt_tokens": 2200, "shared_tokens": 2000, "groups": 1, "max_tokens": 64, "stream": True}
            load(router.port, connections=1, requests=2, seconds=10, **kind)
            time.sleep(0.5)  # its end is known to the scheduler
            backends.counters(anew=True)
            r = load(router.port, connections=64, requests=64, seconds=60, **kind)
        finally:
            router.end()
        peaks = [c["peak_in_flight"] for c in backends.counters()]
    k = max(peaks) / (sum(peaks) / len(peaks))
    note(f"most in flight by worker {peaks}; TTFT p50 {r['ttft_ms']['p50']:.0f} p99 {r['ttft_ms']['p99']:.0f} ms")
    verdict("hotspot", f"max/mean in flight {k:.2f} (goal 1.5)", k <= 1.5)
    verdict("hotspot", f"{r['ok']} of 64 answered", r["ok"] == 64)


def slow():
    """One of four workers takes four times as long."""
    with Backends(4, "--engine", "--prefill-ms-per-token", "0.2", "--decode-ms", "10", "--slots", "32",
                  "--slow", "0=4") as backends:
        router = ours(backends.ports, *FLAGS)
        try:
            kind = {"prompt_tokens": 500, "max_tokens": 64, "stream": True, "connections": 16}
            load(router.port, seconds=5, **kind)
            backends.counters(anew=True)
            r = load(router.port, seconds=8 if QUICK else 20, seed=2, **kind)
        finally:
            router.end()
        n = [c["requests"] for c in backends.counters()]
    k = n[0] / (sum(n[1:]) / 3)
    note(f"requests by worker {n}, {r['output_tokens_per_s']:.0f} output tokens/s, latency p50 "
         f"{r['latency_ms']['p50']:.0f} p99 {r['latency_ms']['p99']:.0f} ms")
    verdict("slow", f"the slow worker got {k:.2f} of the others' share (goal 1/3)", k <= 1 / 3)
    verdict("slow", "no errors", r["errors"] == 0 and r["ok"] == r["requests"])


# ---- streams ----

def files(count):
    """Room for two descriptors a stream, as far as this user may; how many streams that is."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count + 2000, 2 * count + 2000))
    except (ValueError, OSError):
        more_files()
    return min(count, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2)


def streams():
    """Many open streams that say something every 3 s; then 180 quick readers beside 20 slow ones."""
    want = 2000 if QUICK else 9990  # the scheduler takes 10,000 connections; some ask for its metrics
    count = files(want)
    if count < want:
        note(f"only {count} streams: the limit of open files cannot be raised")
    with Backends(16, "--engine", "--decode-ms", "100", "--every", "30", "--slope", "0", "--slots", "10000", "--kv-blocks",
                  "1000000", "--prefill-ms-per-token", "0", "--chunk-tokens", "100000") as backends:
        router = ours(backends.ports, "--max-inflight", "20000", *FLAGS)
        try:
            scheduler = router.processes[0]
            before = scheduler.rss_kib()
            p = load_begin(router.port, connections=count, prompt_tokens=100, max_tokens=1000, stream=True,
                           stagger_s=count / 1000, seconds=count / 1000 + 14, drain_s=0.5, timeout_s=60)
            try:
                wait_for("all streams are open", lambda: metric(router.port, "llmd_scheduler_inflight_requests")
                         >= count, 40)
                time.sleep(7)
                rss, cpu, begin = scheduler.rss_kib(), scheduler.cpu(), time.monotonic()
                time.sleep(2)
                cpu = 100 * (sum(scheduler.cpu()) - sum(cpu)) / (time.monotonic() - begin)
                r = load_end(p)
            finally:
                p.kill()
                p.wait()
            each = (rss - before) / count
            note(f"{count} streams: {before} -> {rss} KiB resident, {cpu:.0f} % of a core, TTFT p50 "
                 f"{r['ttft_ms']['p50']:.0f} p99 {r['ttft_ms']['p99']:.0f} ms, {r['unfinished']} open at the end")
            verdict("streams", f"{each:.1f} KiB a stream (goal 32)", each <= 32)
            verdict("streams", f"{count} streams without an error ({r['errors_by_kind']} {r['by_status']})",
                    r["errors"] == 0 and r["unfinished"] == count)
            wait_for("all of them are gone", lambda: metric(router.port, "llmd_scheduler_inflight_requests") == 0, 15)
            gone = wait_for("the workers are idle", lambda: sum(c["in_flight"] for c in backends.counters()) == 0, 15)
            verdict("streams", "all cancelled at the workers when the clients left", gone)
        finally:
            router.end()
    readers()


def readers():
    with Backends(4, "--engine", "--decode-ms", "10", "--slope", "0", "--slots", "200") as backends:
        router = ours(backends.ports, *FLAGS)
        kind = {"prompt_tokens": 100, "max_tokens": 200, "stream": True}
        try:
            alone = load(router.port, connections=180, seconds=8, **kind)
            p = load_begin(router.port, connections=20, slow_readers=20, slow_ms=4000, prompt_tokens=100,
                           max_tokens=1000, stream=True, seconds=10, drain_s=60, timeout_s=60, seed=3)
            time.sleep(1)
            beside = load(router.port, connections=180, seconds=8, seed=2, **kind)
            late = load_end(p)
        finally:
            router.end()
    k = beside["output_tokens_per_s"] / alone["output_tokens_per_s"]
    note(f"180 readers: {alone['output_tokens_per_s']:.0f} tokens/s, gap p50 {alone['gap_ms']['p50']:.1f} p99 "
         f"{alone['gap_ms']['p99']:.1f} ms; beside 20 slow ones {beside['output_tokens_per_s']:.0f}, gap p50 "
         f"{beside['gap_ms']['p50']:.1f} p99 {beside['gap_ms']['p99']:.1f} ms; the slow ones: {late['ok']} ok, "
         f"{late['errors_by_kind']}")
    verdict("streams", f"readers beside slow ones keep {100 * k:.0f} % of their tokens/s (goal 90)", k >= 0.9)
    verdict("streams", "no error for anybody", alone["errors"] + beside["errors"] + late["errors"] == 0
            and late["unfinished"] == 0)


# ---- overload ----

def overload():
    """Five times as many requests as can be served, from three tenants."""
    seconds = float(os.environ.get("SECONDS", "20" if QUICK else "120"))
    weight = {"gold": 4, "silver": 2, "bronze": 1}
    with tempfile.TemporaryDirectory(prefix="llmd-bench-") as folder:
        keys, flags = keys_for(weight, folder)
        overloaded(seconds, weight, keys, flags)


def keys_for(weight, folder):
    """A key for each tenant, and the scheduler's flags that know them, their weights, and an administrator without a key's limits."""
    rows, keys = ["keys:"], {}
    for name, w in weight.items():
        said = subprocess.run([LLMD, "key", "new", "--tenant", name], stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
        keys[name] = said[0].split()[-1]
        rows += said[said.index("keys:") + 1:] + [f"  weight: {w}"]
    with open(f"{folder}/keys.yaml", "w") as f:
        f.write("\n".join(rows) + "\n")
    return keys, ["--api-key-file", f"{folder}/keys.yaml"]


def overloaded(seconds, weight, keys, flags):
    even = [f"{name}:{key}:1" for name, key in keys.items()]  # all of them offer the same
    kind = {"prompt_tokens": 500, "max_tokens": 64, "stream": True, "tenant": even}
    with Backends(4, "--engine", "--prefill-ms-per-token", "0.2", "--decode-ms", "10", "--slots", "8") as backends:
        headers = {"Authorization": f"Bearer {keys['gold']}"}
        router = ours(backends.ports, *flags, *FLAGS, headers=headers)
        try:
            body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}

            def probe():
                begin = time.monotonic()
                status = request(router.port, "POST", "/v1/chat/completions", body, headers=headers)[0]
                return status, time.monotonic() - begin
            quiet = min(probe()[1] for _ in range(5))
            full = load(router.port, connections=40, warmup_s=3, seconds=10, seed=5, **kind)
            capacity, rate = full["output_tokens_per_s"], full["requests_per_s"]
            note(f"capacity {capacity:.0f} output tokens/s, {rate:.1f} requests/s, TTFT p90 "
                 f"{full['ttft_ms']['p90']:.0f} ms")
            # clients wait longer than the queue keeps them (60 s), and there are enough of them for that long
            r = load(router.port, connections=9000, rate=5 * rate, warmup_s=5, seconds=seconds, drain_s=0.1, timeout_s=120,
                     honour_retry_after=True, **kind)
            begin = time.monotonic()

            def recovered():
                status, s = probe()
                return status == 200 and s <= 2 * quiet + 0.1
            try:
                wait_for("an answer as quick as before", recovered, 30)
                back = time.monotonic() - begin
            except RuntimeError:
                back = 30.0
        finally:
            router.end()
    good = r["output_tokens_per_s"] / capacity
    ra = r["retry_after"]
    note(f"{5 * rate:.0f} requests/s for {seconds:.0f} s: {r['by_status']}, errors {r['errors_by_kind']}, not sent "
         f"{r['unsent']}; TTFT of the served p50 {r['ttft_ms']['p50']:.0f} p99 {r['ttft_ms']['p99']:.0f} ms")
    note(f"Retry-After: promised p50 {ra['promised_s']['p50']:.0f} max {ra['promised_s']['max']:.0f} s, missing {ra['missing']}; asked again "
         f"then: {ra['accepted_after']} answered, {ra['waiting_after']} waiting at the end, {ra['expired_after']} refused after a wait, "
         f"{ra['refused_after']} refused at once")
    verdict("overload", f"goodput {100 * good:.0f} % of capacity (goal 90)", good >= 0.9)
    shares(r, weight)
    taken = ra["accepted_after"] + ra["waiting_after"] + ra["expired_after"]
    kept = taken / max(taken + ra["refused_after"], 1)
    verdict("overload", "every refusal says when to come back", ra["missing"] == 0)
    verdict("overload", f"{100 * kept:.0f} % of those who came back when told were taken in (goal: half)", kept >= 0.5)
    verdict("overload", f"as quick as before {back:.1f} s after the end (goal 5)", back <= 5)
    verdict("overload", "nothing broke", r["errors"] == 0)


def shares(r, weight):
    total = sum(t["output_tokens"] for t in r["tenants"].values())
    got = {n: t["output_tokens"] / max(total, 1) for n, t in r["tenants"].items()}
    meant = {n: w / sum(weight.values()) for n, w in weight.items()}
    note("shares of tokens: " + ", ".join(f"{n} {100 * got[n]:.0f} % (by weight {100 * meant[n]:.0f})" for n in got))
    worst = max(abs(got[n] - meant[n]) / meant[n] for n in got)
    verdict("overload", f"shares within {100 * worst:.0f} % of the weights (goal 10)", worst <= 0.1)


# ---- faults ----

def faults():
    """Workers are killed, frozen, ended and started again at seeded moments, under load."""
    rng = random.Random(int(os.environ.get("FAULTS_SEED", "1")))
    seconds = float(os.environ.get("FAULTS_S", "15" if QUICK else "40"))
    flags = ("--engine", "--prefill-ms-per-token", "0.2", "--decode-ms", "10", "--slots", "16")
    first = free_ports(4)
    workers = [Backends(1, *flags, first=first + i) for i in range(4)]
    router, done = None, []
    try:
        router = ours([w.first for w in workers], *FLAGS)
        p = load_begin(router.port, connections=24, prompt_tokens=500, max_tokens=64, stream=True, seconds=seconds,
                       drain_s=30, timeout_s=20, abort_fraction=0.05)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(rng.uniform(0.3, 1.5))
                w, kind = rng.choice(workers), rng.choice(("kill", "freeze", "end"))
                fault(w, kind, rng)
                done.append(kind)
            r = load_end(p)
        finally:
            p.kill()
            p.wait()
        inflight = lambda: (metric(router.port, "llmd_scheduler_inflight_requests")  # noqa: E731
                            + metric(router.port, "llmd_scheduler_endpoint_inflight"))
        try:
            left = 0 if wait_for("all accounts are settled", lambda: inflight() == 0, 10) else 1
        except RuntimeError:
            left = inflight()
        try:
            wait_for("the workers are idle",
                     lambda: sum(c["in_flight"] for w in workers for c in w.counters()) == 0, 10)
            idle = True
        except RuntimeError:
            idle = False
        alive = router.processes[0].popen.poll() is None
    finally:
        if router:
            router.end()
        for w in workers:
            w.process.end()
    note(f"{ {k: done.count(k) for k in sorted(set(done))} } in {seconds:.0f} s: {r['requests']} requests, {r['ok']} ok, "
         f"{r['aborted_by_us']} left by us, by status {r['by_status']}, errors {r['errors_by_kind']}; latency p50 "
         f"{r['latency_ms']['p50']:.0f} p99 {r['latency_ms']['p99']:.0f} max {r['latency_ms']['max']:.0f} ms")
    e = r["errors_by_kind"]
    verdict("faults", "no request hung", e.get("timeout", 0) == 0 and r["unfinished"] == 0)
    verdict("faults", "a broken stream says so: no cut without an error event",
            sum(e.get(k, 0) for k in ("cut", "closed", "no_done", "bad_http", "connect")) == 0)
    verdict("faults", f"in-flight accounts are back at 0 ({left})", left == 0)
    verdict("faults", "nothing is left running at the workers", idle)
    verdict("faults", "the scheduler lives", alive)


def fault(worker, kind, rng):
    if kind == "freeze":
        worker.process.signal(signal.SIGSTOP)
        time.sleep(rng.choice((0.3, 1.0, 4.0)))
        worker.process.signal(signal.SIGCONT)
        return
    worker.process.signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    worker.process.popen.wait()
    time.sleep(rng.uniform(0.1, 1.0))
    worker.process.start()


SCENARIOS = {f.__name__: f for f in (prefix, hotspot, slow, streams, overload, faults)}


def main():
    names = sys.argv[1:] or list(SCENARIOS)
    for n in names:
        if n not in SCENARIOS:
            sys.exit(f"{n}: no such scenario; there are {' '.join(SCENARIOS)}")
    more_files()
    print(machine())
    for n in names:
        begin = time.monotonic()
        print(f"{n}: {SCENARIOS[n].__doc__.strip()}", flush=True)
        try:
            SCENARIOS[n]()
        except (RuntimeError, Unavailable) as e:
            verdict(n, f"ended early: {e}", False)
        note(f"({time.monotonic() - begin:.0f} s)")
    bad = [v for v in verdicts if not v[2]]
    print(f"{len(verdicts) - len(bad)} of {len(verdicts)} promises hold")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
