"""Secrets of users and of the charms: who gets which, what follows a change, and that none of them shows anywhere else."""
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import re
import subprocess

import ops
import pytest
import yaml
from ops import testing

import test_charms as charms
from test_charms import workload  # noqa: F401

SCHEDULER = charms.NAMES[0]
MAIN = "llm-d-inference-scheduler"
LLMD = os.environ["LLMD"]


def rows(*argv):
    """A key and its file, as `llmd key new` gives them."""
    out = subprocess.run([LLMD, "key", "new", *argv], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.search(r"lld_\w+", out)[0], out[out.index("keys:"):]


def user_secret(text, field="keys"):
    return testing.Secret({field: text})


def state(tmp_path, secrets, options, relations=(), check=0, **kw):
    before = charms.state(SCHEDULER, tmp_path, [charms.relation(SCHEDULER, "decode-worker"), *relations], config=options, **kw)
    main = dataclasses.replace(before.get_container(MAIN), execs={testing.Exec(["/usr/bin/llmd", "key", "check"], return_code=check)})
    return dataclasses.replace(before, containers={main}, secrets=set(secrets))


def file(after, name):
    return after.get_container(MAIN).get_filesystem(charms.CONTEXTS[SCHEDULER][0]) / "tmp/llmd" / name


def accepted(path, *argv):
    return subprocess.run([LLMD, "key", "check", str(path), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_keys_come_from_secrets_and_stay_out_of_everything_else(tmp_path, workload):  # noqa: F811
    key, text = rows("--tenant", "acme", "--expires", "2031-01-31")
    _, admins = rows("--admin")
    users, administrators = user_secret(text), user_secret(admins)
    client = charms.relation(SCHEDULER, "inference-endpoint", app="chat")
    before = state(tmp_path, [users, administrators], {"api-key-secret": users.id, "admin-key-secret": administrators.id}, [client])
    after = charms.run(SCHEDULER, charms.EVENTS["config_changed"], before)
    assert after.unit_status == testing.ActiveStatus(), after.unit_status
    for name, more in (("keys.yaml", []), ("admin-keys.yaml", ["--admin"])):
        path = file(after, name)
        assert accepted(path, *more).returncode == 0, accepted(path, *more).stdout
        assert path.stat().st_mode & 0o077 == 0
    assert not file(after, "keys.new").exists()
    listed = json.loads(file(after, "keys.yaml").read_text())["keys"]
    assert [r["tenant"] for r in listed] == ["acme", "llmd-unit", "chat"] and listed[0]["expires"] == "2031-01-31"
    assert {"--api-key-file=/tmp/llmd/keys.yaml", "--admin-key-file=/tmp/llmd/admin-keys.yaml"} <= set(charms.words(SCHEDULER, after))
    # the client's key is in a secret that is granted to it alone; databags know its id
    own = {s.label: s for s in after.secrets if s.label}
    granted = own[f"client-{client.id}"]
    assert granted.owner == "app" and granted.remote_grants == {client.id: {"chat"}}
    assert after.get_relation(client.id).local_app_data["key-secret-id"] == granted.id
    assert workload["key"] == "Bearer " + own["unit-keys"].latest_content["admin-key"] and own["unit-keys"].owner == "unit"
    # nothing secret in the plan, in databags, in the status, in an action's answer
    ctx = charms.CONTEXTS[SCHEDULER][0]
    ctx.run(ctx.on.action("show-config"), before)
    shown = " ".join([after.get_container(MAIN).plan.to_yaml(), str(after.unit_status), json.dumps(ctx.action_results),
                      *(json.dumps({**r.local_app_data, **r.local_unit_data}) for r in after.relations)])
    for content in (s.latest_content for s in own.values()):
        assert not [v for v in content.values() if v in shown or v.split("_")[2] in shown]
    # and the second time nothing is made again
    again = charms.run(SCHEDULER, charms.EVENTS["update_status"], after)
    assert file(again, "keys.yaml").read_text() == json.dumps({"keys": listed}, indent=1) + "\n"
    assert {s.id for s in again.secrets} == {s.id for s in after.secrets}


def test_a_changed_secret_is_followed_without_a_restart(tmp_path):
    _, text = rows("--tenant", "acme")
    users = user_secret(text)
    options = {"api-key-secret": users.id}
    first = charms.run(SCHEDULER, charms.EVENTS["config_changed"], state(tmp_path, [users], options))
    _, other = rows("--tenant", "globex")
    changed = dataclasses.replace(first.get_secret(id=users.id), latest_content={"keys": other})
    before = dataclasses.replace(first, secrets={changed, *(s for s in first.secrets if s.id != users.id)})
    after = charms.run(SCHEDULER, lambda ctx: ctx.on.secret_changed(changed), before)
    assert [r["tenant"] for r in json.loads(file(after, "keys.yaml").read_text())["keys"]] == ["globex", "llmd-unit"]
    assert charms.plan(SCHEDULER, after).to_dict() == charms.plan(SCHEDULER, first).to_dict()


@pytest.mark.parametrize("option", ["api-key-secret", "admin-key-secret"])
def test_missing_access_names_the_command(option, tmp_path):
    after = charms.run(SCHEDULER, charms.EVENTS["config_changed"], state(tmp_path, [], {option: "secret:d0c1b2a3e4f5g6h7i8j9"}))
    assert after.unit_status.name == "blocked"
    assert f"juju grant-secret secret:d0c1b2a3e4f5g6h7i8j9 {SCHEDULER}" in after.unit_status.message
    assert charms.plan(SCHEDULER, after).command == "old"  # what ran before runs on: no door opens by itself


def test_a_grant_that_was_taken_back(tmp_path, monkeypatch):
    """Juju answers with a denial then, which ops passes on as its general error."""
    def get_secret(self, *, id=None, label=None):
        raise ops.ModelError("ERROR permission denied") if id else ops.SecretNotFoundError
    monkeypatch.setattr(ops.Model, "get_secret", get_secret)
    users = user_secret("keys: []")
    after = charms.run(SCHEDULER, charms.EVENTS["config_changed"], state(tmp_path, [users], {"api-key-secret": users.id}))
    assert after.unit_status.name == "blocked" and f"juju grant-secret {users.id} {SCHEDULER}" in after.unit_status.message


@pytest.mark.parametrize("text,field,check,says", [
    ("keys: []", "wrong", 0, "has no field keys"),
    ("keys: {", "keys", 0, "must be a key file"),
    ("lld_aaaaaaaaaa_hidden", "keys", 0, "must be a key file"),
    ("keys: 7", "keys", 0, "must be a key file"),
    ("keys:\n- id: a\n  tenant: t\n  sha256: hidden\n", "keys", 1, "llmd key check refuses"),
])
def test_a_wrong_secret_never_gets_to_the_files(text, field, check, says, tmp_path):
    secret = user_secret(text, field)
    after = charms.run(SCHEDULER, charms.EVENTS["config_changed"],
                       state(tmp_path, [secret], {"api-key-secret": secret.id}, check=check))
    assert after.unit_status.name == "blocked" and says in after.unit_status.message, after.unit_status
    assert f"juju update-secret {secret.id} keys#file=" in after.unit_status.message and "hidden" not in after.unit_status.message
    assert not file(after, "keys.yaml").exists() and not file(after, "keys.new").exists()


def test_a_client_that_leaves_loses_its_key(tmp_path):
    _, text = rows("--tenant", "acme")
    users = user_secret(text)
    client = charms.relation(SCHEDULER, "inference-endpoint", app="chat")
    first = charms.run(SCHEDULER, charms.EVENTS["config_changed"], state(tmp_path, [users], {"api-key-secret": users.id}, [client]))
    mine = first.get_relation(client.id)
    after = charms.run(SCHEDULER, lambda ctx: ctx.on.relation_broken(mine), first)
    assert f"client-{client.id}" not in {s.label for s in after.secrets}
    assert "chat" not in file(after, "keys.yaml").read_text()
    # without the option there are no keys at all, and the secret's id goes from the databag
    off = charms.run(SCHEDULER, charms.EVENTS["config_changed"], dataclasses.replace(first, config={}))
    assert "key-secret-id" not in off.get_relation(client.id).local_app_data
    assert not [w for w in charms.words(SCHEDULER, off) if "key-file" in w]


def test_units_that_do_not_lead_have_the_clients_rows(tmp_path):
    _, text = rows("--tenant", "acme")
    users = user_secret(text)
    row = {"id": "c", "tenant": "chat", "sha256": "0" * 64}
    before = state(tmp_path, [users], {"api-key-secret": users.id}, leader=False)
    peers = testing.PeerRelation("peers", local_app_data={"client-rows": json.dumps({"7": [row]})})
    before = dataclasses.replace(before, relations={peers, *(r for r in before.relations if r.endpoint != "peers")})
    after = charms.run(SCHEDULER, charms.EVENTS["update_status"], before)
    assert row in json.loads(file(after, "keys.yaml").read_text())["keys"] and after.unit_status == testing.ActiveStatus()


def test_options_that_hold_secrets_are_of_that_type():
    for name in charms.NAMES:
        options = yaml.safe_load((charms.CHARMS / name / "charmcraft.yaml").read_text())["config"]["options"]
        for option, spec in options.items():
            assert ("secret" in option or "token" in option) == (spec["type"] == "secret"), option


# ---- models that are fetched ----

WORKER, NAMED = "llm-d-decode-k8s", "acme/tiny/tiny.gguf"


def fetching(tmp_path, secrets=(), options=None, code=0, said="", answer="/tmp/models/tiny.gguf\n"):
    before = charms.state(WORKER, tmp_path, config={"model-id": NAMED, **(options or {})})
    model = tmp_path / "tiny.gguf"
    model.write_text("GGUF")
    mount = testing.Mount(location="/tmp/models/tiny.gguf", source=model)
    main = dataclasses.replace(before.get_container("llm-d-decode"), mounts={"tiny": mount}, execs={
        testing.Exec(["/usr/bin/llmd", "model", "fetch"], return_code=code, stdout=answer, stderr=said)})
    return dataclasses.replace(before, containers={main}, secrets=set(secrets))


def fetches(ctx):
    return [e for e in ctx.exec_history.get("llm-d-decode", []) if "fetch" in e.command]


def test_a_named_model_is_fetched_once_with_the_token(tmp_path):
    token = user_secret("hf_hidden", "token")
    ctx = charms.CONTEXTS[WORKER][0]
    ctx.exec_history.clear()
    after = charms.run(WORKER, charms.EVENTS["config_changed"], fetching(tmp_path, [token], {"hf-token-secret": token.id}))
    assert after.unit_status == testing.ActiveStatus(), after.unit_status
    assert "--model=/tmp/models/tiny.gguf" in charms.words(WORKER, after)
    (asked,) = fetches(ctx)
    assert asked.command == ["/usr/bin/llmd", "model", "fetch", NAMED, "--quiet"] and asked.environment["HF_TOKEN"] == "hf_hidden"
    assert "hf_hidden" not in after.get_container("llm-d-decode").plan.to_yaml()
    assert testing.MaintenanceStatus(f"fetching {NAMED}") in ctx.unit_status_history
    record = tmp_path / "fetched.json"
    record.write_text(json.dumps({NAMED: "/tmp/models/tiny.gguf"}))
    before = fetching(tmp_path, [token], {"hf-token-secret": token.id}, code=1)
    main = before.get_container("llm-d-decode")
    main = dataclasses.replace(main, mounts={**main.mounts, "record": testing.Mount(location="/tmp/llmd/fetched.json", source=record)})
    again = charms.run(WORKER, charms.EVENTS["update_status"], dataclasses.replace(before, containers={main}))
    assert charms.words(WORKER, again) == charms.words(WORKER, after) and len(fetches(ctx)) == 1


def test_without_the_token_the_commands_are_named(tmp_path):
    gated = "llmd: https://huggingface.co/x: access refused (HTTP 401); for a gated model set HF_TOKEN"
    after = charms.run(WORKER, charms.EVENTS["config_changed"], fetching(tmp_path, code=1, said=gated))
    assert after.unit_status.name == "blocked" and f"juju grant-secret hf {WORKER}" in after.unit_status.message
    after = charms.run(WORKER, charms.EVENTS["config_changed"], fetching(tmp_path, options={"hf-token-secret": "secret:d0c1b2a3e4f5g6h7i8j9"}))
    assert f"juju grant-secret secret:d0c1b2a3e4f5g6h7i8j9 {WORKER}" in after.unit_status.message
    token = user_secret("hf_hidden", "token")
    after = charms.run(WORKER, charms.EVENTS["config_changed"], fetching(
        tmp_path, [token], {"hf-token-secret": token.id}, code=1, said="llmd: hf_hidden: not found (HTTP 404)"))
    assert after.unit_status.name == "blocked" and "404" in after.unit_status.message and "hf_hidden" not in after.unit_status.message


def test_a_missing_token_does_not_stop_a_model_that_is_there(tmp_path):
    before = charms.state(WORKER, tmp_path, config={"hf-token-secret": "secret:d0c1b2a3e4f5g6h7i8j9"})
    assert charms.run(WORKER, charms.EVENTS["config_changed"], before).unit_status == testing.ActiveStatus()
