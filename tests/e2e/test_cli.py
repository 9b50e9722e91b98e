"""The command line as a person meets it: wrong flags, wrong files, help, one line each."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import subprocess
import tempfile
import time

from harness import LLMD, MODEL, free_port, main, request, wait_for


def run(*args, timeout=20):
    return subprocess.run([LLMD, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)


def wrong_words_get_one_helpful_line():
    for args, want in [(["upp"], "did you mean 'up'"), (["up", "--lisen", "x"], "did you mean --listen"),
                       (["worker"], "--model is needed"), (["worker", "--model", "/nonexistent.gguf"], "/nonexistent.gguf"),
                       (["worker", "--model", MODEL, "--role", "cook"], "prefill, decode or both"),
                       (["worker", "--model", MODEL, "--block-size", "17"], "power of two"),
                       (["up", "--listen", "0.0.0.0:8080"], "--insecure"), (["worker", "--model", MODEL, "--host", "0.0.0.0"], "--insecure"),
                       (["status", "--url", "http://127.0.0.1:1"], "llmd up"), (["chat", "--url", "https://x"], "http://")]:
        r = run(*args)
        assert r.returncode != 0, args
        assert want in r.stderr, (args, r.stderr)
        assert len(r.stderr.strip().splitlines()) == 1, (args, r.stderr)


def images_have_what_their_probes_call():
    assert json.loads(run("version", "--json").stdout)["version"] in run("version").stdout
    assert run("healthcheck", "http://127.0.0.1:1/health").returncode == 1
    assert "needs one URL" in run("healthcheck").stderr
    begin = time.monotonic()
    assert run("prestop", "--seconds", "1").returncode == 0 and 1 <= time.monotonic() - begin < 3
    with tempfile.TemporaryDirectory() as d:
        vllm, port = os.path.join(d, "vllm"), free_port()
        os.symlink(os.path.abspath(LLMD), vllm)
        for flags, why in ((["--tensor-parallel-size", "2"], "only 1 is possible"), (["--no-such-thing"], "no-such-thing: no such flag"),
                           (["--dtype"], "needs a value"), (["--enforce-eager=1"], "takes no value")):
            r = subprocess.run([vllm, "serve", MODEL, *flags], stderr=subprocess.PIPE, text=True, timeout=20)
            assert r.returncode == 2 and why in r.stderr, r.stderr
        p = subprocess.Popen([vllm, "serve", MODEL, "--port", str(port), "--served_model_name=tiny", "--max_model_len", "512",
                              "--tensor-parallel-size=1", "--gpu-memory-utilization", "0.9", "--no-enable-chunked-prefill"],
                             stderr=subprocess.PIPE, text=True)
        try:
            wait_for("it answers", lambda: run("healthcheck", f"127.0.0.1:{port}").returncode == 0, 30)
            assert request(port, "GET", "/v1/models").json()["data"][0]["id"] == "tiny"
        finally:
            p.send_signal(signal.SIGTERM)
            said = p.communicate(timeout=20)[1]
        assert p.returncode == 0 and said.count("has no effect") == 2, said


def help_lists_every_command():
    r = run("--help")
    assert r.returncode == 0
    for c in ["up", "chat", "status", "check", "model", "scheduler", "cache", "worker", "tokenize", "bench"]:
        assert f"\n  {c} " in r.stdout, c
        assert run(c, "--help").returncode == 0, c


def wrong_model_files_are_refused_within_two_seconds():
    with tempfile.TemporaryDirectory() as d:
        path = run("model", "fetch", MODEL).stdout.strip().splitlines()[-1]
        cases = {"text.gguf": b"hello " * 1000, "empty.gguf": b"", "short.gguf": open(path, "rb").read(5_000_000)}
        for name, data in cases.items():
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)
            begin = time.monotonic()
            r = run("worker", "--model", os.path.join(d, name), "--port", "0")
            assert r.returncode == 1 and time.monotonic() - begin < 2, (name, r.stderr)
            lines = [x for x in r.stderr.splitlines() if x.startswith("llmd: ")]
            assert len(lines) == 1 and name in lines[0], (name, r.stderr)
        r = run("worker", "--model", path, "--port", "0", "--kv-cache-memory-bytes", str(10**15))
        assert r.returncode == 1 and "kv-cache-memory-bytes" in r.stderr.splitlines()[-1].lower().replace("_", "-"), r.stderr


def check_finds_what_up_would():
    port = free_port()
    r = run("check", "--model", MODEL, "--listen", f"127.0.0.1:{port}")
    assert r.returncode == 0 and "ok:" in r.stdout, r.stdout
    r = run("check", "--model", MODEL, "--listen", "0.0.0.0:1", "--decode", "0")
    assert r.returncode == 1 and r.stdout.count("error:") == 2, r.stdout


def up_serves_restarts_what_dies_and_ends_cleanly():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    up = subprocess.Popen([LLMD, "up", "--model", MODEL, "--listen", f"127.0.0.1:{port}", "--ask", "What is 2+2?"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(lines)
        assert "tokens/s" in text and "handed over" in text, text
        parts = json.loads(run("status", "--url", url, "--json").stdout)["parts"]
        assert {p["role"] for p in parts} == {"scheduler", "cache", "prefill", "decode"}, parts
        assert all(set(p) >= {"name", "role", "address", "pid", "state", "reason", "blocks_in_use"} for p in parts), parts
        assert run("chat", "--url", url, "--ask", "Say hi.", "--max-tokens", "8").returncode == 0
        victim = next(p for p in parts if p["role"] == "decode")
        os.kill(victim["pid"], signal.SIGKILL)

        def back():
            now = json.loads(run("status", "--url", url, "--json").stdout)["parts"]
            p = next(p for p in now if p["role"] == "decode")
            return p["pid"] not in (None, victim["pid"]) and p["state"] == "used" or None
        wait_for("the decode worker is used again", back, 30, 0.3)
        r = request(port, "POST", "/v1/completions", {"model": MODEL, "prompt": "One two three", "max_tokens": 4})
        assert r.status == 200, r.body
        pids = [p["pid"] for p in json.loads(run("status", "--url", url, "--json").stdout)["parts"]]
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
        for pid in pids:
            assert not os.path.exists(f"/proc/{pid}"), pid
    finally:
        if up.poll() is None:
            up.kill()


main(images_have_what_their_probes_call, wrong_words_get_one_helpful_line, help_lists_every_command, wrong_model_files_are_refused_within_two_seconds,
     check_finds_what_up_would, up_serves_restarts_what_dies_and_ends_cleanly)
