"""Where services are reached, compared with botocore's own table."""

import pytest
from botocore.session import Session

from connection_governor.aws.endpoints import endpoint_url
from connection_governor.errors import InvalidRequest

REGIONS = [
    "us-east-1",
    "eu-central-1",
    "ap-southeast-7",
    "cn-north-1",
    "cn-northwest-1",
    "us-gov-west-1",
    "eusc-de-east-1",
]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("service", ["dynamodb", "lambda", "secretsmanager"])
def test_public_endpoints_are_those_of_botocore(service: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in a partition other than the ordinary one reach nothing."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    client = Session().create_client(service, region, aws_access_key_id="a", aws_secret_access_key="b")
    assert endpoint_url(service, region, {}) == client.meta.endpoint_url


@pytest.mark.parametrize(
    ("service", "variable"),
    [("dynamodb", "DYNAMODB"), ("lambda", "LAMBDA"), ("secretsmanager", "SECRETS_MANAGER")],
)
def test_a_services_own_override_wins_over_the_common_one(service: str, variable: str) -> None:
    """Local stacks that serve DynamoDB apart from the rest cannot be used."""
    common = {"AWS_ENDPOINT_URL": "http://common"}
    own = {f"AWS_ENDPOINT_URL_{variable}": "http://own"}
    assert endpoint_url(service, "eu-west-1", common) == "http://common"
    assert endpoint_url(service, "eu-west-1", common | own) == "http://own"
    ignoring = common | own | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert endpoint_url(service, "eu-west-1", ignoring) == f"https://{service}.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("region", ["", "eu-west-1.evil.example/", "EU-WEST-1"])
def test_a_wrong_region_becomes_no_host_name(region: str) -> None:
    """A wrong variable sends signed requests to another host, or shows up as an outage."""
    with pytest.raises(InvalidRequest, match="AWS_REGION"):
        endpoint_url("dynamodb", region, {})
