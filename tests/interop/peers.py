#!/usr/bin/env python3
"""One scheduler, both doors (its own and a real Envoy), four workers of three makes: two of llmd, llama.cpp's
server, vLLM on CPU.  All serve one model under one name; what a client sees must not depend on who answered.

Peers come from peers_get.py.  One that cannot be had is named and left out; without llama.cpp and vLLM both,
or without Envoy, nothing is shown: 77.  PEERS_ONLY='kills metrics' runs some facts; PEERS_WITHOUT='vllm' leaves
one out.  The last line counts PASS and FAIL.
"""
# SPDX-License-Identifier: Apache-2.0
import collections
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
import venv  # noqa: E402

venv.inside()
import openai  # noqa: E402
import peers_get  # noqa: E402
from harness import LLMD, SKIP, Stream, free_port, metric, prompt_of, request, wait_for  # noqa: E402

NAME, ALIAS = "smollm2-135m", "tiny"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SLOTS, CONTEXT = 4, 2048
HANG_S = 120
FREE_S = 3  # in which a cancelled request has to be gone; it would run three times as long
RUNNING = {"llmd": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
           "llama": ("llamacpp:requests_processing", "llamacpp:requests_deferred", None),  # says no KV usage any more
           "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")}


def ask(text="Count from one to five.", n=12, **more):
    return {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": n, "temperature": 0, **more}


# ---- the peers ----

class Peer:
    """A worker in a process group of its own, so that all of it can be killed.  Four of them share the cores:
    threads that wait for one another must not spin."""

    def __init__(self, name, kind, argv, env=None):
        self.name, self.kind, self.port = name, kind, free_port()
        self.argv, self.env = argv(self.port), dict(os.environ, OMP_WAIT_POLICY="passive", **(env or {}))
        self.log = tempfile.NamedTemporaryFile("w+", prefix=f"llmd-peer-{name}-", suffix=".log")
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(["nice", *self.argv], env=self.env, stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def answers(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.log.read()[-2000:]}")
        return request(self.port, "GET", "/v1/models", timeout=5).status == 200

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def gauge(self, which):
        return metric(self.port, RUNNING[self.kind][which])

    def served(self):
        if self.kind == "llama":
            return metric(self.port, "llamacpp:tokens_predicted_total")
        return metric(self.port, "vllm:generation_tokens_total")


def llmd_worker(name):
    return Peer(name, "llmd", lambda port: [
        LLMD, "worker", "--model", NAME, "--served-model-name", NAME, "--listen", f"127.0.0.1:{port}", "--log-level", "warn",
        "--max-num-seqs", str(SLOTS), "--max-model-len", str(CONTEXT), "--kv-cache-memory-bytes", str(192 << 20)])


def llama_worker(gguf):
    return Peer("llama.cpp", "llama", lambda port: [
        peers_get.llama(), "-m", gguf, "--host", "127.0.0.1", "--port", str(port), "--alias", f"{NAME},{ALIAS}", "--metrics",
        "-np", str(SLOTS), "-c", str(SLOTS * CONTEXT), "-t", "2"])


def vllm_worker(gguf):
    cpus = sorted(os.sched_getaffinity(0))
    return Peer("vllm", "vllm", lambda port: [
        peers_get.vllm(), "serve", peers_get.model(gguf), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(CONTEXT), "--max-num-seqs", str(SLOTS), "--dtype", "bfloat16", "--block-size", "32",
        "--enforce-eager"],
        {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
         "VLLM_CPU_OMP_THREADS_BIND": f"{cpus[0]}-{cpus[-1]}"})


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="llmd-peers-")
        self.file, self.access = (os.path.join(self.folder, n) for n in ("endpoints.yaml", "access.log"))
        self.door, self.grpc = free_port(), free_port()
        self.peers, self.left_out = [], []
        gguf = subprocess.run([LLMD, "model", "fetch", NAME], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
        without = os.environ.get("PEERS_WITHOUT", "").split()
        for name, make in (("llmd-0", llmd_worker), ("llmd-1", llmd_worker), ("llama", llama_worker), ("vllm", vllm_worker)):
            try:
                if name in without:
                    raise peers_get.Missing("PEERS_WITHOUT")
                self.peers.append(make(name if make is llmd_worker else gguf))
            except peers_get.Missing as e:
                print(f"SKIPPED PEER {name}: {e}", flush=True)
                self.left_out.append(name)
        try:
            os.environ["ENVOY"] = peers_get.envoy()
        except peers_get.Missing as e:
            print(f"skipped: no envoy: {e}")
            sys.exit(SKIP)
        if {"llama", "vllm"} <= set(self.left_out):
            print("skipped: neither llama.cpp nor vLLM is here")
            sys.exit(SKIP)
        self.scheduler = self.envoy = None

    def list(self, peers):
        with open(self.file + ".new", "w") as f:
            f.write("endpoints:\n" if peers else "endpoints: []\n")
            for p in peers:
                f.write(f'- {{name: {p.name}, address: 127.0.0.1, port: "{p.port}", labels: {{llm-d.ai/role: both}}}}\n')
        os.rename(self.file + ".new", self.file)

    def parts(self):
        parts = request(self.door, "GET", "/v1/status", timeout=10).json()["parts"]
        return {p["address"]: p for p in parts if p["role"] not in ("scheduler", "cache")}

    def state(self, peer):
        return self.parts().get(peer.address, {}).get("state")

    def use(self, peers, seconds=30):
        """From now on these, and all of them are in rotation."""
        self.list(peers)
        want = {p.address: "used" for p in peers}

        def states():
            return {a: p["state"] for a, p in self.parts().items()}

        try:
            wait_for("all are used", lambda: states() == want, seconds)
        except AssertionError:
            raise AssertionError(f"{[(p.name, p.address) for p in peers]} are not all used: {list(self.parts().values())}") from None

    @contextlib.contextmanager
    def alone(self, peer):
        self.use([peer])
        try:
            yield
        finally:
            self.use(self.peers)

    def doors(self):
        return {"scheduler": self.door, "envoy": self.envoy.port}

    def start(self):
        from extproc_envoy import Envoy
        begin = time.monotonic()
        for p in self.peers:
            p.start()
        for p in self.peers:
            wait_for(f"{p.name} answers", p.answers, 600, 0.2)
            print(f"{p.name} answers after {time.monotonic() - begin:.0f} s", flush=True)
        self.list(self.peers)
        self.log = open(os.path.join(self.folder, "scheduler.log"), "w")
        self.scheduler = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{self.door}", "--endpoints-file", self.file,
                                           "--model", NAME, "--grpc-port", str(self.grpc), "--access-log", self.access],
                                          stdout=self.log, stderr=self.log)
        self.use(self.peers, 60)
        # llama.cpp closes after each stream without a word: a connection used again would now and then be dead
        self.envoy = Envoy(self.folder, ("127.0.0.1", self.grpc), ("127.0.0.1", 9), False, reuse=False)
        self.envoy.healthy()

    def restore(self):
        """After a fact that failed half-way: all run and are used."""
        for p in self.peers:
            if p.process.poll() is not None:
                p.start()
                wait_for(f"{p.name} answers", p.answers, 600, 0.2)
        self.use(self.peers, 60)

    def stop(self):
        if self.envoy is not None:
            self.envoy.stop()
        if self.scheduler is not None:
            self.scheduler.terminate()
            self.scheduler.wait(60)
        for p in self.peers:
            p.kill()


