"""The inference scheduler: workers from relations go into its endpoints file, which it reads again by itself."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import time
import uuid
from typing import Callable

import ops
import yaml

from . import keys, probe, relations, tls
from .base import FOLDER, UID, Blocked, LlmdCharm, Waiting

ENDPOINTS, CONFIG = FOLDER + "/endpoints.yaml", FOLDER + "/config.yaml"
KEYS, ADMIN_KEYS, CANDIDATE = FOLDER + "/keys.yaml", FOLDER + "/admin-keys.yaml", FOLDER + "/keys.new"
TLS = FOLDER + "/tls"


class SchedulerCharm(LlmdCharm):
    container_name = "llm-d-inference-scheduler"
    default_port = 8080
    client_secrets: dict[int, str] = {}  # by relation: the leader's

    @property
    def port(self) -> int:
        port = int(self.config["router-port"])
        if not 1024 <= port <= 65535:
            raise Blocked(f"option router-port must be 1024..65535: juju config {self.app.name} router-port={self.default_port}")
        return port

    @property
    def probe_port(self) -> int:
        port = int(self.config["metrics-port"])
        if not 1024 <= port <= 65535 or port == self.port:
            raise Blocked(f"option metrics-port must be 1024..65535 and not router-port: juju config {self.app.name} metrics-port=9090")
        return port

    # ---- who may ask ----

    @property
    def has_keys(self) -> bool:
        return bool(self.config.get("api-key-secret") or self.config.get("admin-key-secret"))

    def credentials(self) -> dict[str, str]:
        return {**({"key": keys.own(self)["admin-key"]} if self.has_keys else {}),
                **({"ca": self.certificate().authorities} if self.scheme == "https" else {})}

    def key_files(self) -> dict[str, str]:
        """The users' rows, those of related clients and this unit's own.  What llmd would refuse never gets to its files."""
        if not self.has_keys:
            return {}
        own, found = keys.own(self), {}
        for path, option, more in (
                (KEYS, "api-key-secret", [keys.row(own["key"], "llmd-unit"), *keys.client_rows(self)]),
                (ADMIN_KEYS, "admin-key-secret", [keys.row(own["admin-key"], "llmd-unit", admin=True)])):
            found[path] = json.dumps({"keys": (keys.user_rows(self, option) or []) + more}, indent=1) + "\n"
            if not self._holds(path, found[path]):
                self._check_keys(option, found[path], admin=path == ADMIN_KEYS)
        return found

    def _check_keys(self, option: str, text: str, admin: bool) -> None:
        self.container.push(CANDIDATE, text, make_dirs=True, permissions=0o600, user_id=UID, group_id=UID)
        try:
            self.container.exec(["/usr/bin/llmd", "key", "check", CANDIDATE, *(["--admin"] if admin else [])]).wait_output()
        except ops.pebble.ExecError as e:
            raise Blocked(f"option {option}: llmd key check{' --admin' if admin else ''} refuses the rows: "
                          f"juju update-secret {self.config.get(option)} keys#file=FILE") from e
        finally:
            self.container.remove_path(CANDIDATE)

    def clients(self) -> list[ops.Relation]:
        return [r for r in self.model.relations["inference-endpoint"] if r.active]

    # ---- TLS: once a provider of certificates is related, or with tls-required, nothing is said in plain text ----

    @property
    def scheme(self) -> str:  # type: ignore[override]
        return "https" if tls.relation(self) or self.config["tls-required"] else "http"

    def certificate(self) -> tls.Material:
        found = tls.material(self)
        if tls.relation(self) is None:
            raise Blocked(f"no certificates: juju integrate {self.app.name}:certificates self-signed-certificates, or "
                          f"juju config {self.app.name} tls-required=false")
        if found is None:
            why = tls.refusal(self)
            if why:
                raise Blocked(f"{tls.relation(self).app.name} gives no certificate: {why}: juju config {self.app.name} external-hostname=NAME")
            raise Waiting(f"for a certificate: juju status {tls.relation(self).app.name}")
        return found

    def tls_files(self) -> dict[str, str]:
        if self.scheme == "http":
            return {}
        found = self.certificate()
        return {f"{TLS}/tls.key": found.key, f"{TLS}/tls.crt": found.chain}

    # ---- the workload ----

    def prepare(self) -> None:
        if self.unit.is_leader():
            self.client_secrets = keys.sync_clients(self, self.clients() if self.has_keys else [])
        names, address = [relations.fqdn(self), relations.service(self)], relations.address(self)
        names += [relations.service(self).removesuffix(end) for end in (".cluster.local", ".svc.cluster.local")]
        names += [str(self.config["external-hostname"])] * bool(self.config["external-hostname"])
        tls.request(self, names, [address] if address else [])

    def workers(self) -> list[dict]:
        out = self._drained()
        return [w for w in self._all_workers() if w["unit"] not in out]

    def _all_workers(self) -> list[dict]:
        return relations.workers(self, ["decode-worker", "prefill-worker"])

    def _drained(self) -> list[str]:
        """Units that the leader was told to leave out; every scheduler reads it."""
        peers = self.model.get_relation("peers")
        return json.loads(peers.data[self.app].get("drained") or "[]") if peers else []

    def files(self) -> dict[str, str]:
        endpoints = [{"name": w["name"], "namespace": self.model.name, "address": w["address"], "port": str(w["port"]),
                      "labels": {"llm-d.ai/role": w["role"]}} for w in self.workers()]
        found = {ENDPOINTS: json.dumps({"endpoints": endpoints}, indent=1) + "\n"}
        if self.config["scheduler-config"]:
            found[CONFIG] = self._config()
        return found | self.key_files() | self.tls_files()

    def _config(self) -> str:
        text = str(self.config["scheduler-config"])
        try:
            is_map = isinstance(yaml.safe_load(text), dict)
        except yaml.MarkedYAMLError as e:
            raise Blocked(f"option scheduler-config, line {e.problem_mark.line + 1 if e.problem_mark else 1}: {e.problem}: "
                          f"juju config {self.app.name} scheduler-config=@FILE") from e
        if not is_map:
            raise Blocked(f"option scheduler-config must be an EndpointPickerConfig: juju config {self.app.name} scheduler-config=@FILE")
        return text

    def cache(self) -> str | None:
        for relation in self.model.relations["kv-cache-manager"]:
            for unit in sorted(relation.units, key=lambda u: u.name):
                url = relation.data[unit].get("endpoint", "")
                if url.startswith("http://"):
                    return url.removeprefix("http://")
        return None

    def command(self) -> list[str]:
        flags = ["/usr/bin/llmd", "scheduler", f"--listen=0.0.0.0:{self.port}", f"--endpoints-file={ENDPOINTS}",
                 f"--shutdown-timeout={self.config['shutdown-timeout']}", "--loops=0",
                 f"--metrics-port={self.probe_port}", "--no-metrics-endpoint-auth"]
        if self.has_keys:
            flags += [f"--api-key-file={KEYS}", f"--admin-key-file={ADMIN_KEYS}"]
        if self.scheme == "https":
            flags.append(f"--tls-dir={TLS}")
        if not self.has_keys or self.scheme == "http":
            flags.append("--insecure")  # it listens beyond loopback without both
        if self.config["model-id"]:
            flags.append(f"--model={self.config['model-id']}")
        if self.config["scheduler-config"]:
            flags.append(f"--config-file={CONFIG}")
        if self.cache():
            flags.append(f"--cache={self.cache()}")
        tracing = relations.tracing_url(self)
        if tracing:
            flags += [f"--otlp-endpoint={tracing}", f"--trace-ratio={self.config['tracing-sample-ratio']}"]
        return flags + self.common_flags()

    def _apply(self) -> bool:
        is_new = super()._apply()
        if self.scheme == "http":  # the key goes once nothing reads it
            self.container.remove_path(TLS, recursive=True)
        return is_new

    def prove(self) -> None:
        if not self.container.can_connect():
            raise Waiting("for the container")
        if not self.model.relations["decode-worker"] and not self.model.relations["prefill-worker"]:
            raise Blocked(f"no workers: juju integrate {self.app.name}:decode-worker llm-d-decode-k8s")
        if not any(w["role"] == "decode" for w in self.workers()):
            raise Waiting("for a decode worker to be ready: juju status llm-d-decode-k8s")
        services = self.container.get_services(self.container_name)
        if not services or not services[self.container_name].is_running():
            if self.config["scheduler-config"]:  # the likeliest reason, and the log names the line
                raise Blocked(f"the scheduler does not run with scheduler-config: juju debug-log --include {self.unit.name}, or "
                              f"juju config {self.app.name} --reset scheduler-config")
            raise Waiting(f"for the scheduler to start: juju debug-log --include {self.unit.name}")
        self.served = probe.complete(self.ask)
        self.set_version()

    def url(self) -> str:
        for relation in self.model.relations["ingress"]:
            given = json.loads(relation.data[relation.app].get("ingress") or "{}") if relation.app else {}
            if given.get("url"):
                return str(given["url"])
        return f"{self.scheme}://{self.config['external-hostname'] or relations.service(self)}:{self.port}"

    def publish(self, ready: bool) -> None:
        relations.publish_ingress(self, self.port, self.scheme)
        if not self.unit.is_leader():
            return
        for endpoint in ("decode-worker", "prefill-worker"):
            for relation in self.model.relations[endpoint]:
                relation.data[self.app]["scheduler-url"] = self.url()
        for relation in self.clients():
            bag = relation.data[self.app]
            if ready:
                bag.update({"url": self.url(), "model": self.served})
            certificate = tls.material(self)
            if certificate:
                bag["ca"] = certificate.authorities
            elif self.scheme == "http":
                bag.pop("ca", None)
            if relation.id in self.client_secrets:
                bag["key-secret-id"] = self.client_secrets[relation.id]
            else:
                bag.pop("key-secret-id", None)

    # ---- actions ----

    def act_list_endpoints(self, event: ops.ActionEvent) -> None:
        names = {f"{w['address']}:{w['port']}": w["unit"] for w in self._all_workers()}
        parts = [p for p in self.ask("/v1/status").get("parts", []) if p.get("address") in names]
        lines = [f"{names[p['address']]} {p['address']} {p['role']} {p['state']} inflight={p.get('inflight', 0)} {p.get('reason', '')}".rstrip()
                 for p in parts]
        lines += [f"{w['unit']} {w['address']}:{w['port']} {w['role']} drained" for w in self._all_workers() if w["unit"] in self._drained()]
        event.set_results({"endpoints": "\n".join(lines), "count": len(lines)})

    def act_explain(self, event: ops.ActionEvent) -> None:
        """Sends one token's worth of the prompt and tells how it was placed."""
        request_id = str(uuid.uuid4())
        model = event.params.get("model") or self.ask("/v1/models")["data"][0]["id"]
        probe.ask(self.base_url() + "/v1/completions", {"model": model, "prompt": event.params["prompt"], "max_tokens": 1},
                  request_id=request_id, **self.credentials())
        event.set_results({"receipt": json.dumps(self.ask("/v1/receipts/" + request_id), indent=1)})

    def _set_drained(self, change: Callable[[set[str]], set[str]]) -> None:
        peers = self.model.get_relation("peers")
        if peers is None or not self.unit.is_leader():
            raise Blocked(f"the leader does this: juju run {self.app.name}/leader ...")
        peers.data[self.app]["drained"] = json.dumps(sorted(change(set(self._drained()))))
        self._reconcile()

    def act_drain_endpoint(self, event: ops.ActionEvent) -> None:
        unit, end = event.params["endpoint"], time.monotonic() + event.params.get("timeout", 0)
        worker = next((w for w in self._all_workers() if w["unit"] == unit), None)
        if worker is None:
            raise Blocked(f"{unit} is no worker here that is ready: juju run {self.unit.name} list-endpoints")
        self._set_drained(lambda out: out | {unit})
        metrics = f"http://{worker['address']}:{worker['port']}/metrics"
        while (running := probe.running(probe.text(metrics))) and time.monotonic() < end:
            time.sleep(1)
        event.set_results({"running": running})

    def act_undrain_endpoint(self, event: ops.ActionEvent) -> None:
        unit = event.params["endpoint"]
        if unit not in self._drained():
            raise Blocked(f"{unit} is not drained: juju run {self.unit.name} list-endpoints")
        self._set_drained(lambda out: out - {unit})

    def act_rotate_key(self, event: ops.ActionEvent) -> None:
        if not self.unit.is_leader():
            raise Blocked(f"the leader does this: juju run {self.app.name}/leader rotate-key")
        event.set_results({"rotated": keys.rotate_clients(self)})
        self._reconcile()
