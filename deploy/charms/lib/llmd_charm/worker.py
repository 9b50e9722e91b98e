"""Prefill and decode workers: one class, two charms."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import ops

from . import keys, probe, relations
from .base import FOLDER, UID, Blocked, Drained, LlmdCharm, Waiting

EVENTS, REPLAY, TRANSFER = 5556, 5558, 5600
MODEL = "/models/smollm2-135m.gguf"  # in the image
STORAGE = "/models-storage"
FETCHED = FOLDER + "/fetched.json"  # what was fetched, by the name that was asked for
FETCH_S = 3600


class WorkerCharm(LlmdCharm):
    role = ""

    @property
    def container_name(self) -> str:  # type: ignore[override]
        return f"llm-d-{self.role}"

    def events(self):
        return super().events() + ([self.on.models_storage_attached] if "models" in self.meta.storages else [])

    # ---- the model ----

    def model_file(self) -> str:
        name = str(self.config["model-id"])
        if not name or name.startswith("/"):
            return name or MODEL
        path = self._fetched().get(name)
        if path is None:
            raise Waiting(f"for {name} to be fetched")
        return path

    def _fetched(self) -> dict[str, str]:
        try:
            return json.loads(self.container.pull(FETCHED).read())
        except ops.pebble.PathError:
            return {}

    def prepare(self) -> None:
        """A model that is named, not a file, is fetched: to the storage if there is one, else anew with each container."""
        name = str(self.config["model-id"])
        if not name or name.startswith("/") or not self.container.can_connect():
            return
        path = self._fetched().get(name)
        if path and self.container.exists(path):
            return
        path = self._fetch(name)
        self.container.push(FETCHED, json.dumps({name: path}), make_dirs=True, permissions=0o600, user_id=UID, group_id=UID)

    def _fetch(self, name: str) -> str:
        token = keys.user_field(self, "hf-token-secret", "token") or ""
        self.unit.status = ops.MaintenanceStatus(f"fetching {name}")
        folder = STORAGE if self.model.storages["models"] else "/tmp/models"
        try:  # the token is in the environment of this one process
            out, _ = self.container.exec(["/usr/bin/llmd", "model", "fetch", name, "--quiet"], timeout=FETCH_S, user_id=UID, group_id=UID,
                                         environment={"LLMD_CACHE": folder, **({"HF_TOKEN": token} if token else {})}).wait_output()
        except (ops.pebble.ExecError, ops.pebble.ChangeError, ops.pebble.TimeoutError) as e:
            why = (getattr(e, "stderr", "") or "it took too long").strip().splitlines()[-1]
            if "HF_TOKEN" in why and not token:
                raise Blocked(f"{name} needs a token: juju add-secret hf token=TOKEN, juju grant-secret hf {self.app.name}, "
                              f"juju config {self.app.name} hf-token-secret=secret:ID") from e
            raise Blocked(f"{name} cannot be fetched ({why.replace(token, '***') if token else why}): "
                          f"juju config {self.app.name} model-id=''") from e
        return out.strip().splitlines()[-1]

    # ---- the workload ----

    def command(self) -> list[str]:
        flags = ["/usr/bin/llmd", "worker", f"--model={self.model_file()}", f"--role={self.role}", "--host=0.0.0.0", f"--port={self.port}",
                 f"--kv-transfer-port={TRANSFER}", f"--shutdown-timeout={self.config['shutdown-timeout']}", "--insecure",
                 "--kv-events-config=" + json.dumps({"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{EVENTS}",
                                                     "replay_endpoint": f"tcp://*:{REPLAY}"})]
        for option, flag in (("threads", "threads"), ("max-model-len", "max-model-len"), ("kv-cache-memory-bytes", "kv-cache-memory-bytes")):
            value = int(self.config[option])
            if value < 0:
                raise Blocked(f"option {option} must not be negative: juju config {self.app.name} {option}=0")
            if value:
                flags.append(f"--{flag}={value}")
        return flags + self.common_flags()

    def prove(self) -> None:
        if not self.container.can_connect():
            raise Waiting("for the container")
        if not self.container.exists(self.model_file()) and self.model_file().startswith("/"):
            raise Blocked(f"{self.model_file()} is not in the container: juju attach-storage, or juju config {self.app.name} model-id=''")
        services = self.container.get_services(self.container_name)
        if not services or not services[self.container_name].is_running():
            raise Waiting(f"for the worker to start: juju debug-log --include {self.unit.name}")
        self.served = probe.complete(self.ask)
        self.set_version()
        if self._drained():
            raise Drained(f"drained, {self._running()} requests left: juju run {self.unit.name} undrain")

    def publish(self, ready: bool) -> None:
        address = relations.address(self)
        if address is None:
            return
        worker = json.dumps({"schema": relations.SCHEMA, "role": self.role, "address": address, "port": self.port,
                             "fqdn": relations.fqdn(self), "model": getattr(self, "served", ""), "kv_events": f"tcp://{address}:{EVENTS}",
                             "kv_replay": f"tcp://{address}:{REPLAY}", "kv_transfer": f"{address}:{TRANSFER}", "ready": ready},
                            sort_keys=True)
        for endpoint in (f"{self.role}-worker", "kv-cache-manager"):
            for relation in self.model.relations[endpoint]:
                bag = relation.data[self.unit]
                bag["endpoint"] = f"http://{address}:{self.port}"
                bag["worker"] = worker
                if endpoint == "kv-cache-manager":
                    bag["events-endpoint"] = f"tcp://{address}:{EVENTS}"
                elif self.unit.is_leader() and getattr(self, "served", ""):
                    relation.data[self.app]["model"] = self.served

    # ---- out of service: schedulers leave out who does not say that it is ready; what runs goes on to its end ----

    def _drained(self) -> bool:
        peers = self.model.get_relation("peers")
        return bool(peers and peers.data[self.unit].get("drained"))

    def _drain(self, is_out: bool) -> None:
        peers = self.model.get_relation("peers")
        if peers is None:
            raise Waiting("for the relation of the units to each other")
        peers.data[self.unit]["drained"] = "true" if is_out else ""
        self._reconcile()

    def _running(self) -> int:
        return probe.running(probe.text(f"{self.base_url()}/metrics"))

    def act_drain(self, event: ops.ActionEvent) -> None:
        self._drain(True)
        event.set_results({"running": self._running()})

    def act_undrain(self, event: ops.ActionEvent) -> None:
        self._drain(False)
        self.act_check(event)

    def act_reset_prefix_cache(self, _: ops.ActionEvent) -> None:
        self.ask("/reset_prefix_cache", {})
