"""Workers behind TLS: certificates are checked, by their own address or a given name; what is wrong is said, and a configuration
can say it for the metrics alone, on a port and a path of their own."""
# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import shutil
import ssl
import subprocess
import tempfile

from fake_worker import fake_worker
from harness import LLMD, free_port, main, request, skip, wait_for

CONFIG = """apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: metrics-data-source, parameters: {{scheme: https, path: /stats, port: {port}, insecureSkipVerify: {skip}{more}}}}}
- {{type: queue-scorer}}
"""


def openssl(folder, *args):
    subprocess.run(["openssl", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_certificates(folder):
    """ca.pem; worker.pem for 127.0.0.1 and the name worker.test; client.pem, all by ca."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(folder, "req", "-x509", *key, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    for name, alt in (("worker", "subjectAltName=IP:127.0.0.1,DNS:worker.test"), ("named", "subjectAltName=DNS:worker.test"),
                      ("client", "subjectAltName=DNS:client")):
        openssl(folder, "req", *key, "-subj", f"/CN={name}", "-addext", alt, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-copy_extensions", "copy", "-out", f"{name}.pem")
    os.mkdir(os.path.join(folder, "client"))
    for a, b in (("client.pem", "tls.crt"), ("client.key", "tls.key")):
        shutil.copy(os.path.join(folder, a), os.path.join(folder, "client", b))


def context(folder, name, wants_client=False):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(os.path.join(folder, f"{name}.pem"), os.path.join(folder, f"{name}.key"))
    if wants_client:
        c.verify_mode = ssl.CERT_REQUIRED
        c.load_verify_locations(os.path.join(folder, "ca.pem"))
    return c


@contextlib.contextmanager
def scheduler(worker, *args):
    door = free_port()
    with tempfile.TemporaryFile("w+") as log:
        p = subprocess.Popen([LLMD, "scheduler", "--listen", f"127.0.0.1:{door}", "--endpoint", f"127.0.0.1:{worker}", *args],
                             stdout=log, stderr=log)
        try:
            wait_for("the door is open", lambda: request(door, "GET", "/health").status)
            yield door
        except BaseException:
            log.seek(0)
            print(log.read()[-3000:])
            raise
        finally:
            p.terminate()
            assert p.wait(15) == 0


def part(door):
    return next(p for p in request(door, "GET", "/v1/status").json()["parts"] if p["name"] not in ("scheduler", "cache"))


def answers(door):
    wait_for("the worker is used", lambda: part(door)["state"] == "used")
    r = request(door, "POST", "/v1/completions", {"model": "m", "prompt": "hi"})
    assert r.status == 200, r.body


def says(door, reason):
    wait_for(f"the status says: {reason}", lambda: reason in part(door)["reason"], 15)
    assert part(door)["state"] != "used"


def requests_and_scrapes_over_tls():
    plain, whole, named, mutual = (free_port() for _ in range(4))
    ca = os.path.join(folder, "ca.pem")
    fake_worker("127.0.0.1", plain)
    fake_worker("127.0.0.1", whole, context(folder, "worker"))
    fake_worker("127.0.0.1", named, context(folder, "named"))
    fake_worker("127.0.0.1", mutual, context(folder, "worker", wants_client=True))
    for worker, args in ((whole, ["--worker-ca", ca]), (whole, ["--no-worker-verify"]), (named, ["--worker-ca", ca, "--worker-name", "worker.test"]),
                         (mutual, ["--worker-ca", ca, "--worker-cert-dir", os.path.join(folder, "client")])):
        with scheduler(worker, "--worker-tls", *args) as door:
            answers(door)
    for worker, args, reason in ((whole, [], "certificate is not accepted"), (named, ["--worker-ca", ca], "certificate is not accepted"),
                                 (plain, ["--worker-ca", ca], "does not speak TLS")):
        with scheduler(worker, "--worker-tls", *args) as door:
            says(door, reason)


def a_configuration_says_it_for_the_metrics():
    worker, stats = free_port(), free_port()
    fake_worker("127.0.0.1", worker, metrics_path=None)
    fake_worker("127.0.0.1", stats, context(folder, "worker"), metrics_path="/stats")
    config = os.path.join(folder, "config.yaml")

    def write(**v):
        with open(config + ".new", "w") as f:
            f.write(CONFIG.format(port=stats, **v))
        os.rename(config + ".new", config)

    write(skip="false", more=f", caCertPath: {folder}/ca.pem")
    with scheduler(worker, "--config-file", config) as door:
        answers(door)
        failures = lambda: [line for line in request(door, "GET", "/metrics").body.splitlines()
                            if line.startswith("llmd_config_reload_failures_total") and "configuration" in line and not line.endswith(" 0")]
        write(skip="false", more=f", caCertPath: {folder}/absent.pem")
        wait_for("a configuration without its file is refused", failures)
        answers(door)
        write(skip="false", more="")
        says(door, "certificate is not accepted")
        write(skip="true", more="")
        answers(door)


def wrong_flags_are_told():
    for args, want in ((["--worker-ca", "x"], "need --worker-tls"), (["--no-worker-verify"], "need --worker-tls"),
                       (["--worker-tls", "--worker-ca", "/absent.pem"], "/absent.pem")):
        r = subprocess.run([LLMD, "scheduler", "--endpoint", "127.0.0.1:9", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, timeout=10)
        assert r.returncode != 0 and want in r.stdout, (args, r.stdout)


if not shutil.which("openssl"):
    skip("openssl is not installed")
with tempfile.TemporaryDirectory() as folder:
    make_certificates(folder)
    main(wrong_flags_are_told, requests_and_scrapes_over_tls, a_configuration_says_it_for_the_metrics)
