"""The inference scheduler: workers from relations go into its endpoints file, which it reads again by itself."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from . import probe, relations
from .base import Blocked, LlmdCharm, Waiting

ENDPOINTS, CONFIG = "/etc/llmd/endpoints.yaml", "/etc/llmd/config.yaml"


class SchedulerCharm(LlmdCharm):
    container_name = "llm-d-inference-scheduler"
    default_port = 8080

    @property
    def port(self) -> int:
        port = int(self.config["router-port"])
        if not 1024 <= port <= 65535:
            raise Blocked(f"option router-port must be 1024..65535: juju config {self.app.name} router-port={self.default_port}")
        return port

    def workers(self) -> list[dict]:
        return relations.workers(self, ["decode-worker", "prefill-worker"])

    def files(self) -> dict[str, str]:
        endpoints = [{"name": w["name"], "namespace": self.model.name, "address": w["address"], "port": str(w["port"]),
                      "labels": {"llm-d.ai/role": w["role"]}} for w in self.workers()]
        found = {ENDPOINTS: json.dumps({"endpoints": endpoints}, indent=1) + "\n"}
        if self.config["scheduler-config"]:
            found[CONFIG] = str(self.config["scheduler-config"])
        return found

    def cache(self) -> str | None:
        for relation in self.model.relations["kv-cache-manager"]:
            for unit in sorted(relation.units, key=lambda u: u.name):
                url = relation.data[unit].get("endpoint", "")
                if url.startswith("http://"):
                    return url.removeprefix("http://")
        return None

    def command(self) -> list[str]:
        flags = ["/usr/bin/llmd", "scheduler", f"--listen=0.0.0.0:{self.port}", f"--endpoints-file={ENDPOINTS}",
                 f"--shutdown-timeout={self.config['shutdown-timeout']}", "--loops=0", "--insecure"]
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

    def prove(self) -> None:
        if not self.container.can_connect():
            raise Waiting("for the container")
        if not self.model.relations["decode-worker"] and not self.model.relations["prefill-worker"]:
            raise Blocked(f"no workers: juju integrate {self.app.name}:decode-worker llm-d-decode-k8s")
        if not any(w["role"] == "decode" for w in self.workers()):
            raise Waiting("for a decode worker to be ready: juju status llm-d-decode-k8s")
        services = self.container.get_services(self.container_name)
        if not services or not services[self.container_name].is_running():
            raise Waiting(f"for the scheduler to start: juju debug-log --include {self.unit.name}")
        self.served = probe.complete(self.base_url())
        self.set_version()

    def url(self) -> str:
        for relation in self.model.relations["ingress"]:
            given = json.loads(relation.data[relation.app].get("ingress") or "{}") if relation.app else {}
            if given.get("url"):
                return str(given["url"])
        return f"http://{relations.address(self) or relations.fqdn(self)}:{self.port}"

    def publish(self, ready: bool) -> None:
        relations.publish_ingress(self, self.port)
        if not self.unit.is_leader():
            return
        for endpoint in ("decode-worker", "prefill-worker"):
            for relation in self.model.relations[endpoint]:
                relation.data[self.app]["scheduler-url"] = self.url()
        for relation in self.model.relations["inference-endpoint"]:
            if ready:
                relation.data[self.app].update({"url": self.url(), "model": self.served})
