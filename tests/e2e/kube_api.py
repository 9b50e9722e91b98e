"""A Kubernetes API server of few kinds in one process: lists in pages, watches, bookmarks, 410, 401, 403, 404; objects
that are read, made and replaced by name, with 409 for a version that is not the newest.

What it does follows the Kubernetes API Concepts page, so that discovery can be tested without a cluster:
resourceVersions only grow, a watch goes on from any version that is still in the log, an older one gets 410.
"""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
import time
import urllib.parse

PODS = "/api/v1/namespaces/{ns}/pods"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/{ns}/inferencepools"
OBJECTIVES = "/apis/llm-d.ai/v1alpha2/namespaces/{ns}/inferenceobjectives"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
REWRITES = "/apis/llm-d.ai/v1alpha2/namespaces/{ns}/inferencemodelrewrites"


class Api:
    def __init__(self, port, cert, namespace="llm", page=2):
        self.port, self.cert, self.namespace, self.page = port, cert, namespace, page
        self.lock = threading.Condition()
        self.version = 1000
        self.objects = {}    # path -> name -> object
        self.log = {}        # path -> [(version, type, object)]
        self.oldest = {}     # path -> first version that a watch may go on from
        self.token, self.forbidden = None, set()
        self.requests = []   # (path, query)
        self.refused_tokens = 0
        self.cut = set()     # bearer tokens whose requests get no answer, as through a broken network
        self.retry_after = None  # seconds: lists and watches get 429 with it
        self.asked = []      # monotonic times of those that got it
        self.writes = []     # (monotonic time, path, object) of what clients made and replaced
        self.server = None

    # ---- what it holds ----

    def kind(self, path):
        with self.lock:
            self.objects.setdefault(path.format(ns=self.namespace), {})

    def put(self, path, obj):
        path = path.format(ns=self.namespace)
        with self.lock:
            self.version += 1
            known = self.objects.setdefault(path, {})
            name = obj["metadata"]["name"]
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.log.setdefault(path, []).append((self.version, "MODIFIED" if name in known else "ADDED", json.dumps(obj)))
            known[name] = obj
            self.lock.notify_all()

    def delete(self, path, name):
        path = path.format(ns=self.namespace)
        with self.lock:
            self.version += 1
            obj = self.objects[path].pop(name)
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.log.setdefault(path, []).append((self.version, "DELETED", json.dumps(obj)))
            self.lock.notify_all()

    def event(self, path, kind, text):
        """Says an event of any text, which no list has."""
        with self.lock:
            self.version += 1
            self.log.setdefault(path.format(ns=self.namespace), []).append((self.version, kind, text))
            self.lock.notify_all()

    def forget(self):
        """Compaction: watches from before now get 410."""
        with self.lock:
            self.version += 1
            self.log = {}
            self.oldest = {path: self.version for path in self.objects}
            self.lock.notify_all()

    def pod(self, name, ip, ready=True, labels=None, deleting=False, phase="Running", annotations=None):
        meta = {"name": name, "namespace": self.namespace, "labels": {"app": "llm", **(labels or {})},
                "annotations": {"note": "text with \"quotes\" and \u00fc", **(annotations or {})}}
        if deleting:
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.put(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []},
                        "status": {"phase": phase, **({"podIP": ip} if ip else {}),
                                   "conditions": [{"type": "Initialized", "status": "True"},
                                                  {"type": "Ready", "status": "True" if ready else "False"}]}})

    # ---- serving ----

    def start(self):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def setup(self):
                super().setup()
                api.open.add(self.connection)

            def finish(self):
                api.open.discard(self.connection)
                super().finish()

            def do_GET(self):
                api.get(self)

            def do_POST(self):
                api.write(self)

            def do_PUT(self):
                api.write(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.open = set()
        if self.cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.cert)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """As when its machine goes: what is open breaks, nobody listens."""
        self.server.shutdown()
        self.server.server_close()
        self.server = None
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, h, status, obj, headers=None):
        body = json.dumps(obj).encode()
        h.send_response(status)
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(body)

    def refuse(self, h, status, message, headers=None):
        self.answer(h, status, {"kind": "Status", "status": "Failure", "code": status, "message": message}, headers)

    def may_not(self, h, path):
        """Whether the request was turned away."""
        token = h.headers.get("Authorization", "").removeprefix("Bearer ")
        while token in self.cut:
            time.sleep(0.05)
        if self.token and token != self.token:
            self.refused_tokens += 1
            self.refuse(h, 401, "Unauthorized")
        elif path in self.forbidden:
            self.refuse(h, 403, f"{path} is forbidden")
        else:
            return False
        return True

    def write(self, h):
        path = h.path
        body = json.loads(h.rfile.read(int(h.headers["Content-Length"])))
        if self.may_not(h, path):
            return None
        with self.lock:
            kind, name = path, body["metadata"]["name"]
            if h.command == "PUT":
                kind, name = path.rsplit("/", 1)
            known = self.objects.get(kind, {})
            old = known.get(name)
            if h.command == "PUT" and old is None:
                status = 404
            elif old is not None and body["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                status = 409
            else:
                status = 201 if old is None else 200
                self.put(kind, body)
                self.writes.append((time.monotonic(), path, body))
        if status < 400:
            self.answer(h, status, body)
        else:
            self.refuse(h, status, f"{name}: {status}")

    def get(self, h):
        url = urllib.parse.urlsplit(h.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with self.lock:
            self.requests.append((url.path, query))
            known = self.objects.get(url.path)
            kind, name = url.path.rsplit("/", 1)
            one = self.objects.get(kind, {}).get(name)
        if self.may_not(h, url.path):
            return None
        if self.retry_after is not None:
            self.asked.append(time.monotonic())
            return self.refuse(h, 429, "too many requests", {"Retry-After": str(self.retry_after)})
        if one is not None:
            return self.answer(h, 200, one)
        if known is None:
            return self.refuse(h, 404, "the server could not find the requested resource")
        if query.get("watch") == "true":
            return self.watch(h, url.path, query)
        with self.lock:
            chosen = sorted(n for n, o in known.items() if self.matches(o, query))
            at = int(query.get("continue", "0"))
            items = [known[n] for n in chosen[at:at + self.page]]
            meta = {"resourceVersion": str(self.version)}
            if at + self.page < len(chosen):
                meta["continue"] = str(at + self.page)
        self.answer(h, 200, {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})

    @staticmethod
    def matches(obj, query):
        labels = obj["metadata"].get("labels") or {}
        for part in filter(None, re.split(r",(?![^(]*\))", query.get("labelSelector", ""))):
            key, how, value = re.fullmatch(r"(!?[\w./-]+)\s*(?:(!=|==?|notin|in)\s*(.*))?", part.strip()).groups()
            values = [v.strip() for v in (value or "").strip("()").split(",")]
            has = labels.get(key.removeprefix("!"))
            if how is None and (has is None) != key.startswith("!"):
                return False
            if how in ("=", "==", "in") and has not in values or how in ("!=", "notin") and has in values:
                return False
        m = re.fullmatch(r"metadata\.name=(.*)", query.get("fieldSelector", "metadata.name=" + obj["metadata"]["name"]))
        return m.group(1) == obj["metadata"]["name"]

    def watch(self, h, path, query):
        at, server = int(query["resourceVersion"]), self.server
        end = time.monotonic() + int(query.get("timeoutSeconds", "60"))
        h.send_response(200)
        h.send_header("Content-Type", "application/json")
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()

        def send(event):
            line = (event if isinstance(event, str) else json.dumps(event)) + "\n"
            h.wfile.write(b"%x\r\n%s\r\n" % (len(line.encode()), line.encode()))
            h.wfile.flush()

        bookmark = time.monotonic() + 1
        while time.monotonic() < end:
            with self.lock:
                if self.server is not server:
                    return
                gone = at < self.oldest.get(path, 0)
                new = [e for e in self.log.get(path, []) if e[0] > at]
                if not gone and not new:
                    self.lock.wait(0.05)
            if gone:
                send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}})
                break
            for version, kind, text in new:
                at = version
                obj = json.loads(text)
                if self.matches(obj, query):
                    send(f'{{"type":"{kind}","object":{text}}}')
            if time.monotonic() > bookmark:
                bookmark = time.monotonic() + 1
                send({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(at)}}})
        h.wfile.write(b"0\r\n\r\n")
