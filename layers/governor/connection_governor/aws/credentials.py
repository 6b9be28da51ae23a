"""Where the credentials come from: given values, the container's agent, or else botocore's chain.

Nothing here reads `os.environ`: the environment is passed in.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from connection_governor.aws.sigv4 import AwsCredentials
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connection_governor.core.clock import Clock


class CredentialSource(Protocol):
    """Gives the credentials to sign with."""

    def current(self) -> AwsCredentials:
        """Return credentials that are valid now; raise `GovernorUnavailable` if there are none."""


class FixedCredentials:
    """Credentials that do not change while the process lives, as those of Lambda."""

    def __init__(self, access_key: str, secret_key: str, token: str | None = None) -> None:
        self._credentials = AwsCredentials(access_key, secret_key, token)

    def current(self) -> AwsCredentials:
        """Return the given credentials."""
        return self._credentials


class ChainCredentials:
    """The credentials that botocore's chain finds (profiles, SSO, instance roles, ...), for use outside Lambda."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        try:
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415  # as the next
            from botocore.session import Session  # noqa: PLC0415  # 100 ms and 15 MB that no worker in Lambda pays
        except ImportError as error:
            raise GovernorUnavailable(
                "no credentials in the environment, and botocore is not installed to look elsewhere: "
                "pip install 'connection-governor[aws]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        self._errors = BotoCoreError
        with self._as_unavailable():
            found = Session(profile=environment.get("AWS_PROFILE")).get_credentials()
        if found is None:
            raise GovernorUnavailable("no credentials found: neither in the environment nor by botocore's chain")
        self._found = found

    def current(self) -> AwsCredentials:
        """Return the chain's credentials; botocore renews them."""
        with self._as_unavailable():
            frozen = self._found.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise GovernorUnavailable("botocore's chain gave credentials without a key")
        return AwsCredentials(frozen.access_key, frozen.secret_key, frozen.token)

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Raise botocore's errors as `GovernorUnavailable`: an unknown profile, a broken file, an expired sign-in."""
        try:
            yield
        except self._errors as error:
            raise GovernorUnavailable(f"no credentials: {error}", retryable=False) from error


def credential_source(environment: Mapping[str, str], clock: Clock | None = None) -> CredentialSource:
    """Choose by what the environment holds: given values, then the container's agent, then botocore's chain."""
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if access_key and secret_key:
        return FixedCredentials(access_key, secret_key, environment.get("AWS_SESSION_TOKEN"))
    if environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environment.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        from connection_governor.aws.container import ContainerCredentials  # noqa: PLC0415  # most workers never need it

        return ContainerCredentials(environment, clock)
    return ChainCredentials(environment)
