"""The devices."""

from __future__ import annotations

from pydantic import Field

from simulator.scenario.base import Model, PositiveFloat


class Hardware(Model):
    """A hardware profile by name or file, and what differs on the machine at hand."""

    profile: str = Field(description="a hardware profile's name or file")
    memory_gib: PositiveFloat | None = Field(
        None, description="usable memory of a device; default: the profile's"
    )
