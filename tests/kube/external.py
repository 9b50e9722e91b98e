#!/usr/bin/env python3
"""The external metrics API, by what a scheduler says now: external.py ADDRESS PORT CERT KEY URL NAME=SERIES ...

It stands in for the Prometheus adapter: the sum of SERIES is given as NAME."""
# SPDX-License-Identifier: Apache-2.0
import datetime
import http.server
import json
import ssl
import sys
import urllib.request

ADDRESS, PORT, CERT, KEY, URL = sys.argv[1:6]
SERIES = dict(a.split("=") for a in sys.argv[6:])
GROUP = "external.metrics.k8s.io/v1beta1"


def now(series):
    with urllib.request.urlopen(URL, timeout=5) as r:
        lines = r.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((series + "{", series + " ")))


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, items = self.path.split("?")[0].rsplit("/", 1)[1], []
        if self.path.startswith(f"/apis/{GROUP}/namespaces/") and name in SERIES:
            stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            items = [{"metricName": name, "metricLabels": {}, "timestamp": stamp, "value": str(int(now(SERIES[name])))}]
        elif self.path.split("?")[0] not in (f"/apis/{GROUP}", "/apis/external.metrics.k8s.io", "/openapi/v2"):
            return self.send_error(404)
        kind = {"kind": "ExternalMetricValueList", "apiVersion": GROUP, "metadata": {}, "items": items} if items else {
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": []}
        body = json.dumps(kind).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Api)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERT, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
