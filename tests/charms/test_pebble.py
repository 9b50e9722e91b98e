"""A real Pebble runs the layers of the charms with the real binary: checks turn up, a completion goes through, what runs
may end before it is killed.  Skipped without Pebble (built from its Go module by tests/charms/run)."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
import yaml

import test_charms as charms

PEBBLE = os.environ.get("PEBBLE", "")
pytestmark = pytest.mark.skipif(not os.path.exists(PEBBLE), reason="no pebble: go is needed to build it")


def free_port():
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) != 0:
                return port


def model():
    out = subprocess.run([os.environ["LLMD"], "model", "fetch", "smollm2-135m"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return out.strip().splitlines()[-1]


def layer(name, tmp_path, config, relations=()):
    """The plan that the charm makes, with paths and users of this machine."""
    after = charms.run(name, charms.EVENTS["update_status"], charms.state(name, tmp_path, relations, config=config))
    main = next(iter(charms.CONTEXTS[name][1]["containers"]))
    plan = yaml.safe_load(after.get_container(main).plan.to_yaml())
    service = plan["services"][main]
    service["command"] = service["command"].replace("/usr/bin/llmd", os.environ["LLMD"])
    for key in ("user-id", "group-id"):
        service.pop(key)
    return plan


class Pebble:
    def __init__(self, folder, plan):
        os.makedirs(folder / "layers")
        (folder / "layers" / "001-llmd.yaml").write_text(yaml.safe_dump(plan))
        self.env = dict(os.environ, PEBBLE=str(folder))
        self.process = subprocess.Popen([PEBBLE, "run", "--create-dirs"], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = []
        threading.Thread(target=lambda: [self.said.append(line) for line in self.process.stdout], daemon=True).start()

    def tell(self, *argv):
        return subprocess.run([PEBBLE, *argv], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90).stdout

    def checks(self):
        rows = [line.split() for line in self.tell("checks").splitlines()[1:]]
        return {r[0]: next((w for w in r if w in ("up", "down", "inactive")), None) for r in rows if r}

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


def wait(what, fn, seconds=60):
    end = time.monotonic() + seconds
    while not fn():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def ask(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as r:
        return json.loads(r.read())


def served(port):
    try:
        return ask(port, "/v1/models")["data"]
    except OSError:
        return None


def test_a_worker_under_pebble(tmp_path):
    port = free_port()
    plan = layer("llm-d-decode-k8s", tmp_path, {"port": port, "threads": 1, "kv-cache-memory-bytes": 1 << 28, "shutdown-timeout": 20})
    main = plan["services"]["llm-d-decode"]
    main["command"] = (main["command"].replace("/models/smollm2-135m.gguf", model()).replace("tcp://*:5556", f"tcp://*:{free_port()}")
                       .replace("tcp://*:5558", f"tcp://*:{free_port()}").replace("--kv-transfer-port=5600", "--kv-transfer-port=0"))
    p = Pebble(tmp_path / "pebble", plan)
    try:
        # a check is up until it failed often enough: what counts is that it stays so once the model is there
        wait("the model is loaded", lambda: served(port))
        wait("the checks are up", lambda: p.checks() == {"ready": "up", "hung": "up"})
        answer = ask(port, "/v1/completions", {"model": ask(port, "/v1/models")["data"][0]["id"], "prompt": "Hello", "max_tokens": 4})
        assert answer["choices"][0]["text"] and p.process.poll() is None
        # what runs may end: Pebble's own kill-delay would be five seconds
        late = {}
        body = {"model": answer["model"], "prompt": "Count: one two three", "max_tokens": 400, "ignore_eos": True}
        t = threading.Thread(target=lambda: late.update(ask(port, "/v1/completions", body)))
        t.start()
        time.sleep(0.5)
        stopped = p.tell("stop", "llm-d-decode")
        t.join(60)
        assert late["usage"]["completion_tokens"] == 400, (late, stopped)
        assert not any("SIGKILL" in line for line in p.said)
    finally:
        assert p.end() == 0


def test_a_scheduler_under_pebble(tmp_path):
    port = free_port()
    name = "llm-d-inference-scheduler-k8s"
    plan = layer(name, tmp_path, {"router-port": port}, [charms.relation(name, "decode-worker")])
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text('{"endpoints": []}')
    service = plan["services"]["llm-d-inference-scheduler"]
    service["command"] = service["command"].replace("/etc/llmd/endpoints.yaml", str(endpoints))
    p = Pebble(tmp_path / "pebble", plan)
    try:
        # without a worker: alive, and not ready
        wait("it is alive, and not ready", lambda: p.checks() == {"ready": "down", "hung": "up"})
        pid = p.tell("services")
        (tmp_path / "new").write_text(json.dumps({"endpoints": [{"name": "w", "address": "127.0.0.1", "port": "9", "labels": {}}]}))
        os.rename(tmp_path / "new", endpoints)
        wait("the file is read again", lambda: "endpoints file taken over" in p.tell("logs"), 20)
        assert p.tell("services") == pid  # and nothing was restarted
    finally:
        assert p.end() == 0
