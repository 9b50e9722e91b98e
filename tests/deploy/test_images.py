#!/usr/bin/env python3
"""The container images: what make images made is small, reproducible, has no shell, is listed in full, and runs.

LLMD=FILE: the program they are made of.  Root may run them (chroot, read-only, uid 65532); others skip that by name.
"""
# SPDX-License-Identifier: Apache-2.0
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.path.insert(0, os.path.join(ROOT, "deploy", "images"))
import build  # noqa: E402
from harness import LLMD, free_port, request, wait_for  # noqa: E402

TITLES = ("llmd-scheduler", "llmd-cache", "llmd-worker", "llmd")
MB = 1_000_000
outcomes = []


def make(out, binary):
    return subprocess.run([sys.executable, os.path.join(ROOT, "deploy/images/build.py"), "--llmd", binary, "--out", out],
                          stdout=subprocess.PIPE, check=True, text=True).stdout


class Image:
    """An archive read by the format's own rules: each blob is what its digest says."""

    def __init__(self, archive):
        with tarfile.open(archive) as tar:
            self.files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
        index = json.loads(self.files["index.json"])
        self.manifest = json.loads(self.blob(index["manifests"][0]))
        self.config = json.loads(self.blob(self.manifest["config"]))
        self.packed = self.blob(self.manifest["layers"][0])
        self.raw = gzip.decompress(self.packed)
        assert self.config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(self.raw).hexdigest()]

    def blob(self, d):
        data = self.files["blobs/" + d["digest"].replace(":", "/")]
        assert len(data) == d["size"] and "sha256:" + hashlib.sha256(data).hexdigest() == d["digest"], d
        return data

    def tar(self):
        return tarfile.open(fileobj=io.BytesIO(self.raw))


def two_builds_are_one(t):
    """Another folder, another time, another copy of the program."""
    copy, again = os.path.join(t.folder, "a-copy"), os.path.join(t.folder, "again")
    shutil.copyfile(LLMD, copy)
    os.chmod(copy, 0o755)
    os.utime(copy, (1, 1))
    make(again, copy)
    for title in TITLES:
        with open(os.path.join(t.out, title + ".tar"), "rb") as a, open(os.path.join(again, title + ".tar"), "rb") as b:
            assert hashlib.sha256(a.read()).digest() == hashlib.sha256(b.read()).digest(), title
    shutil.rmtree(again)


def small_unprivileged_and_without_a_shell(t):
    for title in TITLES:
        i = t.images[title]
        c = i.config["config"]
        assert title == "llmd" or len(i.raw) < 40 * MB, (title, len(i.raw))
        assert c["User"] == "65532:65532" and c["Entrypoint"] == ["/usr/bin/llmd"] and c["Labels"]["org.opencontainers.image.title"] == title
        for label in ("version", "licenses"):
            assert c["Labels"]["org.opencontainers.image." + label]
        with i.tar() as tar:
            for m in tar:
                assert m.mode & 0o6000 == 0, f"{title}: {m.name} is setuid"
                assert m.mode & 0o002 == 0 or m.name == "tmp" or m.issym(), f"{title}: anybody may write {m.name}"
                assert m.isdir() or not re.search(r"(^|/)(sh|bash|dash|busybox|python[0-9.]*|perl|apt|dpkg)$", m.name), m.name
                assert not (m.isreg() and m.mode & 0o111) or m.name == "usr/bin/llmd" or re.search(r"\.so(\.|$)|ld-linux", m.name), m.name
            names = tar.getnames()
        assert ("usr/bin/vllm" in names) == (title in ("llmd-worker", "llmd"))
        assert ("models/smollm2-135m.gguf" in names) == (title == "llmd")
        assert {"etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt", "usr/share/doc/llmd/LICENSE"} <= set(names)


def the_bill_lists_every_library(t):
    for title in TITLES:
        with t.images[title].tar() as tar:
            inside = json.load(tar.extractfile("usr/share/sbom/llmd.spdx.json"))
            libraries = [m.name for m in tar if re.search(r"\.so(\.|$)|ld-linux", m.name)]
            binary = tar.extractfile("usr/bin/llmd").read()
            licences = {m.name for m in tar if m.name.endswith("/copyright")}
        with open(os.path.join(t.out, title + ".spdx.json")) as f:
            assert json.load(f) == inside
        assert inside["spdxVersion"] == "SPDX-2.3" and len(libraries) > 5, libraries
        listed = {p["name"]: p["versionInfo"] for p in inside["packages"]}
        for lib in libraries:
            p = build.package_of("/" + lib)
            assert listed.get(p["name"]) == p["version"], (title, lib, p)
            assert f"usr/share/doc/{p['name']}/copyright" in licences, p
        sums = [c["checksumValue"] for p in inside["packages"] if p["name"] == "llmd" for c in p["checksums"]]
        assert sums == [hashlib.sha256(binary).hexdigest()]


