"""Resident memory of the whole `llmd up`, weights counted once, and the time to the first token."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import subprocess
import sys
import time

from harness import LLMD, MODEL, free_port, prompt_of, request, skip

if os.environ.get("LLMD_SANITIZED"):
    skip("sanitizers keep shadow memory: resident size says nothing")

MB = 1e6


def pss(pid):
    """Proportional set size: a page that n processes share counts 1/n in each."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


port = free_port()
begin = time.monotonic()
up = subprocess.Popen([LLMD, "up", "--model", MODEL, "--listen", f"127.0.0.1:{port}", "--ask", "Hi"],
                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
try:
    plan, first = [], None
    for line in up.stdout:
        plan.append(line)
        if first is None and "tokens/s" in line:
            first = time.monotonic() - begin
        if "Ctrl-C" in line:
            break
    text = "".join(plan)
    assert first is not None, text
    weights = float(re.search(r"^weights\s+([\d.]+) MiB", text, re.M).group(1)) * 1048576
    kv = float(re.search(r"^KV cache\s+([\d.]+) MiB", text, re.M).group(1)) * 1048576
    for i in range(6):
        r = request(port, "POST", "/v1/completions", {"model": MODEL, "prompt": prompt_of(900, i), "max_tokens": 8}, timeout=120)
        assert r.status == 200, r.body
    status = subprocess.run([LLMD, "status", "--url", f"http://127.0.0.1:{port}", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    parts = json.loads(status.stdout)["parts"]
    sizes = {p["name"]: pss(p["pid"]) for p in parts}
    sizes["up"] = pss(up.pid)
    total, workers = sum(sizes.values()), sum(p["role"] in ("prefill", "decode", "both") for p in parts)
    limit = weights + workers * kv + 200 * MB
    print(f"first answer {first:.1f} s after the start; resident {total / MB:.0f} MB: "
          + ", ".join(f"{k} {v / MB:.0f}" for k, v in sizes.items()) + f"; limit {limit / MB:.0f} (weights {weights / MB:.0f}, KV {workers} x {kv / MB:.0f})")
    assert total <= limit
finally:
    up.terminate()
    up.wait(20)
sys.exit(up.returncode)
