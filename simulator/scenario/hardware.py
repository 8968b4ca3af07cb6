"""The devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.base import Model, PositiveFloat


class Hardware(Model):
    """A hardware profile by name or file, and what differs on the machine at hand."""

    profile: str = Field(description="a hardware profile's name or file")
    memory_gib: PositiveFloat | None = Field(
        None, description="usable memory of a device; default: the profile's"
    )
    devices_per_node: Annotated[int, Field(ge=1, le=512, strict=True)] | None = Field(
        None, description="devices that share a node and its links; default: the profile's"
    )
    network_gb_per_s: PositiveFloat | None = Field(
        None,
        description="network between nodes, of each device in one direction; default: the "
        "profile's, if it has any",
    )
    network_latency_us: PositiveFloat | None = Field(
        None, description="one hop between nodes, as collectives feel it; default: the profile's"
    )
