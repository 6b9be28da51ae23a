"""Whom to trust with TLS: the authorities of Amazon RDS, as the layer brings them."""

from __future__ import annotations

import base64
import os
import os.path
import re
from functools import cache

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
    return b"".join(base64.b64decode(text) for text in _of_region(region))


@cache
def authorities_path(host: str, ca_path: str | None) -> str:
    """Return a PEM file of the authorities to trust, for a library that reads it at each opening.

    For an RDS host that is a file in memory with its region's alone: to read the whole bundle takes 13 ms of CPU more.
    """
    region = region_of(host)
    if ca_path is not None or region is None or not hasattr(os, "memfd_create"):
        return ca_path or RDS_BUNDLE
    pem = "".join(f"-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----\n" for text in _of_region(region))
    descriptor = os.memfd_create("rds-authorities")
    os.write(descriptor, pem.encode())
    return f"/proc/self/fd/{descriptor}"


def _of_region(region: str) -> list[str]:
    with open(RDS_BUNDLE, encoding="ascii") as file:  # noqa: PTH123  # as above
        bundle = _CERTIFICATE.findall(file.read())
    decoded = {text: base64.b64decode(text) for text in bundle}
    own = [text for text in bundle if b"Amazon RDS %b " % region.encode() in decoded[text]]
    return own + [text for text in bundle if b"Amazon RDS " not in decoded[text]] if own else bundle
