"""Replicas and how traffic reaches them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat
from simulator.scenario.routers import RoundRobinRouter, Router


class Deployment(Model):
    """Replicas and how traffic reaches them."""

    replicas: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(
        1, description="copies of the model, each on devices of its own"
    )
    router: Router = Field(RoundRobinRouter(), description="which replica a request goes to")
    timeout_s: PositiveFloat | None = Field(
        None, description="a client gives up this long after sending; its work is dropped"
    )
    oversized_requests: Literal["error", "reject"] = Field(
        "error",
        description="what becomes of a request that can never fit the context or the KV cache",
    )
    network_ms: NonNegativeFloat = Field(0.0, description="one-way delay between client and server")
