"""Prefill and decode workers: one class, two charms."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from . import probe, relations
from .base import Blocked, LlmdCharm, Waiting

EVENTS, REPLAY, TRANSFER = 5556, 5558, 5600
MODEL = "/models/smollm2-135m.gguf"  # in the image


class WorkerCharm(LlmdCharm):
    role = ""

    @property
    def container_name(self) -> str:  # type: ignore[override]
        return f"llm-d-{self.role}"

    def events(self):
        return super().events() + ([self.on.models_storage_attached] if "models" in self.meta.storages else [])

    def model_file(self) -> str:
        return str(self.config["model-id"]) or MODEL

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