# ---- load, and what became of each request ----

class Load:
    """Threads that ask one door each, whole answers and streams in turn.  A failure is clear when the client
    cannot take it for an answer: a status with a reason, an error event, a body that breaks off."""

    def __init__(self, doors, gap_s=0.05):
        self.counts = {d: collections.Counter() for d in doors}
        self.unclear, self.hung = [], []
        self.stopping, self.gap_s, self.lock, self.seed = threading.Event(), gap_s, threading.Lock(), 0
        self.threads = [threading.Thread(target=self.run, args=(d, port)) for d, port in doors.items() for _ in range(2)]

    def outcome(self, door, port, streamed):
        with self.lock:
            self.seed += 1
            text = prompt_of(20, self.seed)
        body = ask(text, 16, **({"stream": True} if streamed else {}))
        try:
            r = request(port, "POST", CHAT, body, timeout=HANG_S)
        except TimeoutError:
            self.hung.append(door)
            return "hung"
        except (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError):
            return "broken off" if streamed else "broken off, not streamed"
        if r.status == 200 and streamed:
            if r.body.rstrip().endswith("data: [DONE]") and '"error"' not in r.body:
                return "ok"
            if '"error"' in r.body:
                return "error event"
        elif r.status == 200 and r.json()["choices"][0]["message"]["content"] is not None:
            return "ok"
        elif r.status >= 400 and len(r.body) > 10:
            return f"status {r.status}"
        self.unclear.append((door, r.status, r.body[-300:]))
        return "unclear"

    def run(self, door, port):
        streamed = False
        while not self.stopping.is_set():
            what = self.outcome(door, port, streamed)
            with self.lock:
                self.counts[door][what] += 1
            streamed = not streamed
            time.sleep(self.gap_s)

    def total(self):
        return sum(sum(c.values()) for c in self.counts.values())

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for t in self.threads:
            t.join()

    def check(self):
        assert not self.hung, f"hung for {HANG_S} s: {self.hung}"
        assert not self.unclear, self.unclear[:3]
        return ", ".join(f"{d}: {sum(c.values())} requests, " + (", ".join(
            f"{n} {what}" for what, n in sorted(c.items()) if what != "ok") or "none failed") for d, c in self.counts.items())


