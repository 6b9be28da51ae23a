"""Make a certificate authority and a server certificate for the local database: for this machine and a few days."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.stack.processes import LOOPBACK

VALID_FOR = dt.timedelta(days=7)
USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Where the files stand: the authority to trust, the server's certificate and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_server_certificate(folder: Path) -> ServerCertificate:
    """Write a new authority and a certificate of it for 127.0.0.1 and localhost to `folder`."""
    files = ServerCertificate(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(
        _server(server_key, authority, authority_key).public_bytes(serialization.Encoding.PEM),
    )
    files.key.touch(mode=0o600)
    files.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return files


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _valid_for_a_week() -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + VALID_FOR)


def _uses(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in allowed for use in USES})


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("connection-governor local authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _valid_for_a_week().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_uses("key_cert_sign", "crl_sign"), critical=True)
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _server(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    addresses = [x509.IPAddress(ipaddress.ip_address(LOOPBACK)), x509.DNSName("localhost")]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = _valid_for_a_week().subject_name(_name(LOOPBACK)).issuer_name(authority.subject)
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    builder = builder.add_extension(_uses("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.add_extension(issuer, critical=False).sign(authority_key, hashes.SHA256())
