"""Two whole charms without a controller: each is a process that its dispatch script starts, under hook tools that are programs, with a
real Pebble in a root made as the images are.  Pebble is the image's user, as Juju has it, so that what this user may not do fails.

Skipped without root: the roots are changed into, and the network is a namespace of its own."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

import test_charms as charms
import test_formats as formats
import test_pebble as pebble
import test_secrets as secrets
import test_tls as tls

SCHEDULER, DECODE = charms.NAMES[0], charms.NAMES[3]
UID, REQUESTS = charms.base.UID, "certificate_signing_requests"


def missing():
    if os.geteuid() != 0:
        return "not root: the charms are NOT started whole"
    absent = [t for t in ("unshare", "nsenter", "ip", "chroot") if not shutil.which(t)]
    if absent or not os.path.exists(pebble.PEBBLE):
        return f"no {', '.join(absent) or 'pebble'}: the charms are NOT started whole"
    if subprocess.run(["unshare", "-n", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "no network namespace may be made here: the charms are NOT started whole"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

# One program for every hook tool: what it answers stands in a file, what it is told goes into that file.
TOOL = """#!{python}
import json, sys, yaml
path, name, args = "{state}", sys.argv[0].rsplit("/", 1)[1], sys.argv[1:]
with open(path) as f:
    s = json.load(f)
words = [a for a in args if not a.startswith("-")]
option = lambda n: args[args.index(n) + 1] if n in args else None
out = None
if name == "config-get": out = s["config"]
elif name == "is-leader": out = True
elif name == "relation-ids": out = [f"{{words[0]}}:{{i}}" for i, r in s["relations"].items() if r["endpoint"] == words[0]]
elif name == "relation-list": out = list(s["relations"][option("-r").split(":")[-1]]["units"]) if "--app" not in args else s["relations"][option("-r").split(":")[-1]]["app"]
elif name == "relation-get":
    r = s["relations"][option("-r").split(":")[-1]]
    out = (r["units"] | r["apps"]).get(words[-1], r["set"].get("app" if "--app" in args else "unit", {{}}) if words[-1].split("/")[0] == s["unit"].split("/")[0] else {{}})
elif name == "relation-set":
    r = s["relations"][option("-r").split(":")[-1]]
    r["set"].setdefault("app" if "--app" in args else "unit", {{}}).update(yaml.safe_load(sys.stdin))
elif name == "network-get": out = {{"bind-addresses": [{{"interface-name": "lo", "addresses": [{{"value": "127.0.0.1", "cidr": "127.0.0.0/8"}}]}}]}}
elif name == "status-get": out = {{"status": "unknown", "message": ""}}
elif name == "status-set": s["status"] = words
elif name == "application-version-set": s["version"] = words[-1]
elif name == "opened-ports": out = []
elif name == "secret-add":
    content = {{k: open(p).read() for k, p in (a.split("#file=") for a in args if "#file=" in a)}}
    s["secrets"][f"secret:own{{len(s['secrets'])}}"] = {{"label": option("--label"), "content": content}}
    print(list(s["secrets"])[-1])
elif name in ("secret-get", "secret-info-get"):
    out = next((x["content"] for i, x in s["secrets"].items() if i in args or x["label"] == (option("--label") or 0)), None)
    if out is None: sys.exit("ERROR secret not found")
elif name == "storage-list": out = []
with open(path, "w") as f:
    json.dump(s, f)
