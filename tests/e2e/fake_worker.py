"""As little of a vLLM as it takes to be used by the scheduler; its answer is its own address."""
# SPDX-License-Identifier: Apache-2.0
import http.server
import json
import threading


class Worker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        if self.path == self.server.metrics_path:
            self.reply(self.server.page, "text/plain")
        elif self.path == "/v1/models":
            self.reply(json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}))
        else:
            self.send_error(404)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(json.dumps({"choices": [{"index": 0, "text": self.server.server_address[0], "finish_reason": "stop"}]}))

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    tls = None

    def finish_request(self, request, client_address):
        """TLS is begun on the connection's own thread, so that one that does not finish it holds nobody up."""
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError:
                return
        super().finish_request(request, client_address)

    def handle_error(self, *_):
        pass


PAGE = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0\n"


def fake_worker(ip, port, tls=None, metrics_path="/metrics", kind=Worker, page=PAGE):
    """Serves until the script ends.  tls: an ssl.SSLContext."""
    server = Server((ip, port), kind)
    server.tls, server.metrics_path, server.page = tls, metrics_path, page
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
