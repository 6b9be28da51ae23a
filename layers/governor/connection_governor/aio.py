"""Public alias of `connection_governor.client.aio`: the governor for asyncio."""

from connection_governor.client.aio import AsyncGovernor

__all__ = ["AsyncGovernor"]
