"""Juju secrets: what a user keeps in them, and the keys that the scheduler's charm makes itself.

Rows of a key file hold hashes alone (`llmd key new`), so they may stand in a databag; keys stay in secrets.
"""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import secrets
import string
from typing import Any

import ops
import yaml

from .base import Blocked

LETTERS = string.ascii_letters + string.digits
OWN = "unit-keys"  # label of the unit's secret


def user_field(charm: ops.CharmBase, option: str, field: str) -> str | None:
    """A field of the user's secret that an option names; None without one.  The newest revision: a change comes as secret-changed."""
    uri = str(charm.config.get(option) or "")
    if not uri:
        return None
    try:
        content = charm.model.get_secret(id=uri).get_content(refresh=True)
    except (ops.SecretNotFoundError, ops.ModelError) as e:
        raise Blocked(f"option {option}: no access to the secret: juju grant-secret {uri} {charm.app.name}") from e
    if not content.get(field):
        raise Blocked(f"option {option}: the secret has no field {field}: juju update-secret {uri} {field}#file=FILE")
    return content[field]


class _Loader(yaml.SafeLoader):
    """Dates stay text, as the key file's reader wants them."""


_Loader.yaml_implicit_resolvers = {first: [(tag, what) for tag, what in found if not tag.endswith(":timestamp")]
                                   for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}


def user_rows(charm: ops.CharmBase, option: str) -> list[Any] | None:
    """Rows of a key file in a user's secret (field `keys`); None without the option."""
    text = user_field(charm, option, "keys")
    if text is None:
        return None
    wrong = Blocked(f"option {option}: field keys must be a key file with hashes (llmd key check FILE): "
                    f"juju update-secret {charm.config[option]} keys#file=FILE")
    try:
        rows = yaml.load(text, _Loader)["keys"]  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, TypeError, KeyError):
        raise wrong from None  # a parser's message quotes the text
    if not isinstance(rows, list):
        raise wrong
    return rows


def new_key() -> str:
    pick = lambda n: "".join(secrets.choice(LETTERS) for _ in range(n))  # noqa: E731
    return f"lld_{pick(10)}_{pick(40)}"


def row(key: str, tenant: str, **more: Any) -> dict[str, Any]:
    _, name, secret = key.split("_")
    return {"id": name, "tenant": tenant, "sha256": hashlib.sha256(secret.encode()).hexdigest(), **more}


def own(charm: ops.CharmBase) -> dict[str, str]:
    """The unit's keys `key` and `admin-key`, with which it asks its own workload."""
    try:
        return charm.model.get_secret(label=OWN).get_content()
    except ops.SecretNotFoundError:
        content = {"key": new_key(), "admin-key": new_key()}
        charm.unit.add_secret(content, label=OWN, description="Keys with which this unit asks its own workload.")
        return content


# ---- a key for each client application ----

def _label(relation: ops.Relation) -> str:
    return f"client-{relation.id}"


def _bag(charm: ops.CharmBase) -> ops.RelationDataContent | None:
    peers = charm.model.get_relation("peers")
    return peers.data[charm.app] if peers else None


def client_rows(charm: ops.CharmBase) -> list[dict[str, Any]]:
    """Rows of the related clients, which the leader wrote for every unit."""
    bag = _bag(charm)
    return [r for rows in json.loads(bag.get("client-rows") or "{}").values() for r in rows] if bag is not None else []


def sync_clients(charm: ops.CharmBase, relations: list[ops.Relation]) -> dict[int, str]:
    """Leader: one key a relation in a secret granted to it; those of relations that ended go.  Returns the secrets' ids."""
    bag = _bag(charm)
    if bag is None:
        return {}
    rows: dict[str, list] = json.loads(bag.get("client-rows") or "{}")
    ids: dict[int, str] = {}
    for relation in relations:
        try:
            secret = charm.model.get_secret(label=_label(relation))
        except ops.SecretNotFoundError:
            key = new_key()
            secret = charm.app.add_secret({"key": key}, label=_label(relation), description="API key of a related application.")
            rows[str(relation.id)] = [row(key, relation.app.name)]
        secret.grant(relation)
        ids[relation.id] = str(secret.id or secret.get_info().id)
    for gone in [name for name in rows if int(name) not in ids]:
        del rows[gone]
        try:
            charm.model.get_secret(label=f"client-{gone}").remove_all_revisions()
        except ops.SecretNotFoundError:
            pass
    bag["client-rows"] = json.dumps(rows, sort_keys=True)
    return ids


def rotate_clients(charm: ops.CharmBase) -> int:
    """Leader: a new key for each client; the one before stays valid until the next rotation."""
    bag = _bag(charm)
    rows: dict[str, list] = json.loads(bag.get("client-rows") or "{}") if bag is not None else {}
    for relation_id, before in rows.items():
        key = new_key()
        charm.model.get_secret(label=f"client-{relation_id}").set_content({"key": key})
        rows[relation_id] = [row(key, before[0]["tenant"]), before[0]]
    if rows:
        bag["client-rows"] = json.dumps(rows, sort_keys=True)
    return len(rows)
