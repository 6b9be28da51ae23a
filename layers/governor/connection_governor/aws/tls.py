"""The certificate authorities to trust for an endpoint, and one shared TLS context for each choice.

The system's store holds some 140 authorities, and reading them all costs 20 ms of CPU: ten times that on a small
function. Five sign for AWS's endpoints. Amazon publishes them at https://www.amazontrust.com/repository/, and they
are bundled here (under 1 ms). They are tried first; the whole store judges what none of them has signed.
"""

from __future__ import annotations

import os.path
import ssl

AMAZON_ROOTS = os.path.join(os.path.dirname(__file__), "amazon-root-cas.pem")  # noqa: PTH118, PTH120  # pathlib costs 3 ms
SYSTEM = ""
NotTrustedError = ssl.SSLCertVerificationError

_contexts: dict[str, ssl.SSLContext] = {}


def context(authorities: str) -> ssl.SSLContext:
    """Return the context that trusts the authorities in this file, or the system's for `SYSTEM`."""
    if authorities not in _contexts:
        _contexts[authorities] = ssl.create_default_context(cafile=authorities or None)
    return _contexts[authorities]
