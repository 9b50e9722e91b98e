"""Of several schedulers one leads, by a Lease: it dies, ends, is cut off from the API server, and the server goes away.
Never do two say that they are ready.  The server is kube_api.py."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import harness
from harness import LLMD, free_port, request, wait_for
from kube_api import LEASES, PODS, Api
from test_kube import Worker, certificate, write

NAME = "epp-llm-llm-epp.llm-d.ai"


class Replica:
    def __init__(self, world, n, of=None):
        self.name, self.port, self.health = f"llm-epp-5d8f7-{n}", free_port(), free_port()
        self.world, self.process = world, None
        folder = os.path.join(world.folder, self.name)
        os.mkdir(folder)
        write(os.path.join(folder, "config"), f"""apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u, namespace: llm}}}}]
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{world.api.port}", certificate-authority: ../ca.crt}}}}]
users: [{{name: u, user: {{token: {self.name}}}}}]
""")
        of = of or ["--endpoint-selector", "app=llm", "--endpoint-target-ports", str(world.worker_port)]
        self.args = ["scheduler", "--listen", f"127.0.0.1:{self.port}", *of, "--pool-namespace", "llm", "--ha-enable-leader-election",
                     "--grpc-port", str(free_port()), "--grpc-health-port", str(self.health),
                     "--kubeconfig", os.path.join(folder, "config")]

    def start(self):
        self.process = subprocess.Popen([LLMD] + self.args, stdout=self.world.log, stderr=self.world.log,
                                        env={**os.environ, "POD_NAME": self.name})
        wait_for("it listens", lambda: request(self.port, "GET", "/health").status == 200, 10)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            assert self.process.wait(10) == 0, self.process.returncode

    def ready(self):
        try:
            return request(self.port, "GET", "/readyz", timeout=2).status == 200
        except OSError:
            return False


class World:
    """The API, one worker, two schedulers, and somebody who watches that two are never ready at once."""

    def __init__(self, stack, lease=None):
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmd-elect-"))
        self.worker_port = free_port()
        self.api = Api(free_port(), certificate(self.folder))
        self.api.kind(PODS)
        self.api.kind(LEASES)
        if lease:
            self.api.put(LEASES, lease)
        stack.callback(Worker("127.0.1.1", self.worker_port).stop)
        self.api.pod("a", "127.0.1.1")
        self.api.start()
        stack.callback(lambda: self.api.server and self.api.stop())
        self.log = open(os.path.join(self.folder, "log"), "w+")
        self.replicas = [Replica(self, n) for n in ("aaaaa", "bbbbb")]
        self.both, self.over = 0, threading.Event()
        for r in self.replicas:
            stack.callback(r.end)
        watcher = threading.Thread(target=self.watch)
        stack.callback(lambda: (self.over.set(), watcher.join()))
        watcher.start()

    def watch(self):
        while not self.over.wait(0.02):
            self.both += all(r.ready() for r in self.replicas)

    def leader(self):
        ready = [r for r in self.replicas if r.ready()]
        return ready[0] if len(ready) == 1 else None

    def wait_leader(self, seconds, but=None):
        def who():
            r = self.leader()
            return r if r is not but else None
        try:
            return wait_for("one leads", who, seconds)
        except AssertionError:
            raise AssertionError(f"{self.lease()}\n{self.said()[-3000:]}") from None

    def other(self, r):
        return self.replicas[1 - self.replicas.index(r)]

    def lease(self):
        with self.api.lock:
            one = self.api.objects[LEASES.format(ns="llm")].get(NAME)
            return dict(one["spec"]) if one else None

    def said(self):
        self.log.flush()
        with open(self.log.name) as f:
            return f.read()


def health(port, service=""):
    """What the gRPC health service says."""
    name = service.encode()
    message = b"\n" + bytes([len(name)]) + name if name else b""
    r = subprocess.run(["curl", "-s", "--http2-prior-knowledge", "-m", "5", "-H", "content-type: application/grpc", "-H", "te: trailers",
                        "--data-binary", "@-", f"http://127.0.0.1:{port}/grpc.health.v1.Health/Check"],
                       input=b"\0" + len(message).to_bytes(4, "big") + message, stdout=subprocess.PIPE, check=True)
    return {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}[r.stdout[5:]]


def leads(r):
    m = re.search(r'^leader_election_master_status\{name="%s"\} (\d)' % re.escape(NAME), request(r.port, "GET", "/metrics").body, re.M)
    return int(m.group(1))


def one_leads_and_says_so_everywhere():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        a, b = w.replicas
        a.start()
        assert w.wait_leader(5) is a
        b.start()
        time.sleep(2.5)  # it has looked by then
        assert a.ready() and not b.ready()
        lease = w.lease()
        assert lease["holderIdentity"].startswith(a.name + "_") and lease["leaseDurationSeconds"] == 15, lease
        assert lease["leaseTransitions"] == 0, lease
        for key in ("acquireTime", "renewTime"):
            assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", lease[key]), lease
        assert (leads(a), leads(b)) == (1, 0)
        for page in ("/readyz", "/health/ready"):
            refused = request(b.port, "GET", page)
            assert refused.status == 503 and refused.json()["error"]["reason"] == "standby", (page, refused.body)
        assert request(b.port, "GET", "/healthz").status == 200
        part = request(b.port, "GET", "/v1/status").json()["parts"][0]
        assert (part["state"], part["reason"]) == ("standby", "another replica leads"), part
        # what comes to it all the same is answered: a proxy may not know yet
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        wait_for("it knows the worker", lambda: request(b.port, "POST", "/v1/chat/completions", chat).status == 200, 5)
        names = ("", "readiness", "liveness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "other")
        assert [health(a.health, n) for n in names] == ["SERVING"] * 5 + ["SERVICE_UNKNOWN"]
        assert [health(b.health, n) for n in names] == ["NOT_SERVING"] * 2 + ["SERVING"] + ["NOT_SERVING"] * 2 + ["SERVICE_UNKNOWN"]
        # what others wrote on the Lease stays
        path = LEASES.format(ns="llm")
        with w.api.lock:
            one = w.api.objects[path][NAME]
            w.api.put(LEASES, {**one, "metadata": {**one["metadata"], "labels": {"team": "x"}}})
        count = len(w.api.writes)
        wait_for("it renews again", lambda: len(w.api.writes) >= count + 2, 8)
        assert w.api.objects[path][NAME]["metadata"]["labels"] == {"team": "x"} and w.leader() is a
        assert w.both == 0


def the_leader_ends_or_dies():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        for r in w.replicas:
            r.start()
        first = w.wait_leader(5)

        begin = time.monotonic()
        first.process.send_signal(signal.SIGTERM)
        second = w.wait_leader(10, but=first)
        term = time.monotonic() - begin
        # it takes what still comes until proxies know, then ends
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert request(first.port, "POST", "/v1/chat/completions", chat).status == 200
        assert first.process.wait(10) == 0
        ended = time.monotonic() - begin
        assert 4.5 < ended < 8, ended
        lease = w.lease()
        assert lease["leaseTransitions"] == 1 and lease["holderIdentity"].startswith(second.name), lease
        assert "lease given away" in w.said(), w.said()
        first.start()
        time.sleep(0.5)
        assert w.leader() is second

        begin = time.monotonic()
        second.process.send_signal(signal.SIGKILL)
        second.process.wait()
        last = max(t for t, _, o in w.api.writes if o["spec"]["holderIdentity"].startswith(second.name))
        third = w.wait_leader(20, but=second)
        kill, since = time.monotonic() - begin, time.monotonic() - last
        assert w.lease()["leaseTransitions"] == 2
        second.start()
        time.sleep(2.5)
        assert w.leader() is third and w.both == 0
        print(f"another led {term:.2f} s after SIGTERM, {kill:.2f} s after SIGKILL ({since:.2f} s after the last renewal)")
        assert term < 1.9 and 14 < since < 18, (term, since)  # it looks every 2 s by itself


def who_is_cut_off_steps_back_first():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        for r in w.replicas:
            r.start()
        first = w.wait_leader(5)
        other = w.other(first)
        w.api.cut = {first.name}  # its requests get no answer, the other's do
        last = max(t for t, _, o in w.api.writes)
        wait_for("it steps back", lambda: not first.ready(), 15)
        back = time.monotonic() - last
        assert w.wait_leader(10) is other
        took = time.monotonic() - last
        w.api.cut = set()
        time.sleep(6)
        assert w.leader() is other and w.both == 0 and leads(first) == 0
        print(f"cut off: it stepped back {back:.2f} s after its last renewal, the other led after {took:.2f} s")
        assert back < 11 < 14 < took < 18, (back, took)

        # it stands still for longer than the Lease lasts
        begin = time.monotonic()
        other.process.send_signal(signal.SIGSTOP)
        wait_for("the other leads", first.ready, 20)
        stopped = time.monotonic() - begin
        other.process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        assert not other.ready() and first.ready()
        time.sleep(3)
        assert w.leader() is first
        print(f"stopped: the other led after {stopped:.2f} s")
        assert 12 < stopped < 18, stopped

        # it ends though it cannot give the Lease away
        w.api.cut = {first.name}
        time.sleep(0.5)
        begin = time.monotonic()
        first.process.terminate()
        assert first.process.wait(10) == 0
        ended = time.monotonic() - begin
        assert "could not be given away" in w.said() and 4.5 < ended < 8, ended


def the_server_goes_away():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        for r in w.replicas:
            r.start()
        first = w.wait_leader(5)
        w.api.stop()
        last = max(t for t, _, o in w.api.writes)
        time.sleep(7)
        assert first.ready()
        wait_for("it steps back", lambda: not first.ready(), 8)
        back = time.monotonic() - last
        assert "leads no more" in w.said()
        begin = time.monotonic()
        w.api.start()
        w.wait_leader(20)
        print(f"server away: it stepped back after {back:.2f} s; back again: one led after {time.monotonic() - begin:.2f} s")
        assert 9 < back < 11 and w.both == 0

        # the right is taken away: said with what to do
        w.api.forbidden.add(LEASES.format(ns="llm") + "/" + NAME)
        wait_for("it says so", lambda: "needs a Role with verbs get, list, watch, create and update on leases" in w.said(), 10)
        wait_for("nobody leads", lambda: not any(r.ready() for r in w.replicas), 15)
        w.api.forbidden.clear()
        w.wait_leader(5)

        # the Lease is deleted: made again
        w.api.delete(LEASES, NAME)
        wait_for("it is there again", w.lease, 5)
        assert w.wait_leader(5) and w.both == 0


def clocks_of_others_do_not_count():
    for wrong in ("2001-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"):
        with contextlib.ExitStack() as stack:
            w = World(stack, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": "llm"},
                              "spec": {"holderIdentity": "another", "leaseDurationSeconds": 5, "acquireTime": wrong,
                                       "renewTime": wrong, "leaseTransitions": 7}})
            begin = time.monotonic()
            w.replicas[0].start()
            w.wait_leader(10)
            took = time.monotonic() - begin
            assert 4.9 < took < 7, took
            assert w.lease()["leaseTransitions"] == 8
            print(f"renewed in {wrong[:4]} for 5 s, by its own account: taken over after {took:.2f} s")


def a_pool_has_a_lease_of_its_own():
    with contextlib.ExitStack() as stack:
        w = World(stack)
        r = Replica(w, "ccccc", ["--pool-name", "pool"])
        stack.callback(r.end)
        r.start()
        wait_for("it leads", r.ready, 5)
        assert set(w.api.objects[LEASES.format(ns="llm")]) == {"epp-llm-pool.llm-d.ai"}


def the_name_must_be_known():
    env = {k: v for k, v in os.environ.items() if k != "POD_NAME"}
    with contextlib.ExitStack() as stack:
        w = World(stack)
        for pod in (None, "nodashes", "one-dash", "-a-b"):
            r = subprocess.run([LLMD] + w.replicas[0].args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10,
                               env=env if pod is None else {**env, "POD_NAME": pod})
            assert r.returncode != 0 and "needs POD_NAME" in r.stdout, (pod, r.stdout)


if __name__ == "__main__":
    for program in ("openssl", "curl"):
        if not shutil.which(program):
            harness.skip(f"{program} is not installed")
    harness.main(one_leads_and_says_so_everywhere, the_leader_ends_or_dies, who_is_cut_off_steps_back_first, the_server_goes_away,
                 clocks_of_others_do_not_count, a_pool_has_a_lease_of_its_own, the_name_must_be_known)
