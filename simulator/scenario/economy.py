"""What a run costs: money, energy, carbon."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat


class Cost(Model):
    """What a device-hour costs: a plan of the hardware profile's price list, or a figure."""

    plan: Literal["on_demand", "reserved", "spot"] = Field(
        "on_demand", description="which prices of the hardware profile's list count"
    )
    usd_per_device_hour: PositiveFloat | None = Field(None, description="overrides the price list")


class Energy(Model):
    """From device power to the bill and the atmosphere."""

    pue: Annotated[float, Field(ge=1, le=5, strict=True)] = Field(
        1.0, description="power usage effectiveness: the building's power over the devices'"
    )
    grid_gco2e_per_kwh: NonNegativeFloat | None = Field(
        None, description="carbon is reported if given"
    )
