"""Whom to trust with TLS: the authorities of Amazon RDS, as the layer brings them."""

from __future__ import annotations

import base64
import os.path
import re

RDS_BUNDLE = os.path.join(os.path.dirname(__file__), "rds-ca-bundle.pem")  # noqa: PTH118, PTH120  # pathlib costs 3 ms
MODES = ("verify", "require", "off")
"""`DB_TLS`: `verify` checks the certificate and the host's name, `require` only encrypts, `off` does without."""

_REGION = r"[a-z]+(?:-[a-z]+)+-[0-9]"
_RDS_HOST = re.compile(rf"\.(?:({_REGION})\.rds|rds\.({_REGION}))\.amazonaws\.com(?:\.cn)?$")  # China's put it last
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def region_of(host: str) -> str | None:
    """Return the region in the name of an RDS host; None if it has none."""
    named = _RDS_HOST.search(host)
    return named[1] or named[2] if named else None


def rds_authorities(region: str) -> bytes:
    """Return the bundle's certificates, DER, of one region and of no region (RDS Proxy); all if it has none."""
    with open(RDS_BUNDLE, encoding="ascii") as file:  # noqa: PTH123  # as above
        bundle = [base64.b64decode(text) for text in _CERTIFICATE.findall(file.read())]
    own = [certificate for certificate in bundle if b"Amazon RDS %b " % region.encode() in certificate]
    if not own:
        return b"".join(bundle)
    return b"".join(own + [certificate for certificate in bundle if b"Amazon RDS " not in certificate])
