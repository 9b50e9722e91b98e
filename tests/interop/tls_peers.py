#!/usr/bin/env python3
"""Our TLS against real peers: curl and openssl s_client as clients, s_server and Python as servers.

usage: tls_peers.py PATH_OF_TLS_PEER

Exit code 77 (skipped) when the openssl command is not there; curl's part is left out without curl.
"""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

PEER = sys.argv[1]
results = []


def check(name, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok    ' if ok else 'FAILED'} {name} {'' if ok else detail}", flush=True)


def run(*cmd, stdin=b"", seconds=20):
    return subprocess.run(cmd, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds)


def make_certificates(d):
    def openssl(*args):
        r = run("openssl", *args)
        assert r.returncode == 0, r.stderr.decode()

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=test authority", "-keyout", f"{d}/ca.key", "-out", f"{d}/ca.pem")
    # RSA for the server: the other kind of key than the unit tests use.
    for name, new in (("tls", ("rsa:2048",)), ("client", ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"))):
        openssl("req", "-newkey", *new, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{d}/{name}.key",
                "-out", f"{d}/{name}.csr")
        with open(f"{d}/{name}.ext", "w") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{d}/{name}.csr", "-CA", f"{d}/ca.pem", "-CAkey", f"{d}/ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", f"{d}/{name}.ext", "-out", f"{d}/{name}.crt")


@contextlib.contextmanager
def serving(*args):
    p = subprocess.Popen([PEER, "serve", *args], stdout=subprocess.PIPE, text=True)
    try:
        yield p.stdout.readline().split()[1]
    finally:
        p.kill()
        p.wait()


def curl_as_client(d, port):
    base = ["curl", "-sS", "--max-time", "15", "--cacert", f"{d}/ca.pem"]
    url = f"https://localhost:{port}"
    r = run(*base, url)
    check("curl: a page", r.stdout == b"hello\n", r.stderr)
    check("curl: without the authority it refuses", run("curl", "-sS", url).returncode == 60)
    for version in ("1.2", "1.3"):
        r = run(*base, f"--tlsv{version}", "--tls-max", version, url)
        check(f"curl: TLS {version}", r.stdout == b"hello\n", r.stderr)
    r = run(*base, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", url)
    check("curl: TLS 1.1 is refused", r.returncode == 35, r.returncode)
    body = os.urandom(3_000_000)
    r = run(*base, "--data-binary", "@-", "-H", "Expect:", url, stdin=body)
    check("curl: 3 MB there and back", r.stdout == body, r.stderr)
    r = run(*base, f"{url}/big")
    check("curl: 8 MiB in chunks", r.stdout == b"b" * (8 << 20), len(r.stdout))
    r = run(*base, "--limit-rate", "4M", f"{url}/big")
    check("curl: a slow reader gets all of it", r.stdout == b"b" * (8 << 20), len(r.stdout))
    r = run(*base, "-w", "%{num_connects} ", url, url, url)
    check("curl: the connection is kept", r.stdout.count(b"hello") == 3 and r.stdout.split()[-1] == b"0", r.stdout)
    r = run(*base, "--http2", "-w", "%{http_version}", url)
    check("curl: offered h2 and http/1.1 it gets the latter", r.stdout.endswith(b"1.1"), r.stdout)


def s_client(d, port, *args, stdin=b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):
    return run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", f"{d}/ca.pem",
               "-verify_return_error", "-ign_eof", *args, stdin=stdin)


def s_client_as_client(d, port):
    r = s_client(d, port, "-quiet")
    check("s_client: a page, and a clean end", r.stdout.endswith(b"hello\n") and r.returncode == 0, r.stderr)
    r = s_client(d, port)
    out = r.stdout.decode(errors="replace")
    check("s_client: TLS 1.3 by default", "TLSv1.3" in out, out[-400:])
    check("s_client: no ticket is given", "New Session Ticket" not in out and "TLS session ticket:" not in out)
    check("s_client: no early data", "Max Early Data: 0" in out or "Early data was not sent" in out)
    r = s_client(d, port, "-tls1_2")
    out = r.stdout.decode(errors="replace")
    check("s_client: 1.2 with ECDHE and AEAD", "ECDHE" in out and ("GCM" in out or "CHACHA20" in out), out[-400:])
    check("s_client: no compression", "Compression: NONE" in out)
    for args in (("-tls1_2", "-cipher", "AES256-GCM-SHA384"), ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"),
                 ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
                 ("-alpn", "spdy/3")):
        r = s_client(d, port, *args)
        check(f"s_client: refused: {' '.join(args)}", r.returncode != 0 and b"hello" not in r.stdout)
    # "R" on a line of its own asks for a renegotiation.
    r = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", stdin=b"R\n")
    check("s_client: renegotiation is refused", b"no renegotiation" in r.stderr.lower() or r.returncode != 0, r.stderr)
    # "K": a key update that asks for ours; the page after it must still come.
    r = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", f"{d}/ca.pem",
            stdin=b"K\n")
    check("s_client: a key update is answered", r.returncode == 0 and b"KEYUPDATE" in r.stderr, r.stderr)


def mutual(d):
    with serving(d, f"{d}/ca.pem") as port:
        url = f"https://localhost:{port}"
        base = ["curl", "-sS", "--max-time", "15", "--cacert", f"{d}/ca.pem"]
        if shutil.which("curl"):
            r = run(*base, "--cert", f"{d}/client.crt", "--key", f"{d}/client.key", url)
            check("mutual TLS: curl with a certificate", r.stdout == b"hello\n", r.stderr)
            check("mutual TLS: curl without one is refused", run(*base, url).returncode in (35, 56))
        r = run(PEER, "fetch", port, f"{d}/ca.pem", f"{d}/client.crt", f"{d}/client.key")
        check("mutual TLS: our client with a certificate", r.stdout == b"200 hello\n", r.stdout)
        r = run(PEER, "fetch", port, f"{d}/ca.pem")
        check("mutual TLS: our client without one", r.returncode == 2, r.stdout)


def python_server(d, answer, clean):
    """One connection: reads a request, sends the answer, ends with or without close_notify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{d}/tls.crt", f"{d}/tls.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        raw, _ = listener.accept()
        with contextlib.suppress(OSError):
            s = context.wrap_socket(raw, server_side=True)
            while b"\r\n\r\n" not in s.recv(65536):
                pass
            s.sendall(answer)
            if clean:
                s = s.unwrap()
            s.shutdown(socket.SHUT_RDWR)
            s.close()
        listener.close()

    t = threading.Thread(target=serve, daemon=True)
    t.start()
    return str(listener.getsockname()[1]), t


def our_client(d):
    until_close = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it\n"
    port, t = python_server(d, until_close, clean=True)
    r = run(PEER, "fetch", port, f"{d}/ca.pem")
    check("our client: a body until close_notify", r.stdout == b"200 all of it\n", r.stdout)
    t.join(5)
    port, t = python_server(d, until_close, clean=False)
    r = run(PEER, "fetch", port, f"{d}/ca.pem")
    check("our client: the same cut by a bare FIN is an error", r.stdout == b"failed closed\n", r.stdout)
    t.join(5)
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
    port, t = python_server(d, page, clean=False)
    r = run(PEER, "fetch", port, f"{d}/ca.pem")
    check("our client: a length needs no close_notify", r.stdout == b"200 hello\n", r.stdout)
    t.join(5)
    for ca, want in ((f"{d}/client.crt", b"failed mismatch\n"), ("-", b"200 hello\n")):
        port, t = python_server(d, page, clean=True)
        r = run(PEER, "fetch", port, ca)
        check(f"our client: authority {os.path.basename(ca)}", r.stdout == want, r.stdout)
        t.join(5)
    p = subprocess.Popen(["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", f"{d}/tls.crt", "-key",
                          f"{d}/tls.key", "-www", "-naccept", "1"], stdout=subprocess.PIPE, text=True)
    port = ""
    while not port:
        line = p.stdout.readline()
        port = line.rsplit(":", 1)[1].strip() if line.startswith("ACCEPT") else ""
    r = run(PEER, "fetch", port, f"{d}/ca.pem")
    check("our client: s_server's status page", r.stdout.startswith(b"200 ") and b"TLSv1.3" in r.stdout, r.stdout[:200])
    p.kill()
    p.wait()


def main():
    if not shutil.which("openssl"):
        print("SKIP tls_peers: no openssl command")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as d:
        make_certificates(d)
        with serving(d) as port:
            if shutil.which("curl"):
                curl_as_client(d, port)
            else:
                print("left out: curl is not installed")
            s_client_as_client(d, port)
        mutual(d)
        our_client(d)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