# ---- facts ----

def answers(w):
    """openai-python and curl, whole and streamed, through both doors; every peer serves some."""
    before = {p.name: p.served() for p in w.peers}
    n = 0
    for door, port in w.doors().items():
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
        for i in range(6):
            m = ask(prompt_of(12, i), 16)
            r = client.chat.completions.create(**m)
            assert r.choices[0].message.content and r.model == NAME and r.usage.completion_tokens > 0, r
            chunks = list(client.chat.completions.create(**m, stream=True, stream_options={"include_usage": True}))
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks
            assert chunks[-1].usage.completion_tokens > 0 and {c.model for c in chunks} == {NAME}, chunks[-1]
            n += 2
        for more, end in ([], "}"), (["-N"], "data: [DONE]"):
            body = json.dumps(ask(stream=bool(more)))
            out = subprocess.run(["curl", "-sS", "--fail-with-body", "-m", "120", *more, "-H", "Content-Type: application/json", "-d", body,
                                  f"http://127.0.0.1:{port}{CHAT}"], stdout=subprocess.PIPE, text=True, check=True).stdout
            assert out.rstrip().endswith(end), (door, out[-200:])
            n += 1
    with Load(w.doors(), 0) as load:
        wait_for("every peer has served some", lambda: load.total() > 40 and all(p.served() > before[p.name] for p in w.peers), 120, 0.5)
    detail = load.check()
    assert all(set(c) == {"ok"} for c in load.counts.values()), load.counts
    shares = {p.name: int(p.served() - before[p.name]) for p in w.peers}
    return f"{n} by openai-python and curl; {detail}; tokens served {shares}"


def metrics(w):
    """Requests that others send straight to a peer show in the scheduler's numbers: running, waiting, KV in use."""
    out = []
    for p in w.peers:
        streams, best = [], {}

        def seen():
            part = w.parts()[p.address]
            for k in ("running", "waiting", "kv_usage"):
                best[k] = max(best.get(k, 0), part[k])
            return best["running"] and best["waiting"] and (best["kv_usage"] or RUNNING[p.kind][2] is None)

        def hold(i):
            with contextlib.suppress(Exception):
                streams.append(Stream(p.port, CHAT, ask(prompt_of(300, i), 600, stream=True)))

        threads = [threading.Thread(target=hold, args=(i,)) for i in range(SLOTS * 2)]
        for t in threads:
            t.start()
        try:
            wait_for(f"{p.name}: running, waiting, kv usage in {best}", seen, 60, 0.05)
        finally:
            while any(t.is_alive() for t in threads) or streams:
                while streams:
                    streams.pop().close()
                time.sleep(0.05)
        wait_for(f"{p.name} is idle again", lambda: w.parts()[p.address]["running"] == 0, 60, 0.1)
        out.append(f"{p.name} {best}")
    return "; ".join(out)


