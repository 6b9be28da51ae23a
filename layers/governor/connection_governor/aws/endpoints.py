"""A service's URL: the public one, or the override that the environment names (an emulator, an endpoint)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

# The variable's ending if it is not the service's name in capitals: AWS derives it from the service's long name.
_VARIABLE_ENDING = {"secretsmanager": "SECRETS_MANAGER"}
_SUFFIX_BY_REGION_PREFIX = {"cn-": "amazonaws.com.cn", "eusc-": "amazonaws.eu"}
_REGION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def endpoint_url(service: str, region: str, environment: Mapping[str, str]) -> str:
    """Return the URL of `service` ("dynamodb", "lambda", "secretsmanager") in `region`.

    `AWS_ENDPOINT_URL_DYNAMODB`, `_LAMBDA` or `_SECRETS_MANAGER` wins, then `AWS_ENDPOINT_URL` (neither counts if
    `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` is true), then the public regional endpoint of the partitions aws, aws-cn,
    aws-us-gov and aws-eusc. FIPS and dual-stack endpoints are named by one of these variables.

    Proxies are NOT supported: `HTTPS_PROXY` and the like are ignored, and every request goes straight to the
    endpoint. Inside a VPC use a gateway or interface endpoint, or NAT.
    """
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        ending = _VARIABLE_ENDING.get(service, service.upper())
        override = environment.get(f"AWS_ENDPOINT_URL_{ending}") or environment.get("AWS_ENDPOINT_URL")
        if override:
            return override
    if not region or not _REGION_CHARACTERS.issuperset(region):
        raise InvalidRequest("AWS_REGION", f"{region!r} is not the name of a region")
    suffixes = [suffix for prefix, suffix in _SUFFIX_BY_REGION_PREFIX.items() if region.startswith(prefix)]
    return f"https://{service}.{region}.{suffixes[0] if suffixes else 'amazonaws.com'}"
