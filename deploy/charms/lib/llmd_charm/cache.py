"""The cache manager: hears the KV events of every related worker."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import ops

from . import relations
from .base import LlmdCharm, Waiting


class CacheCharm(LlmdCharm):
    container_name = "llm-d-kv-cache"
    default_port = 8090

    def command(self) -> list[str]:
        flags = ["/usr/bin/llmd", "cache", f"--listen=0.0.0.0:{self.port}", "--insecure", f"--block-size={self.config['block-size']}",
                 f"--max-blocks={self.config['indexer-cache-size']}"]
        if self.config["hash-seed"]:
            flags.append(f"--hash-seed={self.config['hash-seed']}")
        # ready or not: a worker that is drained for a while must not restart this service
        for w in relations.workers(self, ["kv-cache-manager"], ready_only=False):
            events, replay = w["kv_events"].removeprefix("tcp://"), w["kv_replay"].removeprefix("tcp://")
            flags.append(f"--endpoint={w['name']}={w['address']}:{w['port']}@{events}@{replay}")
        return flags + self.common_flags()

    def prove(self) -> None:
        if not self.container.can_connect():
            raise Waiting("for the container")
        services = self.container.get_services(self.container_name)
        if not services or not services[self.container_name].is_running():
            raise Waiting(f"for the cache manager to start: juju debug-log --include {self.unit.name}")
        self.ask("/health/ready")

    def publish(self, ready: bool) -> None:
        address = relations.address(self)
        for relation in self.model.relations["kv-cache-manager"]:
            if address is not None:
                relation.data[self.unit].update({"endpoint": f"http://{address}:{self.port}", "mode": "index"})
            if self.unit.is_leader():
                relation.data[self.app].update({"block_size": str(self.config["block-size"]), "hash_seed": str(self.config["hash-seed"])})

    def act_index_stats(self, event: ops.ActionEvent) -> None:
        event.set_results({"index": json.dumps(self.ask("/v1/index"), indent=1)})

    def act_flush(self, _: ops.ActionEvent) -> None:
        """The index is in memory alone: a restart empties it, and the workers' replay fills it again."""
        if not self.container.can_connect():
            raise Waiting("for the container")
        self.container.restart(self.container_name)