def models(w):
    """/v1/models is the union of what the peers say, and each name leads to who serves it."""
    want = {NAME} | ({ALIAS} if any(p.kind == "llama" for p in w.peers) else set())
    got = request(w.door, "GET", "/v1/models").json()["data"]
    assert {m["id"] for m in got} == want, got
    by = {p.name: w.parts()[p.address]["models"] for p in w.peers}
    for p in w.peers:
        own = request(p.port, "GET", "/v1/models").json()["data"]
        names = {m["id"] for m in own} | {a for m in own for a in m.get("aliases", [])}
        assert set(by[p.name]) == names, (p.name, by[p.name], own)
    assert all(m["max_model_len"] == CONTEXT for m in got), got
    for port in w.doors().values():
        assert request(port, "GET", "/v1/models").status == 200
        if ALIAS in want:
            llama = next(p for p in w.peers if p.kind == "llama")
            before = llama.served()
            r = request(port, "POST", CHAT, dict(ask(), model=ALIAS))
            assert r.status == 200 and llama.served() > before, (r.status, r.body)
        r = request(port, "POST", CHAT, dict(ask(), model="nobody"))
        assert r.status == 404 and "nobody" in r.body, (r.status, r.body)
    return str(by)


def without(j, *names):
    """The value without members that differ from one answer to the next."""
    if isinstance(j, dict):
        return {k: without(v, *names) for k, v in j.items() if k not in names}
    return [without(v, *names) for v in j] if isinstance(j, list) else j


