"""The properties of the template's custom resource, read from the strings that CloudFormation sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SeedProperties:
    """The wanted properties of the template's custom resource."""

    database: str
    allowed: int
    lease_ms: int
    skew_ms: int
    anonymous_lease_ms: int
    host: str
    port: int
    tls: str
    tls_ca: str | None
    schema: str
    administrator_secret: str
    worker_secret: str
    monitor_secret: str
    users: tuple[str, str]
    removes: bool
    with_example: bool = True
    rights: str = "none"
    governed_users: tuple[str, ...] = ()
    opens_per_second: int = 0
    open_burst: int = 0

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> SeedProperties:
        """Read the properties; CloudFormation passes every value as a string."""
        return cls(
            database=properties["Database"],
            allowed=int(properties["Allowed"]),
            lease_ms=int(properties["LeaseMs"]),
            skew_ms=int(properties["SkewMs"]),
            anonymous_lease_ms=int(properties["AnonymousLeaseMs"]),
            host=properties["Host"],
            port=int(properties["Port"]),
            tls=properties["Tls"],
            tls_ca=properties.get("TlsCa") or None,
            schema=properties["Schema"],
            administrator_secret=properties["AdministratorSecretArn"],
            worker_secret=properties["WorkerSecretArn"],
            monitor_secret=properties["MonitorSecretArn"],
            users=(properties["WorkerUser"], properties["MonitorUser"]),
            removes=properties["OnDelete"] == "remove",
            with_example=properties.get("Example", "true") == "true",
            rights=properties.get("WorkerRights", "none"),
            governed_users=tuple(user for user in properties.get("GovernedUsers", "").split(",") if user),
            opens_per_second=int(properties.get("OpensPerSecond", 0)),
            open_burst=int(properties.get("OpenBurst", 0)),
        )
