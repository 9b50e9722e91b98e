"""Parts that freeze, return or die: who notices, how fast, and what it costs the requests."""
# SPDX-License-Identifier: Apache-2.0
import os
import signal
import threading
import time

from harness import Setup, metric, prompt_of, request, wait_for

SLOW = 3 if os.environ.get("LLMD_SANITIZED") else 1


def use_of(s, part):
    for p in request(s.port, "GET", "/v1/status", timeout=5).json()["parts"]:
        if p.get("address") == f"127.0.0.1:{part.port}":
            return p["state"]
    raise AssertionError(f"{part.name} is not in the status")


def short(s, seed, words=40):
    r = s.ask("/v1/completions", {"prompt": prompt_of(words, seed), "max_tokens": 2, "temperature": 0})
    assert r.status == 200, (r.status, r.body)


def all_used(s):
    return all(use_of(s, w) == "used" for w in s.workers)


def streams_on(s, ports, tokens):
    """One stream a port's worker is sure to have: asked through the door until each has one."""
    out = []

    def run(i):
        st = s.stream("/v1/completions", {"prompt": prompt_of(40, 700 + i), "max_tokens": tokens, "temperature": 0, "ignore_eos": True})
        out.append(st)
        for _ in st:
            pass

    threads = []
    while len(threads) < 12 and not all(metric(p, "vllm:num_requests_running") > 0 for p in ports):
        threads.append(threading.Thread(target=run, args=(len(threads),), daemon=True))
        threads[-1].start()
        time.sleep(0.2)
    return threads, out


def frozen_decode(s):
    a, b = s.parts["decode-1"], s.parts["decode-2"]
    threads, streams = streams_on(s, [a.port, b.port], 500)
    a.signal(signal.SIGSTOP)
    begin = time.monotonic()
    wait_for("a frozen decode worker leaves the rotation", lambda: use_of(s, a) == "frozen", 3.5 * SLOW)
    left = time.monotonic() - begin
    short(s, 1)
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a stream hangs"
    cut = [st for st in streams if st.error is not None]
    assert cut, "the frozen worker had no stream"
    for st in streams:
        assert st.done == (st.error is None), (st.done, st.error)
    a.signal(signal.SIGCONT)
    s.wait_idle(5 * SLOW)
    wait_for("it is used again", lambda: all_used(s), 10)
    return left, len(cut)


def frozen_prefill(s):
    p = s.parts["prefill-0"]
    p.signal(signal.SIGSTOP)
    worst = 0.0
    for i in range(3):
        begin = time.monotonic()
        short(s, 10 + i, 400)
        worst = max(worst, time.monotonic() - begin)
    assert worst <= 4.5 * SLOW, worst
    p.signal(signal.SIGCONT)
    s.wait_idle(5 * SLOW)
    wait_for("it is used again", lambda: all_used(s), 10)
    return worst


def killed(s, name, seed, words):
    """Requests that come while a part dies are answered as if nothing were."""
    part = s.parts[name]
    answers = []

    def run(i):
        answers.append(s.ask("/v1/completions", {"prompt": prompt_of(words, seed + i), "max_tokens": 2, "temperature": 0}).status)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for i, t in enumerate(threads):
        t.start()
        time.sleep(0.05)
        if i == 2:
            part.signal(signal.SIGKILL)
    for t in threads:
        t.join()
    assert answers == [200] * len(threads), (name, answers)
    part.restart()
    wait_for(f"{name} is back", part.ready, 60)
    wait_for("all are used again", lambda: all_used(s), 20)
    s.wait_idle(5 * SLOW)


with Setup(["prefill", "decode", "decode"], ["--kv-cache-memory-bytes", str(200 << 20)]) as s:
    left, cut = frozen_decode(s)
    worst = frozen_prefill(s)
    killed(s, "cache", 100, 60)
    killed(s, "prefill-0", 200, 400)
    killed(s, "decode-1", 300, 200)
    print(f"frozen decode out after {left:.1f} s, {cut} streams ended with an error; frozen prefill: {worst:.1f} s at most; "
          "cache, prefill, decode killed: every request answered")
