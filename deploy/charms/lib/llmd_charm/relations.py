"""Databags, written to their public schemas: values are strings, JSON where the interface says so."""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import lzma
import pathlib
import uuid
from typing import Any

import ops

SCHEMA = 1


def topology(charm: ops.CharmBase) -> dict[str, str]:
    return {"model": charm.model.name, "model_uuid": charm.model.uuid, "application": charm.app.name, "charm_name": charm.meta.name}


def publish_scrape(charm: ops.CharmBase, port: int, rules: pathlib.Path) -> None:
    """prometheus_scrape, provider: jobs in the app's bag, this unit's address in its own."""
    for relation in charm.model.relations["metrics-endpoint"]:
        unit = relation.data[charm.unit]
        unit["prometheus_scrape_unit_address"] = address(charm) or ""
        unit["prometheus_scrape_unit_name"] = charm.unit.name
        unit["prometheus_scrape_unit_path"] = ""  # a prefix of the job's path, for those behind an ingress
        if charm.unit.is_leader():
            app = relation.data[charm.app]
            app["scrape_metadata"] = json.dumps(topology(charm) | {"unit": charm.unit.name})
            app["scrape_jobs"] = json.dumps([{"metrics_path": "/metrics", "static_configs": [{"targets": [f"*:{port}"]}]}])
            groups = read_groups(rules)
            if groups:
                app["alert_rules"] = json.dumps({"groups": groups})


def read_groups(rules: pathlib.Path) -> list[Any]:
    """Rule files of the charm are JSON, which Prometheus reads as YAML."""
    groups: list[Any] = []
    for path in sorted(rules.glob("*.json")) if rules.is_dir() else []:
        groups += json.loads(path.read_text())["groups"]
    return groups


def publish_dashboards(charm: ops.CharmBase, folder: pathlib.Path) -> None:
    """grafana_dashboard, provider: each file LZMA-packed in base64, in the app's bag."""
    if not charm.unit.is_leader() or not charm.model.relations["grafana-dashboard"]:
        return
    templates = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        packed = base64.b64encode(lzma.compress(path.read_bytes())).decode()
        templates[f"file:{path.stem}"] = {"charm": charm.meta.name, "content": packed, "juju_topology": topology(charm),
                                          "inject_dropdowns": True}
    for relation in charm.model.relations["grafana-dashboard"]:
        app = relation.data[charm.app]
        text = json.dumps({"templates": templates, "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, charm.meta.name))})
        app["dashboards"] = text


def log_targets(charm: ops.CharmBase, services: list[str]) -> dict[str, Any]:
    """loki_push_api, requirer: Pebble forwards the services' output itself."""
    targets: dict[str, Any] = {}
    for relation in charm.model.relations["logging"]:
        if charm.unit.is_leader():
            relation.data[charm.app]["metadata"] = json.dumps(topology(charm) | {"unit": charm.unit.name})
        for unit in relation.units:
            endpoint = json.loads(relation.data[unit].get("endpoint") or "{}")
            if "url" in endpoint:
                targets[f"loki-{relation.id}-{unit.name.replace('/', '-')}"] = {
                    "override": "replace", "type": "loki", "location": endpoint["url"], "services": services,
                    "labels": {"juju_model": charm.model.name, "juju_application": charm.app.name, "juju_unit": charm.unit.name,
                               "juju_charm": charm.meta.name}}
    return targets


def tracing_url(charm: ops.CharmBase) -> str | None:
    """tracing, requirer: an OTLP collector over HTTP."""
    relation = charm.model.get_relation("tracing") if len(charm.model.relations["tracing"]) < 2 else charm.model.relations["tracing"][0]
    if relation is None:
        return None
    if charm.unit.is_leader():
        relation.data[charm.app]["receivers"] = json.dumps(["otlp_http"])
    if relation.app is None:
        return None
    for receiver in json.loads(relation.data[relation.app].get("receivers") or "[]"):
        if receiver.get("protocol", {}).get("name") == "otlp_http":
            return receiver.get("url")
    return None


def publish_ingress(charm: ops.CharmBase, port: int, scheme: str) -> None:
    """ingress v2, requirer: every value JSON."""
    for relation in charm.model.relations["ingress"]:
        here = address(charm)
        relation.data[charm.unit].update({"host": json.dumps(fqdn(charm)), "ip": json.dumps(here)})
        if charm.unit.is_leader():
            relation.data[charm.app].update({"model": json.dumps(charm.model.name), "name": json.dumps(charm.app.name),
                                             "port": json.dumps(port), "scheme": json.dumps(scheme)})


def address(charm: ops.CharmBase) -> str | None:
    """This pod's; it changes when the pod is placed anew, so bags are written on every event."""
    binding = charm.model.get_binding("peers")
    return str(binding.network.bind_address) if binding and binding.network.bind_address else None


def fqdn(charm: ops.CharmBase) -> str:
    return f"{charm.unit.name.replace('/', '-')}.{charm.app.name}-endpoints.{charm.model.name}.svc.cluster.local"


def service(charm: ops.CharmBase) -> str:
    """The application's, whichever units it has."""
    return f"{charm.app.name}.{charm.model.name}.svc.cluster.local"


def workers(charm: ops.CharmBase, endpoints: list[str], ready_only: bool = True) -> list[dict[str, Any]]:
    """What the units of all related worker applications say of themselves, by name."""
    found = {}
    for endpoint in endpoints:
        for relation in charm.model.relations[endpoint]:
            for unit in relation.units:
                text = relation.data[unit].get("worker")
                worker = json.loads(text) if text else None
                if worker and worker.get("schema") == SCHEMA and (worker.get("ready") or not ready_only):
                    found[unit.name] = worker | {"name": unit.name.replace("/", "-"), "unit": unit.name}
    return [found[name] for name in sorted(found)]
