"""Replicas and how traffic reaches them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.admission import Admission
from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat
from simulator.scenario.lifecycle import (
    Autoscaling,
    ColdStart,
    Failures,
    Gateway,
    Replicas,
    Retry,
    Spot,
)
from simulator.scenario.pools import Pool
from simulator.scenario.routers import RoundRobinRouter, Router
from simulator.scenario.transfer import KvTransfer


class Deployment(Model):
    """Replicas and how traffic reaches them."""

    replicas: Replicas = Field(1, description="copies of the model, each on devices of its own")
    pools: Annotated[tuple[Pool, ...], Field(max_length=64)] = Field(
        (), description="replicas of several kinds, instead of ``replicas``"
    )
    router: Router = Field(RoundRobinRouter(), description="which replica a request goes to")
    transfer: KvTransfer = Field(
        KvTransfer(), description="the KV cache's way from prefill to decode pools"
    )
    timeout_s: PositiveFloat | None = Field(
        None, description="a client gives up this long after sending; its work is dropped"
    )
    admission: Admission | None = Field(
        None, description="requests that are refused at once, instead of waiting too long"
    )
    oversized_requests: Literal["error", "reject"] = Field(
        "error",
        description="what becomes of a request that can never fit the context or the KV cache",
    )
    network_ms: NonNegativeFloat = Field(0.0, description="one-way delay between client and server")
    cold_start: ColdStart = Field(ColdStart(), description="how long replicas take to start")
    autoscaling: Autoscaling | None = Field(
        None, description="how many replicas there are, instead of ``replicas``"
    )
    failures: Failures | None = Field(None, description="crashes of replicas; default: none")
    spot: Spot | None = Field(None, description="devices that may be taken back; default: never")
    retry: Retry | None = Field(
        None, description="what becomes of requests whose replica crashed; default: they fail"
    )
    gateway: Gateway = Field(Gateway(), description="where requests wait for a replica")

    @model_validator(mode="after")
    def _replicas_or_scaling(self) -> Deployment:
        if self.autoscaling and "replicas" in self.model_fields_set and self.replicas != 1:
            raise ValueError("give either replicas or autoscaling, which has min, max and initial")
        for pool in self.pools:
            scaled = pool.autoscaling or self.autoscaling
            if scaled and "replicas" in pool.model_fields_set and pool.replicas != 1:
                raise ValueError(
                    f"pool {pool.name}: give either replicas or autoscaling, which has min, max "
                    "and initial"
                )
        return self

    @model_validator(mode="after")
    def _replicas_or_pools(self) -> Deployment:
        if not self.pools:
            return self
        if "replicas" in self.model_fields_set and self.replicas != 1:
            raise ValueError("give either replicas or pools, whose replicas count for themselves")
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError("two pools have the same name")
        roles = {pool.role for pool in self.pools}
        if roles not in ({"serve"}, {"prefill", "decode"}):
            raise ValueError(
                "the roles of pools must all be serve, or be prefill and decode with at least one "
                "pool each"
            )
        return self
