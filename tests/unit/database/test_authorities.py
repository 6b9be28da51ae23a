"""The authorities of Amazon RDS, as a file for a library that reads it at each opening."""

from __future__ import annotations

import ssl
from pathlib import Path

from connection_governor.database.authorities import RDS_BUNDLE, authorities_path

HOST = "orders.c1x2y3z4.eu-central-1.rds.amazonaws.com"


def trusted(path: str) -> list[bytes]:
    """Return the certificates that TLS reads from a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return context.get_ca_certs(binary_form=True)


def test_an_rds_hosts_authorities_are_its_regions() -> None:
    """Each opening would read a hundred certificates more: 13 ms of CPU, ten times that on 128 MB."""
    own, all_of_them = trusted(authorities_path(HOST, None)), trusted(RDS_BUNDLE)
    assert 0 < len(own) < 10
    assert set(own) < set(all_of_them)
    assert sum(b"Amazon RDS eu-central-1 " in certificate for certificate in own) >= 3


def test_the_file_is_read_again_for_each_opening() -> None:
    """The second opening would trust no authority, and fail."""
    assert trusted(authorities_path(HOST, None)) == trusted(authorities_path(HOST, None)) != []


def test_other_hosts_get_the_file_that_was_named_or_the_whole_bundle() -> None:
    """A database of one's own, or behind a name of one's own, could not be reached."""
    assert authorities_path("db.internal", None) == RDS_BUNDLE
    assert authorities_path(HOST, "/opt/ca.pem") == "/opt/ca.pem"
    assert authorities_path("orders.x.xx-nowhere-9.rds.amazonaws.com", None) != ""
    assert Path(RDS_BUNDLE).exists()
