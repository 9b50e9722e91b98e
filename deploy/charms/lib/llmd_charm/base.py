"""One charm of llmd: every event ends in the same reconcile, one place says the status.

A subclass names its container, builds the layer, writes its databags and says what is missing.  Active is said only after
prove() went through, which asks the workload itself.
"""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import pathlib
import shlex
import tarfile
import tempfile
import time
from typing import Any

import ops

from . import probe, relations

log = logging.getLogger(__name__)
LEVELS = ("error", "warn", "info", "debug")
FOLDER = "/tmp/llmd"  # of the container; it has no other folder that the workload's user may write to
UID = 65532


class Blocked(Exception):
    """A person has to do something; the text says what."""


class Waiting(Exception):
    """It comes by itself."""


class Drained(Exception):
    """Somebody took the unit out of service on purpose."""


PROBLEMS = (Blocked, Waiting, Drained, probe.ProbeError)


class LlmdCharm(ops.CharmBase):
    container_name = ""
    default_port = 8000
    scheme = "http"
    patience_s = 10  # for what was just started, or given files to read again

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.container = self.unit.get_container(self.container_name)
        self.problem: Exception | None = None
        self.proved = False
        for event in self.events():
            framework.observe(event, self._reconcile)
        framework.observe(self.on.stop, self._withdraw)
        framework.observe(self.on.collect_unit_status, self._collect_status)
        framework.observe(self.on.secret_remove, self._secret_unused)
        for name in self.meta.actions:
            framework.observe(self.on[name].action, self._act)

    def events(self) -> list[ops.BoundEvent]:
        on = self.on
        found = [on.install, on.start, on.config_changed, on.upgrade_charm, on.update_status, on.leader_elected, on.secret_changed,
                 on[self.container_name].pebble_ready, on[self.container_name].pebble_check_recovered,
                 on[self.container_name].pebble_check_failed]
        for name in self.meta.relations:
            r = on[name]
            found += [r.relation_created, r.relation_joined, r.relation_changed, r.relation_departed, r.relation_broken]
        return found

    # ---- for subclasses ----

    def command(self) -> list[str]:
        raise NotImplementedError

    def prepare(self) -> None:
        """What command() and files() are made of and others see: secrets of our own, requests in databags."""

    def files(self) -> dict[str, str]:
        """Content by path; the running service reads them again when they change."""
        return {}

    def publish(self, ready: bool) -> None:
        """Databags of its own relations."""

    def credentials(self) -> dict[str, str]:
        """key and ca with which the unit asks its own workload."""
        return {}

    def prove(self) -> None:
        """Raises Blocked, Waiting or probe.ProbeError unless the workload does what it is for."""
        raise NotImplementedError

    # ---- options ----

    @property
    def probe_port(self) -> int:
        """Where health and metrics are answered in plain text and without a key."""
        return self.port

    @property
    def port(self) -> int:
        port = int(self.config.get("port", self.default_port))
        if not 1024 <= port <= 65535:
            raise Blocked(f"option port must be 1024..65535: juju config {self.app.name} port={self.default_port}")
        return port

    def common_flags(self) -> list[str]:
        level = str(self.config["log-level"])
        if level not in LEVELS:
            raise Blocked(f"option log-level must be one of {', '.join(LEVELS)}: juju config {self.app.name} log-level=info")
        try:
            extra = shlex.split(str(self.config["extra-args"]))
        except ValueError as e:
            raise Blocked(f"option extra-args: {e}: juju config {self.app.name} extra-args=''") from e
        return [f"--log-level={level}", *extra]

    # ---- reconciling ----

    def layer(self) -> ops.pebble.LayerDict:
        name = self.container_name
        return {
            "summary": self.meta.name,
            "services": {name: {
                "override": "replace", "startup": "enabled", "command": shlex.join(self.command()), "user-id": UID, "group-id": UID,
                "kill-delay": f"{int(self.config['shutdown-timeout']) + 10}s", "on-check-failure": {"hung": "restart"},
                "environment": {"HOME": "/tmp", "XDG_CACHE_HOME": "/tmp", "OTEL_SERVICE_NAME": self.app.name}}},
            "checks": {
                "ready": {"override": "replace", "level": "ready", "period": "5s", "threshold": 2,
                          "http": {"url": f"http://localhost:{self.probe_port}/health/ready"}},
                # alive is not ready: a model may take long to load, and a busy worker answers this all the same
                "hung": {"override": "replace", "period": "10s", "threshold": 6, "http": {"url": f"http://localhost:{self.probe_port}/health"}}},
            "log-targets": relations.log_targets(self, [name]),
        }

    def _secret_unused(self, event: ops.SecretRemoveEvent) -> None:
        event.remove_revision()

    def _reconcile(self, _: ops.EventBase | None = None) -> None:
        self.problem, self.proved = None, False
        try:
            self.prepare()
            is_new = self._apply()
            self._prove(self.patience_s if is_new else 0)
            self.proved = True
        except PROBLEMS as e:
            self.problem = e
        self._publish_all()

    def _withdraw(self, _: ops.StopEvent) -> None:
        """Before it stops: who reads the databags sends nothing new, and Pebble's kill-delay lets the rest end."""
        self.problem = Waiting("for what runs to end")
        self.publish(False)

    def _prove(self, seconds: float) -> None:
        """No event tells that what was just started answers, unless a check failed before."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.prove()
            except probe.ProbeError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.5)

    def _apply(self) -> bool:
        """Whether anything is new to the workload."""
        if not self.container.can_connect():
            raise Waiting("for the container")
        layer, before = self.layer(), self.container.get_plan().to_dict()
        pushed = {path: text for path, text in self.files().items() if not self._holds(path, text)}
        for path, text in pushed.items():
            self.container.push(path, text, make_dirs=True, permissions=0o600, user_id=UID, group_id=UID)
        self.container.add_layer(self.container_name, ops.pebble.Layer(layer), combine=True)
        self.container.replan()
        self.unit.set_ports(self.port)
        return bool(pushed) or self.container.get_plan().to_dict() != before

    def _holds(self, path: str, text: str) -> bool:
        try:
            return self.container.pull(path).read() == text
        except ops.pebble.PathError:
            return False

    def _publish_all(self) -> None:
        here = pathlib.Path(self.charm_dir)
        try:
            relations.publish_scrape(self, self.probe_port, here / "alerts")
        except Blocked:
            return  # it is the problem that is shown
        relations.publish_dashboards(self, here / "dashboards")
        self.publish(self.proved)

    def _collect_status(self, event: ops.CollectStatusEvent) -> None:
        if self.problem is None and not self.proved:  # an event that does not reconcile, such as an action
            try:
                self.prove()
            except PROBLEMS as e:
                self.problem = e
        if isinstance(self.problem, Blocked):
            event.add_status(ops.BlockedStatus(str(self.problem)))
        elif isinstance(self.problem, Drained):
            event.add_status(ops.MaintenanceStatus(str(self.problem)))
        elif self.problem is not None:
            event.add_status(ops.WaitingStatus(str(self.problem)))
        else:
            event.add_status(ops.ActiveStatus())

    def base_url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def ask(self, path: str, body: dict | None = None) -> dict:
        return probe.ask(self.base_url() + path, body, **self.credentials())

    def set_version(self) -> None:
        version = str(self.ask("/version").get("version", ""))
        self.unit.set_workload_version(version)

    # ---- actions ----

    def _act(self, event: ops.ActionEvent) -> None:
        """The method act_NAME; what keeps it from its work is the action's failure."""
        try:
            getattr(self, "act_" + event.handle.kind.removesuffix("_action"))(event)
        except PROBLEMS as e:
            event.fail(str(e))

    def act_check(self, event: ops.ActionEvent) -> None:
        state, reason = "active", ""
        try:
            self.prove()
        except Blocked as e:
            state, reason = "blocked", str(e)
        except Drained as e:
            state, reason = "drained", str(e)
        except (Waiting, probe.ProbeError) as e:
            state, reason = "waiting", str(e)
        event.set_results({"state": state, "reason": reason})

    def act_show_config(self, event: ops.ActionEvent) -> None:
        shown: dict[str, Any] = {k: "***" if "secret" in k or "token" in k else str(v) for k, v in self.config.items()}
        event.set_results({"config": "\n".join(f"{k}={shown[k]}" for k in sorted(shown)),
                           "command": shlex.join(self.command())})

    def act_get_endpoint(self, event: ops.ActionEvent) -> None:
        event.set_results({"url": f"{self.scheme}://{relations.address(self) or relations.fqdn(self)}:{self.port}", "fqdn": relations.fqdn(self)})

    def act_list_models(self, event: ops.ActionEvent) -> None:
        models = [m["id"] for m in self.ask("/v1/models").get("data") or []]
        event.set_results({"models": "\n".join(models), "count": len(models)})

    def act_collect_diagnostics(self, event: ops.ActionEvent) -> None:
        """One archive beside the charm, where there is a tar to fetch it with: the plan, which holds no secret, services, checks and what the workload says of itself."""
        if not self.container.can_connect():
            raise Waiting("for the container")
        parts = {"plan.yaml": self.container.get_plan().to_yaml(),
                 "services.txt": "\n".join(f"{n} {s.current}" for n, s in self.container.get_services().items()),
                 "checks.txt": "\n".join(f"{n} {c.status} failures={c.failures}" for n, c in self.container.get_checks().items())}
        for name, path in (("metrics.txt", "/metrics"), ("health.txt", "/health/ready")):
            try:
                parts[name] = probe.text(f"http://localhost:{self.probe_port}{path}")
            except probe.ProbeError as e:
                parts[name] = str(e)
        path = pathlib.Path(tempfile.gettempdir()) / "llmd-diagnostics.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for name, text in parts.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        event.set_results({"path": str(path), "get": f"juju scp {self.unit.name}:{path} ."})
