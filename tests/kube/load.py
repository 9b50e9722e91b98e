#!/usr/bin/env python3
"""Streams chats at a Service until told to stop, and says how each ended.

  load.py URL MODEL USERS SECONDS     a line of JSON at the end: ok, failed, cut, examples, the longest silence

A stream is ok when [DONE] came, cut when it began and did not end so, failed when it never began, refused when not even
the connection was accepted.
"""
# SPDX-License-Identifier: Apache-2.0
import http.client
import json
import signal
import sys
import threading
import time
import urllib.parse

URL, MODEL, USERS, SECONDS = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
at = urllib.parse.urlsplit(URL)
result = {"ok": 0, "failed": 0, "cut": 0, "errored": 0, "refused": 0, "examples": [], "gap_s": 0.0, "cached_tokens": 0, "prompt_tokens": 0}
lock, end = threading.Lock(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: end.set())


def note(kind, why=None, gap=0.0, usage=None):
    with lock:
        result[kind] += 1
        result["gap_s"] = max(result["gap_s"], round(gap, 2))
        if why and len(result["examples"]) < 8:
            result["examples"].append(f"{kind}: {why}"[:300])
        if usage:
            result["prompt_tokens"] += usage["prompt_tokens"]
            result["cached_tokens"] += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def ask(messages):
    began, done, error, text, usage, gap = False, False, None, "", None, 0.0
    last = time.monotonic()
    c = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=60)
    try:
        c.request("POST", "/v1/chat/completions", json.dumps({
            "model": MODEL, "messages": messages, "stream": True, "max_tokens": 24, "temperature": 0,
            "stream_options": {"include_usage": True}}), {"Content-Type": "application/json"})
        r = c.getresponse()
        if r.status != 200:
            return note("failed", f"{r.status} {r.read()[:200]!r}")
        for raw in r:
            gap, last = max(gap, time.monotonic() - last), time.monotonic()
            line = raw.decode(errors="replace").strip()
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                began = True
                error = event.get("error") or error
                usage = event.get("usage") or usage
                for choice in event.get("choices") or []:
                    text += (choice.get("delta") or {}).get("content") or ""
    except ConnectionRefusedError as e:
        return note("refused", repr(e))
    except (OSError, http.client.HTTPException) as e:
        return note("cut" if began else "failed", repr(e))
    finally:
        c.close()
    if error is not None:
        note("errored", json.dumps(error))
    elif done:
        note("ok", gap=gap, usage=usage)
    else:
        note("cut", "no [DONE]")
    return text


def user(n):
    k = 0
    while not end.is_set():
        k += 1
        messages = [{"role": "system", "content": f"You are assistant {n % 4}. " + "Be brief and kind. " * 30},
                    {"role": "user", "content": f"Question {n}.{k}: " + "tell me about rivers and hills. " * 8}]
        text = ask(messages)
        if text and not end.is_set():
            ask(messages + [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}])
        elif text is None:
            time.sleep(0.2)


threads = [threading.Thread(target=user, args=(n,), daemon=True) for n in range(USERS)]
for t in threads:
    t.start()
end.wait(SECONDS)
end.set()
for t in threads:
    t.join(90)
print(json.dumps(result), flush=True)
