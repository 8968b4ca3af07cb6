"""How one replica spreads over devices."""

from __future__ import annotations

from pydantic import Field

from simulator.scenario.base import Count, Model


class Parallelism(Model):
    """How one replica spreads over devices."""

    tp: Count = Field(1, description="tensor parallelism: devices that share every layer")