def a_registry_client_reads_them(t):
    if shutil.which("skopeo") is None:
        raise LookupError("skopeo is not installed")
    for title in TITLES:
        out = subprocess.run(["skopeo", "inspect", f"oci-archive:{t.out}/{title}.tar"], stdout=subprocess.PIPE, check=True, text=True).stdout
        r = json.loads(out)
        assert r["Os"] == "linux" and r["Architecture"] == build.arch() and len(r["Layers"]) == 1
        assert r["Digest"] in t.said, (r["Digest"], t.said)


# As a container runtime has it: the root read-only, small writable places, no capability, a process tree of its own.
INSIDE = """set -e
mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
for d in tmp cache; do mount -t tmpfs -o mode=1777,nosuid,nodev none "$1/$d"; done
mount -t tmpfs -o mode=755 none "$1/dev"; mkdir -m 1777 "$1/dev/shm"
for d in null urandom; do : > "$1/dev/$d"; mount --bind /dev/$d "$1/dev/$d"; done
mount -t proc none "$1/proc"
root=$1; shift
exec setpriv --no-new-privs chroot --userspec=65532:65532 "$root" "$@"
"""


def root_may():
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise LookupError("needs root, for namespaces")


def in_image(t, title, *argv):
    folder = os.path.join(t.folder, "root-" + title)
    if not os.path.exists(folder):
        with t.images[title].tar() as tar:
            tar.extractall(folder)
    env = dict(e.split("=", 1) for e in t.images[title].config["config"]["Env"])
    return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                             "sh", "-c", INSIDE, "sh", folder, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=dict(env, PATH="/usr/bin:/bin:/usr/sbin:/sbin"))


def the_whole_system_answers_in_one(t):
    root_may()
    port = free_port()
    p = in_image(t, "llmd", "/usr/bin/llmd", "up", "--model", "/models/smollm2-135m.gguf", "--listen", f"127.0.0.1:{port}",
                 "--no-first-question", "--threads", "1", "--kv-cache-memory-bytes", "67108864")
    try:
        def ready():
            assert p.poll() is None, p.stdout.read()
            return request(port, "GET", "/health/ready").status == 200
        wait_for("it is ready", ready, 60)
        mine = [n for n in filter(str.isdigit, os.listdir("/proc")) if port_of(n, port)]
        assert mine, "no process of it is seen"
        for n in mine:
            with open(f"/proc/{n}/status") as f:
                status = f.read()
            assert re.search(r"^Uid:\s+65532\s+65532", status, re.M) and re.search(r"^CapEff:\s+0+$", status, re.M), status
            assert re.search(r"^NoNewPrivs:\s+1", status, re.M)
        models = request(port, "GET", "/v1/models").json()["data"]
        r = request(port, "POST", "/v1/completions", {"model": models[0]["id"], "prompt": "One, two, three,", "max_tokens": 4,
                                                      "temperature": 0}).json()
        assert r["usage"]["completion_tokens"] == 4 and "four" in r["choices"][0]["text"], r
        os.kill(int(mine[0]), signal.SIGTERM)
        said = p.communicate(timeout=30)[0]
        assert p.returncode == 0, said
    finally:
        p.kill()  # its child dies with it


def port_of(pid, port):
    try:
        with open(f"/proc/{pid}/cmdline") as f:
            words = f.read().split("\0")
    except OSError:
        return False
    return words[0] == "/usr/bin/llmd" and "up" in words and f"127.0.0.1:{port}" in words


def manifests_of_vllm_start_the_worker(t):
    root_may()
    r = in_image(t, "llmd-worker", "/usr/bin/vllm", "serve", "/models/none.gguf", "--enforce-eager")
    said = r.communicate(timeout=20)[0]
    assert r.returncode != 0 and "--enforce-eager has no effect" in said and "/models/none.gguf" in said, said
    r = in_image(t, "llmd-scheduler", "/usr/bin/llmd", "version", "--json")
    assert json.loads(r.communicate(timeout=20)[0])["name"] == "llmd"


class Test:
    def __init__(self, folder):
        self.folder, self.out = folder, os.path.join(folder, "out")
        self.said = make(self.out, LLMD)
        self.images = {title: Image(os.path.join(self.out, title + ".tar")) for title in TITLES}


def main():
    with tempfile.TemporaryDirectory() as folder:
        t = Test(folder)
        print(t.said, end="")
        for fn in (two_builds_are_one, small_unprivileged_and_without_a_shell, the_bill_lists_every_library,
                   a_registry_client_reads_them, the_whole_system_answers_in_one, manifests_of_vllm_start_the_worker):
            begin = time.monotonic()
            try:
                fn(t)
                outcome, why = "passed", ""
            except LookupError as e:
                if type(e) is not LookupError:
                    raise
                outcome, why = "skipped", str(e)
            except (AssertionError, OSError, subprocess.SubprocessError, ValueError) as e:
                outcome, why = "failed", f"{type(e).__name__}: {e}"[:2000]
            outcomes.append(outcome)
            print(f"{outcome:8} {fn.__name__} ({time.monotonic() - begin:.1f} s) {why}", flush=True)
    print(", ".join(f"{outcomes.count(o)} {o}" for o in ("passed", "failed", "skipped")))
    sys.exit(1 if "failed" in outcomes else 0)


if __name__ == "__main__":
    main()