def same(a, b, at="$"):
    """Equal, numbers that are no integers nearly: a batch of another size rounds otherwise."""
    if isinstance(a, float) or isinstance(b, float):
        assert abs(a - b) < 0.05, (at, a, b)
    elif isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), (at, sorted(a), sorted(b))
        for k in a:
            same(a[k], b[k], f"{at}.{k}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), (at, a, b)
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{at}[{i}]")
    else:
        assert a == b, (at, a, b)


OWN = ("id", "created", "timings", "created_at")


def events(port, body):
    r = request(port, "POST", CHAT, dict(body, stream=True, stream_options={"include_usage": True}))
    assert r.status == 200, r.body
    lines = [l[6:] for l in r.body.splitlines() if l.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    return [without(json.loads(l), *OWN) for l in lines[:-1]]


def passes(w):
    """Usage and logprobs come out as the peer gave them, whole and streamed."""
    out = []
    body = ask("Name three colours.", 8, logprobs=True, top_logprobs=2)
    for p in w.peers:
        with w.alone(p):
            for _ in range(2):  # now its prefix is cached
                whole = without(request(p.port, "POST", CHAT, body).json(), *OWN)
            stream = events(p.port, body)
            assert whole["usage"]["prompt_tokens"] > 0 and len(whole["choices"][0]["logprobs"]["content"]) > 0, whole
            for door, port in w.doors().items():
                same(whole, without(request(port, "POST", CHAT, body).json(), *OWN), f"{p.name} {door}")
                text = "".join(c["delta"].get("content") or "" for e in stream for c in e["choices"])
                got = events(port, body)
                assert "".join(c["delta"].get("content") or "" for e in got for c in e["choices"]) == text, (p.name, door)
                same(stream[-1], got[-1], f"{p.name} {door} stream")
        out.append(f"{p.name} {whole['usage']['prompt_tokens']}+{whole['usage']['completion_tokens']} tokens")
    return ", ".join(out)


ERRORS = (("messages are text", CHAT, ask() | {"messages": "x"}), ("temperature is text", CHAT, ask(temperature="hot")),
          ("a prompt too long", TEXT, {"model": NAME, "prompt": "word " * 3 * CONTEXT, "max_tokens": 4}),
          ("a chat too long", CHAT, ask("word " * 3 * CONTEXT)), ("embeddings", "/v1/embeddings", {"model": NAME, "input": "x"}))


def errors(w):
    """What a peer refuses comes out with its status and its words."""
    out = []
    for p in w.peers:
        with w.alone(p):
            for what, path, body in ERRORS:
                own = request(p.port, "POST", path, body)
                for door, port in w.doors().items():
                    got = request(port, "POST", path, body)
                    assert got.status == own.status, (p.name, what, door, own.status, got.status, got.body[:200])
                    assert 400 <= got.status != 500, (p.name, what, got.status)
                    same(without(own.json(), *OWN), without(got.json(), *OWN), f"{p.name} {what} {door}")
                out.append(f"{p.name}: {what} {own.status}")
            for port in w.doors().values():
                client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
                try:
                    client.chat.completions.create(**ask("word " * 3 * CONTEXT))
                    raise AssertionError(f"{p.name}: a chat too long was answered")
                except openai.BadRequestError:
                    pass
    return ", ".join(out)


def free_after(p, port, streamed):
    """Seconds until the peer is free of a request whose client left; None: it went on for FREE_S."""
    body = ask(prompt_of(40, 7), 800, ignore_eos=True)
    if streamed:
        s = Stream(port, CHAT, dict(body, stream=True))
        for _ in zip(range(3), s):
            pass
        leave = s.close
    else:
        c = http.client.HTTPConnection("127.0.0.1", port)
        c.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
        leave = c.close
    wait_for(f"{p.name} runs it", lambda: p.gauge(0) >= 1, 30)
    leave()
    begin = time.monotonic()
    try:
        wait_for("it is free", lambda: p.gauge(0) == 0, FREE_S, 0.01)
        return time.monotonic() - begin
    except AssertionError:
        wait_for(f"{p.name} ends it", lambda: p.gauge(0) == 0, 600, 0.1)
        return None


def cancels(w):
    """A client that leaves frees the peer through both doors, streamed or not, if it does when asked directly."""
    out = []
    for p in w.peers:
        with w.alone(p):
            for streamed in (True, False):
                how = f"{p.name} {'streamed' if streamed else 'whole'}"
                own = free_after(p, p.port, streamed)
                if own is None:
                    out.append(f"{how}: goes on even when asked directly")
                    continue
                seconds = {door: free_after(p, port, streamed) for door, port in w.doors().items()}
                assert None not in seconds.values(), (how, own, seconds)
                out.append(f"{how}: {own:.2f} s directly, " + ", ".join(f"{s:.2f} s {d}" for d, s in seconds.items()))
    return "; ".join(out)


def killed(w, p):
    """kill -9 under load, then a start: seconds until it is out and in again."""
    with Load(w.doors()) as load:
        wait_for("load runs", lambda: load.total() > 8, 60, 0.1)
        begin = time.monotonic()
        p.kill()
        wait_for(f"{p.name} is out", lambda: w.state(p) != "used", 20, 0.01)
        out_s = time.monotonic() - begin
        told = status_of(w)[p.address]
        assert told["state"] == "unreachable" and told["reason"], told
        time.sleep(3)
        p.start()
        wait_for(f"{p.name} answers", p.answers, 600, 0.02)
        begin = time.monotonic()
        wait_for(f"{p.name} is in", lambda: w.state(p) == "used", 60, 0.01)
        in_s = time.monotonic() - begin
        before = p.served()
        wait_for(f"{p.name} serves again", lambda: p.served() > before, 120, 0.2)
    detail = load.check()
    ours = load.counts["scheduler"]
    assert not [k for k in ours if k not in ("ok", "error event")], ours  # what had not begun is tried elsewhere
    return f"{p.name} out after {out_s:.2f} s, in {in_s:.2f} s after it answered, {detail}"


def kills(w):
    """Each make in turn dies under load and comes back."""
    done, out = set(), []
    for p in w.peers:
        if p.kind not in done:
            done.add(p.kind)
            out.append(killed(w, p))
            print(f"     {out[-1]}", flush=True)
    return f"{len(out)} kinds killed and started again"


def joins(w):
    """A worker is added by the watched file and taken out again, under load; nothing fails."""
    new = llmd_worker("llmd-2")
    new.start()
    try:
        wait_for("the new one answers", new.answers, 60)
        with Load(w.doors()) as load:
            wait_for("load runs", lambda: load.total() > 8, 60, 0.1)
            begin = time.monotonic()
            w.list(w.peers + [new])
            wait_for("it is in", lambda: w.state(new) == "used", 20, 0.01)
            in_s = time.monotonic() - begin
            wait_for("it serves", lambda: new.served() > 0, 60, 0.1)
            begin = time.monotonic()
            w.list(w.peers)
            wait_for("it is out", lambda: w.state(new) is None, 20, 0.01)
            out_s = time.monotonic() - begin
            time.sleep(1)
        detail = load.check()
        assert all(set(c) == {"ok"} for c in load.counts.values()), load.counts
    finally:
        w.use(w.peers)
        new.kill()
    return f"in after {in_s:.2f} s, out after {out_s:.2f} s, {detail}"


def status_of(w):
    out = subprocess.run([LLMD, "status", "--json", "--url", f"http://127.0.0.1:{w.door}"], stdout=subprocess.PIPE, text=True, check=True)
    return {p["address"]: p for p in json.loads(out.stdout)["parts"]}


def status(w):
    """llmd status lists every peer as it is: used, and one that stands still as frozen."""
    told = status_of(w)
    assert {p.address for p in w.peers} <= told.keys(), told
    for p in w.peers:
        assert told[p.address]["state"] == "used" and told[p.address]["reason"] == "", told[p.address]
    p = w.peers[0]
    os.killpg(p.process.pid, signal.SIGSTOP)
    try:
        wait_for("it is seen as frozen", lambda: w.state(p) == "frozen", 20, 0.1)
        seen = status_of(w)[p.address]
    finally:
        os.killpg(p.process.pid, signal.SIGCONT)
    assert seen["state"] != "used" and seen["reason"], seen
    w.use(w.peers)
    return f"{len(told)} parts; a stopped one: {seen['state']}, {seen['reason']}"


def health(w):
    """Envoy never took the picker for sick, and with nobody in rotation the picker says so itself."""
    w.use([])
    time.sleep(5)  # Envoy asks every second, and three bad answers are enough
    w.envoy.healthy()
    r = request(w.envoy.port, "POST", CHAT, ask())
    w.use(w.peers)
    assert r.status in (404, 503) and "inference error" in r.body, (r.status, r.body)
    stats = {l.split(": ")[0]: l.split(": ")[1] for l in w.envoy.ask("/stats?filter=cluster.picker.health_check").decode().splitlines()}
    failed = int(stats["cluster.picker.health_check.failure"])
    assert failed == 0, stats
    return f"{stats['cluster.picker.health_check.success']} checks, {failed} failed; nobody there: {r.status} {r.body[:80]}"


FACTS = [answers, metrics, models, passes, errors, cancels, status, joins, kills, health]


def main():
    w = World()
    only = os.environ.get("PEERS_ONLY", "").split()
    passed, failed = 0, 0
    try:
        w.start()
        for fact in FACTS:
            if only and fact.__name__ not in only:
                continue
            begin = time.monotonic()
            try:
                detail = fact(w)
                passed += 1
                print(f"PASS {fact.__name__} ({time.monotonic() - begin:.0f} s): {detail}", flush=True)
            except Exception as e:
                failed += 1
                print(f"FAIL {fact.__name__} ({time.monotonic() - begin:.0f} s): {type(e).__name__}: {str(e)[:1500]}", flush=True)
                with contextlib.suppress(Exception):
                    w.restore()
    finally:
        w.stop()
        if failed:
            print("".join(open(os.path.join(w.folder, "scheduler.log")).readlines()[-40:]))
    print(f"{passed} PASS, {failed} FAIL" + (f"; without {', '.join(w.left_out)}" if w.left_out else ""))
    return 1 if failed else SKIP if w.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
