"""A real Pebble runs the layers of the charms with the real binary: checks turn up, a completion goes through, what runs
may end before it is killed.  Skipped without Pebble (built from its Go module by tests/charms/run)."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import yaml

import test_charms as charms
import test_secrets as secrets

PEBBLE = os.environ.get("PEBBLE", "")
pytestmark = pytest.mark.skipif(not os.path.exists(PEBBLE), reason="no pebble: go is needed to build it")


SCHEDULER = "llm-d-inference-scheduler-k8s"


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
    return of_this_machine(name, tmp_path, charms.run(name, charms.EVENTS["update_status"],
                                                      charms.state(name, tmp_path, relations, config=config)))


def of_this_machine(name, tmp_path, after):
    """The plan that the charm made, with paths and users of this machine; its files are in tmp_path/llmd."""
    ctx, meta = charms.CONTEXTS[name]
    main = next(iter(meta["containers"]))
    plan = yaml.safe_load(after.get_container(main).plan.to_yaml())
    files = after.get_container(main).get_filesystem(ctx) / "tmp/llmd"
    if files.is_dir():
        shutil.copytree(files, tmp_path / "llmd", dirs_exist_ok=True)
    service = plan["services"][main]
    service["command"] = service["command"].replace("/usr/bin/llmd", os.environ["LLMD"]).replace("/tmp/llmd", str(tmp_path / "llmd"))
    for key in ("user-id", "group-id"):
        service.pop(key)
    return plan


def local_worker(command):
    """With a model and ports of this machine."""
    return (command.replace("/models/smollm2-135m.gguf", model()).replace("tcp://*:5556", f"tcp://*:{free_port()}")
            .replace("tcp://*:5558", f"tcp://*:{free_port()}").replace("--kv-transfer-port=5600", "--kv-transfer-port=0"))


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


def ask(port, path, body=None, key=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})})
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
    main["command"] = local_worker(main["command"])
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
    plan = layer(SCHEDULER, tmp_path, {"router-port": port, "metrics-port": free_port()}, [charms.relation(SCHEDULER, "decode-worker")])
    endpoints = tmp_path / "llmd" / "endpoints.yaml"
    endpoints.write_text('{"endpoints": []}')
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


def status(port, path, body=None, key=None):
    try:
        return 200 if ask(port, path, body, key) else None
    except urllib.error.HTTPError as e:
        return e.code
    except ValueError:  # an answer, and no JSON
        return 200
    except OSError:
        return None


def test_keys_under_pebble(tmp_path):
    """The files that the charm makes of secrets open the door to their keys alone, and a changed secret does so without a restart."""
    port, metrics = free_port(), free_port()
    key, text = secrets.rows("--tenant", "acme")
    users = secrets.user_secret(text)
    after = charms.run(SCHEDULER, charms.EVENTS["config_changed"], secrets.state(
        tmp_path, [users], {"api-key-secret": users.id, "router-port": port, "metrics-port": metrics}))
    own = next(s for s in after.secrets if s.label == "unit-keys").latest_content
    plan = of_this_machine(SCHEDULER, tmp_path, after)
    p = Pebble(tmp_path / "pebble", plan)
    body = {"model": "m", "prompt": "Hello", "max_tokens": 1}
    try:
        wait("it is alive", lambda: status(metrics, "/health") == 200)
        assert [status(port, "/v1/completions", body, k) for k in (None, "lld_aaaaaaaaaa_no")] == [401, 401]
        assert status(port, "/v1/completions", body, own["key"]) not in (None, 401)
        assert status(port, "/v1/completions", body, own["admin-key"]) not in (None, 401)  # with which the unit proves itself
        assert status(port, "/v1/status", key=own["key"]) == 404 and status(port, "/v1/status", key=own["admin-key"]) == 200
        assert status(metrics, "/metrics") == 200 and status(port, "/metrics") == 401
        new, text = secrets.rows("--tenant", "globex")
        listed = json.loads((tmp_path / "llmd/keys.yaml").read_text())
        listed["keys"][0] = yaml.safe_load(text)["keys"][0]
        (tmp_path / "llmd/new").write_text(json.dumps(listed))
        os.rename(tmp_path / "llmd/new", tmp_path / "llmd/keys.yaml")
        wait("the new key is good", lambda: status(port, "/v1/completions", body, new) not in (None, 401), 20)
        assert status(port, "/v1/completions", body, key) == 401
    finally:
        assert p.end() == 0
