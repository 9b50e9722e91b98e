"""API keys: who asks, what it may, how much; administrators apart; a changed file takes over; TLS in front."""
# SPDX-License-Identifier: Apache-2.0
import http.client
import json
import os
import ssl
import subprocess
import tempfile

from harness import LLMD, Setup, free_port, main, request, wait_for

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4, "temperature": 0}


def new_key(*flags):
    """The key, and its row for the file."""
    r = subprocess.run([LLMD, "key", "new", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    key = next(w for w in r.stdout.split() if w.startswith("lld_"))
    return key, "\n".join(l for l in r.stdout.splitlines() if l.startswith(("- ", "  ")))


def write(path, rows):
    with open(path + ".new", "w") as f:
        f.write("keys:\n" + "\n".join(rows) + "\n")
    os.rename(path + ".new", path)


def bearer(key):
    return {"Authorization": "Bearer " + key}


def keys():
    folder = tempfile.mkdtemp(prefix="llmd-keys-")
    tenants, admins = os.path.join(folder, "keys.yaml"), os.path.join(folder, "admins.yaml")
    acme, acme_row = new_key("--tenant", "acme")
    other, other_row = new_key("--tenant", "other", "--models", "something-else")
    few, few_row = new_key("--tenant", "few")
    root, root_row = new_key("--admin")
    write(tenants, [acme_row, other_row, few_row + "\n  requests_per_minute: 2"])
    write(admins, [root_row])
    with Setup(["both"]) as s:
        door, scrape = free_port(), free_port()
        log = open(os.path.join(folder, "log"), "w")
        child = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--endpoint", f"127.0.0.1:{s.workers[0].port}",
                                  "--api-key-file", tenants, "--admin-key-file", admins, "--tls-self-signed", "--metrics-port", str(scrape),
                                  "--access-log", os.path.join(folder, "access")], stdout=log, stderr=log)
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE

        def call(method, path, body=None, headers=None):
            c = http.client.HTTPSConnection("127.0.0.1", door, timeout=30, context=trust)
            c.request(method, path, body=json.dumps(body) if body else None, headers=headers or {})
            r = c.getresponse()
            text = r.read().decode()
            c.close()
            return r.status, text, r.headers

        def ready():
            try:
                return call("GET", "/health/ready")[0] == 200
            except OSError:
                return False

        try:
            wait_for("the door is ready", ready, 20)
            ask = dict(ASK, model=s.model)
            assert call("POST", CHAT, ask, bearer(acme))[0] == 200
            # nobody, a wrong secret, a wrong id: one and the same answer
            no = [call("POST", CHAT, ask, h) for h in ({}, bearer(acme[:-1] + ("A" if acme[-1] != "A" else "B")), bearer("lld_nobody_" + "x" * 43))]
            assert all(n[2]["WWW-Authenticate"] == "Bearer" for n in no)
            assert {n[0] for n in no} == {401} and len({n[1] for n in no}) == 1, no
            status, text, _ = call("POST", CHAT, ask, bearer(other))
            assert status == 403 and json.loads(text)["error"]["reason"] == "permission", text
            # a tenant's rate; others are not held by it
            got = [call("POST", CHAT, ask, bearer(few)) for _ in range(3)]
            assert [g[0] for g in got] == [200, 200, 429], [g[:2] for g in got]
            assert [g[2]["x-ratelimit-remaining-requests"] for g in got] == ["1", "0", "0"], [dict(g[2]) for g in got]
            assert len(got[2][2].get_all("Retry-After")) == 1
            assert int(got[2][2]["Retry-After"]) >= 1 and json.loads(got[2][1])["error"]["reason"] == "rate_limit"
            assert call("POST", CHAT, ask, bearer(acme))[0] == 200
            # the system's own pages are the administrators'
            for path in ("/metrics", "/v1/status"):
                assert call("GET", path, None, bearer(acme))[0] == 404
                assert call("GET", path, None, bearer(root))[0] == 200
            assert call("GET", "/v1/models", None, bearer(acme))[0] == 200
            # the tools show a key, and trust whom they are told to
            ca = os.path.join(folder, "ca.pem")
            with open(ca, "w") as f:
                f.write(ssl.get_server_certificate(("127.0.0.1", door)))
            tool = lambda key, *argv, trusted=ca: subprocess.run(
                [LLMD, *argv, "--url", f"https://localhost:{door}"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "LLMD_API_KEY": key, "LLMD_CA_FILE": trusted})
            assert "LLMD_API_KEY" in tool("", "status").stderr and tool(acme, "status", "--json").returncode == 1
            assert any(p["state"] == "used" for p in json.loads(tool(root, "status", "--json").stdout)["parts"])
            r = tool(acme, "chat", "--ask", "Say yes.", "--max-tokens", "4")
            assert r.returncode == 0 and r.stdout.strip(), r.stderr
            r = tool(acme, "chat", "--ask", "Say yes.", trusted="")
            assert r.returncode == 1 and "LLMD_CA_FILE" in r.stderr and not r.stdout.strip(), r.stderr
            # the scrapers' door: nothing but pages, and the same rule
            assert request(scrape, "GET", "/healthz").status == 200 and request(scrape, "GET", "/readyz").status == 200
            assert request(scrape, "GET", "/metrics").status == 404
            assert "llm_d_epp_request_total" in request(scrape, "GET", "/metrics", headers=bearer(root)).body
            assert request(scrape, "GET", "/debug/plugins/state").status == 404
            assert request(scrape, "GET", "/debug/plugins/state", headers=bearer(root)).json() == {}
            assert request(scrape, "POST", CHAT, ask, bearer(acme)).status == 405
            assert request(scrape, "GET", "/v1/models", headers=bearer(root)).status == 404
            # a key is taken back while it runs; a broken file changes nothing
            write(tenants, [acme_row + "\n  tennant: x"])
            write(tenants, [other_row, few_row])
            wait_for("the key is void", lambda: call("POST", CHAT, ask, bearer(acme))[0] == 401, 10, 0.3)
            lines = [json.loads(l) for l in open(os.path.join(folder, "access"))]
            assert {l["tenant"] for l in lines} >= {"acme", "few"}
            assert acme not in open(log.name).read() + json.dumps(lines)
        finally:
            child.terminate()
            child.wait(10)


main(keys)
