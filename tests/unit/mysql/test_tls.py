"""Which authorities a session to MySQL trusts."""

import ssl
from pathlib import Path

import pytest

from connection_governor.database.authorities import RDS_BUNDLE, rds_authorities
from connection_governor.errors import InvalidRequest
from connection_governor.mysql import tls
from connection_governor.mysql.tls import context_for

RDS_HOST = "orders.c1abcdefgh.eu-west-1.rds.amazonaws.com"


def _authorities(context: ssl.SSLContext | None) -> set[str]:
    assert context is not None
    described = context.get_ca_certs()
    return {pair[1] for found in described for names in found["subject"] for pair in names if pair[0] == "commonName"}


def test_a_context_is_made_once() -> None:
    """PyMySQL makes one for each connect: tens of milliseconds of CPU in each invocation."""
    assert context_for("verify", None, RDS_HOST) is context_for("verify", None, RDS_HOST)


def test_verifying_is_complete() -> None:
    """Without the check of the name, any server with a certificate of the same authority could stand in."""
    context = context_for("verify", None, RDS_HOST)
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_region_trusts_its_own_authorities_and_those_of_the_proxy() -> None:
    """Reading all regions' costs a cold start four times as much; missing the proxy's would refuse RDS Proxy."""
    trusted = _authorities(context_for("verify", None, RDS_HOST))
    assert {f"Amazon RDS eu-west-1 Root CA {key} G1" for key in ("RSA2048", "RSA4096", "ECC384")} <= trusted
    assert "Amazon Root CA 1" in trusted
    assert not any("us-east-1" in name for name in trusted)


@pytest.mark.parametrize("host", ["db.example.com", "127.0.0.1", "db.xx-nowhere-9.rds.amazonaws.com"])
def test_a_host_of_no_known_region_trusts_the_whole_bundle(host: str) -> None:
    """A DNS alias for an RDS instance must work."""
    assert len(_authorities(context_for("verify", None, host))) > 80


def test_every_region_of_the_bundle_is_known_from_its_name() -> None:
    """A region missed here costs its users nothing but time; a wrong subset would refuse their database."""
    regions = {name.split()[2] for name in _authorities(context_for("verify", None, "x")) if "Amazon RDS" in name}
    assert len(regions) > 20
    for region in regions:
        trusted = _authorities(context_for("verify", None, f"db.c1.{region}.rds.amazonaws.com"))
        assert {name.split()[2] for name in trusted if "Amazon RDS" in name} == {region}


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("db.c1.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("db.c1.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("db.c1.cn-northwest-1.rds.amazonaws.com.cn", "cn-northwest-1"),
    ],
)
def test_other_partitions_hosts_tell_their_region_too(host: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """China's names end otherwise; a miss would read the whole bundle in each cold start."""
    asked: list[str] = []

    def noted(named: str) -> bytes:
        asked.append(named)
        return rds_authorities(named)

    monkeypatch.setattr(tls, "rds_authorities", noted)
    tls._shared_context.cache_clear()
    context_for("verify", None, host)
    assert asked == [region]


def test_the_bundle_is_whole_where_it_has_nothing_for_a_region() -> None:
    """Fewer authorities than the file has must be a choice, never an accident."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=rds_authorities("xx-nowhere-9"))
    assert len(context.get_ca_certs()) == Path(RDS_BUNDLE).read_text().count("BEGIN CERTIFICATE")


def test_without_tls_there_is_no_context() -> None:
    """TLS is switched off without the explicit word `off`."""
    assert context_for("off", None, "db") is None


@pytest.mark.parametrize("mode", ["", "VERIFY", "preferred", "no"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    """A slip in a configuration must not mean "no TLS"."""
    with pytest.raises(InvalidRequest) as refused:
        context_for(mode, None, "db")
    assert refused.value.field == "tls"


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The author has to see which file is meant."""
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(InvalidRequest, match=path.name) as refused:
            context_for("verify", str(path), "db")
        assert refused.value.field == "tls_ca"
