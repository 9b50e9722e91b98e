"""tls-certificates, requirer: a request in the unit's databag, the certificate from the provider's, the key in the unit's secret.

The key stays the same as long as the relation does, so that a renewed certificate fits the key that is already there.
"""
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import uuid
from typing import Any

import ops
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ENDPOINT, LABEL, REQUESTS = "certificates", "tls-private-key", "certificate_signing_requests"


@dataclasses.dataclass(frozen=True)
class Material:
    chain: str  # the unit's certificate first
    key: str
    authorities: str


def relation(charm: ops.CharmBase) -> ops.Relation | None:
    return next((r for r in charm.model.relations[ENDPOINT] if r.active), None)


def request(charm: ops.CharmBase, names: list[str], addresses: list[str]) -> None:
    """Asks anew when names or addresses changed, and when a third of the certificate's life is left.  Forgets the key without a relation."""
    found = relation(charm)
    if found is None:
        _forget(charm)
        return
    key = _key(charm)
    bag = found.data[charm.unit]
    asked = _asked(bag)
    wanted = _names(names, addresses)
    given = next((c for c in _given(found, key) if c["certificate_signing_request"].strip() == asked), None) if asked else None
    if asked and _fits(asked, key, wanted) and not (given and _is_due(given["parsed"])):
        return
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, charm.unit.name.replace("/", "-")[:64]),
                         x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, str(uuid.uuid4()))])  # a provider answers a request once
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(wanted, critical=False).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode().strip()
    bag[REQUESTS] = json.dumps([{"certificate_signing_request": pem, "ca": False}])


def refusal(charm: ops.CharmBase) -> str | None:
    """What the provider has against our request."""
    found = relation(charm)
    rows = json.loads(found.data[found.app].get("request_errors") or "[]") if found else []
    mine = _asked(found.data[charm.unit]) if found else None
    return next((r["error"]["message"] for r in rows if r["csr"].strip() == mine), None)


def material(charm: ops.CharmBase) -> Material | None:
    """What the provider gave for our key and is valid now, the one that lasts longest; None: not yet."""
    found = relation(charm)
    if found is None:
        return None
    key = _key(charm)
    now = datetime.datetime.now(datetime.timezone.utc)
    valid = [c for c in _given(found, key) if c["parsed"].not_valid_before_utc <= now < c["parsed"].not_valid_after_utc]
    if not valid:
        return None
    best = max(valid, key=lambda c: c["parsed"].not_valid_after_utc)
    return Material("".join(map(_pem_of_certificate, _in_order(best["parsed"], best["above"]))), _pem_of(key),
                    "".join(map(_pem_of_certificate, best["above"])))


def _key(charm: ops.CharmBase) -> ec.EllipticCurvePrivateKey:
    try:
        pem = charm.model.get_secret(label=LABEL).get_content()["private-key"]
        return serialization.load_pem_private_key(pem.encode(), None)  # type: ignore[return-value]
    except ops.SecretNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        charm.unit.add_secret({"private-key": _pem_of(key)}, label=LABEL, description="Private key of this unit's certificate.")
        return key


def _pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def _forget(charm: ops.CharmBase) -> None:
    try:
        charm.model.get_secret(label=LABEL).remove_all_revisions()
    except ops.SecretNotFoundError:
        pass


def _names(names: list[str], addresses: list[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*map(x509.DNSName, names), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)])


def _asked(bag: ops.RelationDataContent) -> str | None:
    asked = json.loads(bag.get(REQUESTS) or "[]")
    return asked[0]["certificate_signing_request"].strip() if asked else None


def _fits(pem: str, key: ec.EllipticCurvePrivateKey, wanted: x509.SubjectAlternativeName) -> bool:
    csr = x509.load_pem_x509_csr(pem.encode())
    return csr.public_key() == key.public_key() and csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == wanted


def _is_due(certificate: x509.Certificate) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc) < life / 3


def _given(found: ops.Relation, key: ec.EllipticCurvePrivateKey) -> list[dict[str, Any]]:
    """The provider's rows for our key; what is no certificate is passed over.  A chain is a list, in the published schema one text."""
    rows = []
    for given in json.loads(found.data[found.app].get("certificates") or "[]"):
        try:
            parsed = x509.load_pem_x509_certificate(given["certificate"].encode())
            chain = [given["chain"]] if isinstance(given["chain"], str) else given["chain"]
            above = x509.load_pem_x509_certificates("\n".join([*chain, given["ca"]]).encode())
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if parsed.public_key() == key.public_key() and not given.get("revoked"):
            rows.append({"certificate_signing_request": "", **given, "parsed": parsed,
                         "above": [c for c in dict.fromkeys(above) if c != parsed]})
    return rows


def _in_order(leaf: x509.Certificate, above: list[x509.Certificate]) -> list[x509.Certificate]:
    """The leaf, then each one's issuer as far as it is there and no root: providers order a chain either way."""
    by_subject = {c.subject: c for c in above}
    ordered = [leaf]
    while (issuer := by_subject.pop(ordered[-1].issuer, None)) is not None and issuer.issuer != issuer.subject:
        ordered.append(issuer)
    return ordered


def _pem_of_certificate(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
