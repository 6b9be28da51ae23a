"""What integration tests share."""

import ssl

import pytest

from harness.stack.tls import ServerCertificate, make_server_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    """Return an authority that no other client trusts, and its certificate for 127.0.0.1."""
    return make_server_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_tls(certificate: ServerCertificate) -> ssl.SSLContext:
    """Return the server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context