if out is not None: print(json.dumps(out))
"""
TOOLS = ("config-get is-leader relation-ids relation-list relation-get relation-set network-get status-get status-set opened-ports open-port "
         "close-port application-version-set juju-log state-get state-set secret-get secret-info-get secret-add storage-list resource-get").split()
# ops looks for Pebble's socket where Juju mounts it; here it is in the root that was made.
PATCH = """import ops.model, ops.pebble
ops.model._ModelBackend.get_pebble = lambda self, path: ops.pebble.Client("{socket}")
"""

ASK = """import ssl, sys, urllib.error, urllib.request as u
url, key, ca = sys.argv[1:]
request = u.Request(url + "/v1/models", headers={"Authorization": "Bearer " + key})
try: print(u.urlopen(request, timeout=20, context=ssl.create_default_context(cadata=ca) if ca else None).status)
except urllib.error.HTTPError as e: print(e.code)
except OSError as e: print(type(e).__name__)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The root of the image llmd, made by what makes the images, with a Pebble where Juju puts one."""
    spec = importlib.util.spec_from_file_location("images_build", charms.ROOT / "deploy" / "images" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = tmp_path_factory.mktemp("image")
    build.make_root(str(folder), os.environ["LLMD"], "0.1.0", pebble.model())
    root = folder / "base"
    shutil.copytree(folder / "model", root, dirs_exist_ok=True)
    shutil.copy(pebble.PEBBLE, root / "usr" / "bin" / "pebble")
    os.chmod(root / "cache", 0o775)
    os.chown(root / "cache", UID, 0)
    return root


@pytest.fixture
def network():
    """A namespace with loopback alone; the words that run a command in it."""
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"up\n"
    yield ["nsenter", "-t", str(holder.pid), "-n"]
    holder.kill()
    holder.wait()


class Unit:
    """A charm, its container with Pebble, and what Juju would keep of it."""

    def __init__(self, name, image, network, folder, config):
        self.name, self.network, self.main = name, network, next(iter(charms.CONTEXTS[name][1]["containers"]))
        folder.mkdir()
        self.root, self.state, tools = folder / "root", folder / "state.json", folder / "tools"
        shutil.copytree(image, self.root, symlinks=True, copy_function=os.link)
        os.chmod(self.root / "tmp", 0o1777)
        os.makedirs(self.root / "pebble")
        os.chown(self.root / "pebble", UID, UID)
        self.charm = formats.prime(name, folder)
        options = yaml.safe_load((self.charm / "charmcraft.yaml").read_text())["config"]["options"]
        self.keep({"unit": f"{name}/0", "secrets": {}, "config": {k: o["default"] for k, o in options.items() if "default" in o} | config, "relations": {
            "0": {"endpoint": "peers", "app": name, "units": {}, "apps": {}, "set": {}}}})
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).write_text(TOOL.format(python=sys.executable, state=self.state))
            (tools / tool).chmod(0o755)
        socket = self.root / "pebble" / ".pebble.socket"
        (self.charm / "venv").mkdir()  # dispatch has it in the path
        (self.charm / "venv" / "sitecustomize.py").write_text(PATCH.format(socket=socket))
        self.env = {"PATH": f"{tools}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "HOME": str(folder), "JUJU_CHARM_DIR": str(self.charm),
                    "JUJU_UNIT_NAME": f"{name}/0", "JUJU_MODEL_NAME": "llm", "JUJU_MODEL_UUID": "00000000-0000-4000-8000-000000000000",
                    "JUJU_VERSION": "3.6.14"}
        enter = f'for d in proc dev; do mount --rbind /$d {self.root}/$d || exit; done; exec chroot --userspec={UID}:{UID} {self.root} "$@"'
        self.pebble = subprocess.Popen([*network, "unshare", "-m", "sh", "-c", enter, "sh", "/usr/bin/pebble", "run", "--create-dirs"],
                                       env={"PEBBLE": "/pebble", "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True)
        pebble.wait("Pebble is there", lambda: socket.exists() or self.pebble.poll() is not None, 20)
        assert self.pebble.poll() is None, self.pebble.stdout.read()

    def kept(self):
        return json.loads(self.state.read_text())

    def keep(self, state):
        self.state.write_text(json.dumps(state))

    def relate(self, number, endpoint, app, units, bag=None):
        """A relation, or what is new in it; bag is the application's."""
        state = self.kept()
        kept = state["relations"].get(number, {"set": {}})["set"]
        state["relations"][number] = {"endpoint": endpoint, "app": app, "units": units, "apps": {app: bag or {}}, "set": kept}
        self.keep(state)

    def changed(self, number):
        r = self.kept()["relations"][number]
        return self.event(f"{r['endpoint']}-relation-changed", JUJU_RELATION=r["endpoint"], JUJU_RELATION_ID=f"{r['endpoint']}:{number}",
                          JUJU_REMOTE_APP=r["app"], JUJU_REMOTE_UNIT=next(iter(r["units"])))

    def event(self, name, **env):
        ran = subprocess.run([*self.network, "./dispatch"], cwd=self.charm, env=self.env | {"JUJU_DISPATCH_PATH": f"hooks/{name}"} | env,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout
        return self.kept()

    def give(self, text):
        """The user's secret, granted."""
        self.keep(self.kept() | {"secrets": self.kept()["secrets"] | {"secret:users": {"label": "", "content": {"keys": text}}}})

    def ready(self):
        return self.event(f"{self.main}-pebble-ready", JUJU_WORKLOAD_NAME=self.main)

    def end(self):
        self.pebble.send_signal(signal.SIGTERM)
        self.pebble.wait(90)


def test_two_charms_serve_a_completion(image, network, tmp_path):
    """pebble-ready makes the worker active; the scheduler hears of it through its databag, and answers."""
    with contextlib.ExitStack() as units:
        decode = Unit(DECODE, image, network, tmp_path / "decode", {"threads": 1, "kv-cache-memory-bytes": 1 << 28, "shutdown-timeout": 5})
        units.callback(decode.end)
        decode.relate("1", "decode-worker", SCHEDULER, {f"{SCHEDULER}/0": {}})
        state = decode.ready()
        assert state["status"][0] == "active" and state["version"] == "0.1.0", state
        bag = state["relations"]["1"]["set"]["unit"]
        assert json.loads(bag["worker"])["ready"] is True

        scheduler = Unit(SCHEDULER, image, network, tmp_path / "scheduler", {"shutdown-timeout": 5})
        units.callback(scheduler.end)
        scheduler.relate("1", "decode-worker", DECODE, {f"{DECODE}/0": bag})
        state = scheduler.ready()
        assert state["status"][0] == "active", state  # said after a completion that went through both
        held = scheduler.root / charms.base.FOLDER.lstrip("/") / "endpoints.yaml"
        assert [e["port"] for e in json.loads(held.read_text())["endpoints"]] == ["8000"]
        assert (held.stat().st_uid, held.stat().st_mode & 0o777) == (UID, 0o600)

        # who may ask comes from a secret: llmd key check looks at it in the container, and a new one is followed
        def status(key, url="http://127.0.0.1:8080", ca=""):
            return subprocess.run([*network, sys.executable, "-c", ASK, url, key, ca], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        (first, text), (second, more) = (secrets.rows("--tenant", "acme") for _ in range(2))
        scheduler.give("keys: [{id: a, tenant: acme}]")
        scheduler.keep(scheduler.kept() | {"config": scheduler.kept()["config"] | {"api-key-secret": "secret:users"}})
        state = scheduler.event("config-changed")
        assert state["status"][0] == "blocked" and "llmd key check refuses the rows" in " ".join(state["status"]), state
        assert status("none") == "200"  # what was served goes on
        scheduler.give(text)
        state = scheduler.event("secret-changed", JUJU_SECRET_ID="secret:users", JUJU_SECRET_LABEL="")
        assert state["status"][0] == "active", state  # it asks with a key of its own
        assert [status(k) for k in ("none", first, second)] == ["401", "200", "401"]
        scheduler.give(more)
        scheduler.event("secret-changed", JUJU_SECRET_ID="secret:users", JUJU_SECRET_LABEL="")
        pebble.wait("the new key is good and the old one is not", lambda: [status(k) for k in (first, second)] == ["401", "200"], 20)

        # a certificate, for its address among others: served in place of plain text
        scheduler.relate("2", "certificates", "ca", {"ca/0": {}})
        state = scheduler.changed("2")
        assert state["status"] == ["waiting", "for a certificate: juju status ca"] and status(second) == "200", state
        row = tls.ROOT.answer(json.loads(state["relations"]["2"]["set"]["unit"][REQUESTS])[0]["certificate_signing_request"])
        scheduler.relate("2", "certificates", "ca", {"ca/0": {}}, {"certificates": json.dumps([row])})
        state = scheduler.changed("2")
        assert state["status"][0] == "active", state
        assert status(second, "https://127.0.0.1:8080", tls.pem(tls.ROOT.certificate)) == "200" and status(second) != "200"

        # before it stops the worker withdraws, and the scheduler sends nothing more
        withdrawn = decode.event("stop")["relations"]["1"]["set"]["unit"]
        assert json.loads(withdrawn["worker"])["ready"] is False
        scheduler.relate("1", "decode-worker", DECODE, {f"{DECODE}/0": withdrawn})
        state = scheduler.changed("1")
        assert state["status"][0] == "waiting" and "decode worker" in " ".join(state["status"]), state
        assert json.loads(held.read_text())["endpoints"] == []
