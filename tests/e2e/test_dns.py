"""Workers by DNS name: every address behind it is one, new ones come and old ones go as the name changes, and a resolver
that fails takes none away.  Runs in network and mount namespaces of its own, with a name server of its own."""
# SPDX-License-Identifier: Apache-2.0
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from fake_worker import fake_worker
from harness import LLMD, main, request, skip, wait_for

INSIDE = "LLMD_TEST_DNS_INSIDE"
PORT, DOOR = 8000, 8080
records, asked = {}, set()  # name -> addresses; None: no answer is given


def own_namespaces():
    """The script again, in namespaces where /etc/resolv.conf and port 53 are its own."""
    if os.environ.get(INSIDE):
        return
    test = subprocess.run(["unshare", "--map-root-user", "--net", "--mount", "true"], stderr=subprocess.PIPE, text=True)
    if test.returncode != 0:
        skip(f"no namespaces of one's own here: {test.stderr.strip()}")
    os.execvpe("unshare", ["unshare", "--map-root-user", "--net", "--mount", sys.executable, *sys.argv],
               dict(os.environ, **{INSIDE: "1"}))


def loopback_up():
    with socket.socket() as s:
        request_ = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")  # SIOCSIFFLAGS: up, running
        fcntl.ioctl(s, 0x8914, request_)


def own_resolver(folder):
    for name, text in (("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), ("hosts", "127.0.0.1 localhost\n"),
                       ("nsswitch.conf", "hosts: files dns\n")):
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
        subprocess.run(["mount", "--bind", os.path.join(folder, name), f"/etc/{name}"], check=True)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 53))

    def run():
        while True:
            query, peer = s.recvfrom(512)
            at, labels = 12, []
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, kind = ".".join(labels), query[at + 2]
            asked.add(name)
            found = records.get(name, [])
            if found is None:
                continue
            ips = [socket.inet_aton(ip) for ip in found if kind == 1]
            head = query[:2] + struct.pack(">HHHHH", 0x8580 | (0 if found else 3), 1, len(ips), 0, 0)
            s.sendto(head + query[12:at + 5] + b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + ip for ip in ips), peer)

    threading.Thread(target=run, daemon=True).start()


def served_by(n=24):
    r = [request(DOOR, "POST", "/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 1}) for _ in range(n)]
    assert all(x.status == 200 for x in r), [x.body for x in r if x.status != 200][:1]
    return {x.json()["choices"][0]["text"] for x in r}


def endpoints():
    parts = request(DOOR, "GET", "/v1/status").json()["parts"]
    return {(p["address"], p["role"]) for p in parts if p["name"] not in ("scheduler", "cache")}


def the_name_is_followed():
    records["workers.test"] = ["127.0.1.1", "127.0.1.2", "127.0.1.1"]
    log = tempfile.NamedTemporaryFile("w+", prefix="llmd-e2e-", suffix=".log")
    p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{DOOR}", "--endpoint-dns", f"workers.test:{PORT}",
                          "--endpoint-dns", f"decode.test:{PORT}=decode", "--endpoint", f"127.0.1.1:{PORT}", "--dns-ms", "200",
                          "--strategy", "round_robin"], stdout=log, stderr=log)
    said = lambda: open(log.name).read()
    try:
        wait_for("both addresses serve", lambda: served_by() == {"127.0.1.1", "127.0.1.2"})
        assert len(endpoints()) == 2, endpoints()  # the flag's and the name's are one
        wait_for("an unknown name is said", lambda: 'cannot resolve name=decode.test' in said())
        records["workers.test"] = ["127.0.1.3"]
        wait_for("a new address serves, an old one does not", lambda: served_by() == {"127.0.1.1", "127.0.1.3"})
        records["decode.test"] = ["127.0.1.2"]
        wait_for("the role is the flag's", lambda: (f"127.0.1.2:{PORT}", "decode") in endpoints())
        for broken in ([], None):
            records["workers.test"] = broken
            before = said().count("cannot resolve name=workers.test")
            wait_for("the failure is said", lambda: said().count("cannot resolve name=workers.test") > before or broken is None)
            asked.clear()
            wait_for("it is asked for still", lambda: "workers.test" in asked)
            assert "127.0.1.3" in served_by()
        records["workers.test"] = ["127.0.1.1"]
        wait_for("the resolver is believed again", lambda: (f"127.0.1.3:{PORT}", "both") not in endpoints(), 15)
    except BaseException:
        print(said()[-4000:])
        raise
    finally:
        p.terminate()
        assert p.wait(15) == 0
        log.close()


def wrong_flags_are_told():
    for args, want in [(["--endpoint-dns", "workers.test"], "must be NAME:PORT or NAME:PORT=ROLE"),
                       (["--endpoint-dns", ":8000"], "must be NAME:PORT"),
                       (["--endpoint-dns", "workers.test:8000=cook"], "the role must be both, prefill or decode")]:
        r = subprocess.run([LLMD, "scheduler", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        assert r.returncode != 0 and want in r.stdout, (args, r.stdout)


own_namespaces()
loopback_up()
with tempfile.TemporaryDirectory() as folder:
    own_resolver(folder)
    for address in ("127.0.1.1", "127.0.1.2", "127.0.1.3"):
        fake_worker(address, PORT)
    try:
        main(wrong_flags_are_told, the_name_is_followed)
    finally:
        for name in ("resolv.conf", "hosts", "nsswitch.conf"):
            subprocess.run(["umount", f"/etc/{name}"])
