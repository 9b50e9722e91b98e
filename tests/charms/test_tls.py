"""The certificates relation: what is asked for, what is served with it, how it is renewed, and the way back to plain HTTP."""
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import datetime
import ipaddress
import json
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ops import testing

import test_charms as charms
import test_pebble as pebble
import test_secrets as secrets
from test_charms import workload  # noqa: F401

SCHEDULER, MAIN = secrets.SCHEDULER, secrets.MAIN
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Authority:
    """A root, or one below another."""

    def __init__(self, name, above=None):
        self.key, self.above = ec.generate_private_key(ec.SECP256R1()), above
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (above or self).issue(self.name, self.key.public_key(), NOW - DAY, NOW + 3650 * DAY, [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)])

    def issue(self, subject, public, start, end, extensions):
        b = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public).serial_number(
            x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
        for extension, critical in [*extensions, (x509.SubjectKeyIdentifier.from_public_key(public), False),
                                    (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)]:
            b = b.add_extension(extension, critical)
        return b.sign(self.key, hashes.SHA256())

    def answer(self, asked, start=NOW - DAY, end=NOW + 90 * DAY):
        """A provider's row for a request, by the interface's published schema."""
        csr = x509.load_pem_x509_csr(asked.encode())
        leaf = self.issue(csr.subject, csr.public_key(), start, end, [(e.value, False) for e in csr.extensions])
        chain = [pem(self.certificate)] + ([pem(self.above.certificate)] if self.above else [])
        return {"certificate": pem(leaf), "certificate_signing_request": asked, "ca": (chain[-1]), "chain": chain}


ROOT = Authority("root")
BELOW = Authority("below", ROOT)


def related(after):
    return after.get_relations("certificates")[0]


def asked(after):
    found = json.loads(related(after).local_unit_data["certificate_signing_requests"])
    assert len(found) == 1 and set(found[0]) == {"certificate_signing_request", "ca"} and found[0]["ca"] is False
    return found[0]["certificate_signing_request"]


def give(after, *rows):
    """The state with the provider's answer in it."""
    mine = dataclasses.replace(related(after), remote_app_data={"certificates": json.dumps(rows)})
    return mine, dataclasses.replace(after, relations={mine, *(r for r in after.relations if r.endpoint != "certificates")})


def first(tmp_path, relations=(), **kw):
    before = secrets.state(tmp_path, kw.pop("secrets", []), kw.pop("options", {}),
                           [charms.relation(SCHEDULER, "certificates", app="ca"), *relations], **kw)
    return charms.run(SCHEDULER, charms.EVENTS["update_status"], before)


def changed(after, *rows):
    mine, before = give(after, *rows)
    return charms.run(SCHEDULER, lambda ctx: ctx.on.relation_changed(mine), before)


def key_of(after):
    return next((s for s in after.secrets if s.label == "tls-private-key"), None)


def test_a_request_is_made_and_nothing_runs_in_plain_meanwhile(tmp_path, workload):  # noqa: F811
    after = first(tmp_path)
    assert after.unit_status == testing.WaitingStatus("for a certificate: juju status ca")
    csr = x509.load_pem_x509_csr(asked(after).encode())
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    model = after.model.name
    assert csr.is_signature_valid and names.get_values_for_type(x509.DNSName) == [
        f"{SCHEDULER}-0.{SCHEDULER}-endpoints.{model}.svc.cluster.local", f"{SCHEDULER}.{model}.svc.cluster.local",
        f"{SCHEDULER}.{model}.svc", f"{SCHEDULER}.{model}"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.0")]
    secret = key_of(after)
    assert secret.owner == "unit" and not secret.remote_grants and "PRIVATE KEY" in secret.latest_content["private-key"]
    assert charms.plan(SCHEDULER, after).command == "old"
    again = charms.run(SCHEDULER, charms.EVENTS["update_status"], after)
    assert asked(again) == asked(after) and key_of(again).id == secret.id


@pytest.mark.parametrize("authority", [ROOT, BELOW])
def test_a_certificate_is_served(authority, tmp_path, workload):  # noqa: F811
    client, ingress = charms.relation(SCHEDULER, "inference-endpoint"), charms.relation(SCHEDULER, "ingress")
    waiting = first(tmp_path, [client, ingress])
    after = changed(waiting, authority.answer(asked(waiting)))
    assert after.unit_status == testing.ActiveStatus(), after.unit_status
    assert "--tls-dir=/tmp/llmd/tls" in charms.words(SCHEDULER, after)
    charms.flags_are_known(charms.words(SCHEDULER, after))
    chain = x509.load_pem_x509_certificates(secrets.file(after, "tls/tls.crt").read_bytes())
    assert [c.issuer for c in chain] == ([ROOT.name] if authority is ROOT else [BELOW.name, ROOT.name])  # no root in it
    assert secrets.file(after, "tls/tls.key").read_text() == key_of(after).latest_content["private-key"]
    assert secrets.file(after, "tls/tls.key").stat().st_mode & 0o077 == 0
    assert workload["asked"][-1].startswith("https://")
    for check in after.get_container(MAIN).plan.checks.values():  # Pebble knows no authorities of ours
        assert check.http["url"].startswith("http://localhost:9090/")
    bag = after.get_relation(client.id).local_app_data
    assert bag["url"].startswith("https://") and pem(ROOT.certificate) in bag["ca"]
    assert json.loads(after.get_relation(ingress.id).local_app_data["scheme"]) == "https"


def test_with_keys_and_tls_the_door_needs_no_excuse(tmp_path):
    _, text = secrets.rows("--tenant", "acme")
    users = secrets.user_secret(text)
    waiting = first(tmp_path, secrets=[users], options={"api-key-secret": users.id})
    after = changed(waiting, ROOT.answer(asked(waiting)))
    assert "--insecure" not in charms.words(SCHEDULER, after) and after.unit_status == testing.ActiveStatus()


@pytest.mark.parametrize("left,is_due", [(40, False), (20, True)])
def test_renewed_before_it_ends_and_served_until_then(left, is_due, tmp_path):
    waiting = first(tmp_path)
    old = ROOT.answer(asked(waiting), start=NOW - (90 - left) * DAY, end=NOW + left * DAY)
    after = changed(waiting, old)
    assert (asked(after) != asked(waiting)) == is_due
    assert after.unit_status == testing.ActiveStatus() and key_of(after).id == key_of(waiting).id
    if not is_due:
        return
    again = charms.run(SCHEDULER, charms.EVENTS["update_status"], after)
    assert asked(again) == asked(after)  # asked once
    renewed = changed(again, old, ROOT.answer(asked(again)))
    assert secrets.file(renewed, "tls/tls.crt").read_text() != old["certificate"]
    assert x509.load_pem_x509_certificate(secrets.file(renewed, "tls/tls.crt").read_bytes()).not_valid_after_utc > NOW + 60 * DAY
    assert charms.plan(SCHEDULER, renewed).to_dict() == charms.plan(SCHEDULER, after).to_dict()  # llmd reads it again by itself
    assert asked(renewed) == asked(again)


def test_a_new_address_is_asked_for(tmp_path):
    waiting = first(tmp_path)
    after = changed(waiting, ROOT.answer(asked(waiting)))
    moved = testing.Network("peers", [testing.BindAddress([testing.Address("10.9.9.9")])])
    later = charms.run(SCHEDULER, charms.EVENTS["update_status"], dataclasses.replace(after, networks={moved}))
    names = x509.load_pem_x509_csr(asked(later).encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.9.9.9")]
    assert later.unit_status == testing.ActiveStatus()  # with the former one, until the answer


@pytest.mark.parametrize("what", ["expired", "early", "revoked", "another's", "junk"])
def test_what_is_no_use_is_not_served(what, tmp_path):
    waiting = first(tmp_path)
    row = {"expired": lambda: ROOT.answer(asked(waiting), NOW - 90 * DAY, NOW - DAY),
           "early": lambda: ROOT.answer(asked(waiting), NOW + DAY, NOW + 90 * DAY),
           "revoked": lambda: {**ROOT.answer(asked(waiting)), "revoked": True},
           "another's": lambda: {**ROOT.answer(asked(first(tmp_path))), "certificate_signing_request": asked(waiting)},
           "junk": lambda: {"certificate": "junk"}}[what]()
    after = changed(waiting, row)
    assert after.unit_status.name == "waiting" and "certificate" in after.unit_status.message
    assert charms.plan(SCHEDULER, after).command == "old" and not secrets.file(after, "tls").exists()


def test_without_the_relation_it_is_plain_http_again(tmp_path, workload):  # noqa: F811
    client = charms.relation(SCHEDULER, "inference-endpoint")
    waiting = first(tmp_path, [client])
    after = changed(waiting, ROOT.answer(asked(waiting)))
    mine = related(after)
    gone = charms.run(SCHEDULER, lambda ctx: ctx.on.relation_broken(mine), after)
    assert gone.unit_status == testing.ActiveStatus() and key_of(gone) is None
    assert not [w for w in charms.words(SCHEDULER, gone) if "tls" in w] and not secrets.file(gone, "tls").exists()
    bag = gone.get_relation(client.id).local_app_data
    assert bag["url"].startswith("http://") and "ca" not in bag and workload["asked"][-1].startswith("http://")


def test_the_name_that_clients_use(tmp_path):
    client = charms.relation(SCHEDULER, "inference-endpoint")
    waiting = first(tmp_path, [client], options={"external-hostname": "llm.example.com"})
    names = x509.load_pem_x509_csr(asked(waiting).encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)[-1] == "llm.example.com"
    after = changed(waiting, ROOT.answer(asked(waiting)))
    assert after.get_relation(client.id).local_app_data["url"] == "https://llm.example.com:8080"
    other = charms.run(SCHEDULER, charms.EVENTS["config_changed"], dataclasses.replace(after, config={}))
    assert asked(other) != asked(after)
    # without it the service's, which all units answer
    assert other.get_relation(client.id).local_app_data["url"] == f"https://{SCHEDULER}.{after.model.name}.svc.cluster.local:8080"


def test_with_tls_required_there_is_no_plain_text(tmp_path, workload):  # noqa: F811
    fresh = charms.run(SCHEDULER, charms.EVENTS["config_changed"], secrets.state(tmp_path, [], {"tls-required": True}))
    assert fresh.unit_status.name == "blocked" and charms.plan(SCHEDULER, fresh).command == "old"
    assert "juju integrate" in fresh.unit_status.message and "tls-required=false" in fresh.unit_status.message
    client = charms.relation(SCHEDULER, "inference-endpoint")
    waiting = first(tmp_path, [client], options={"tls-required": True})
    after = changed(waiting, ROOT.answer(asked(waiting)))
    assert after.unit_status == testing.ActiveStatus()
    mine = related(after)
    gone = charms.run(SCHEDULER, lambda ctx: ctx.on.relation_broken(mine), after)
    assert gone.unit_status == fresh.unit_status  # and what is served stays
    assert charms.plan(SCHEDULER, gone).to_dict() == charms.plan(SCHEDULER, after).to_dict()
    assert gone.get_relation(client.id).local_app_data == after.get_relation(client.id).local_app_data
    ctx = charms.CONTEXTS[SCHEDULER][0]
    with pytest.raises(testing.ActionFailed, match="no certificates: juju integrate"):
        ctx.run(ctx.on.action("list-models"), dataclasses.replace(gone, relations={r for r in gone.relations if r.endpoint != "certificates"}))


def test_a_provider_that_refuses_is_quoted(tmp_path):
    waiting = first(tmp_path, options={"external-hostname": "llm.example.com"})
    error = {"code": 102, "name": "DOMAIN_NOT_ALLOWED", "message": "example.com is not ours"}
    mine = dataclasses.replace(related(waiting), remote_app_data={"request_errors": json.dumps([{"csr": asked(waiting), "error": error}])})
    before = dataclasses.replace(waiting, relations={mine, *(r for r in waiting.relations if r.endpoint != "certificates")})
    after = charms.run(SCHEDULER, lambda ctx: ctx.on.relation_changed(mine), before)
    assert after.unit_status.name == "blocked" and "ca gives no certificate: example.com is not ours" in after.unit_status.message


@pebble.pytestmark
def test_the_binary_serves_it_and_takes_a_renewed_one(tmp_path, monkeypatch):
    port, metrics = pebble.free_port(), pebble.free_port()
    waiting = first(tmp_path, options={"router-port": port, "metrics-port": metrics})
    after = changed(waiting, BELOW.answer(asked(waiting)))
    plan = pebble.of_this_machine(SCHEDULER, tmp_path, after)
    name = f"{SCHEDULER}.{after.model.name}"
    context = ssl.create_default_context(cadata=pem(ROOT.certificate))
    p = pebble.Pebble(tmp_path / "pebble", plan)
    try:
        pebble.wait("it is alive", lambda: pebble.status(metrics, "/health") == 200)
        assert p.checks()["hung"] == "up"

        def shown():
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                with context.wrap_socket(s, server_hostname=name) as t:  # chain and name are checked
                    return t.getpeercert(True)
        before = shown()
        assert pebble.status(port, "/health") != 200  # not in plain text
        (tmp_path / "llmd/tls/new").write_text(BELOW.answer(asked(waiting))["certificate"] + pem(BELOW.certificate))
        (tmp_path / "llmd/tls/new").rename(tmp_path / "llmd/tls/tls.crt")
        pebble.wait("the renewed one is served", lambda: shown() != before, 20)
        monkeypatch.undo()  # as the charm itself asks
        assert charms.probe.ask(f"https://localhost:{port}/version", ca=pem(BELOW.certificate))["version"]
    finally:
        assert p.end() == 0
