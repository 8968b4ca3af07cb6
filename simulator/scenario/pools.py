"""Pools: replicas of several kinds in one deployment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from simulator.scenario.base import Model, PositiveFloat
from simulator.scenario.engine import EngineChoice
from simulator.scenario.hardware import Hardware
from simulator.scenario.lifecycle import Autoscaling, ColdStart, Failures, Replicas, Spot
from simulator.scenario.parallelism import Parallelism
from simulator.scenario.precision import Precision

Role = Literal["serve", "prefill", "decode"]

PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=40)]


class Pool(Model):
    """Replicas of one kind. What a pool does not say, key by key, is as in the scenario; only
    ``hardware`` replaces the scenario's as a whole."""

    name: PoolName = Field(description="how reports call the pool")
    replicas: Replicas = Field(1, description="how many there are")
    role: Role = Field(
        "serve",
        description="serve: whole requests; prefill: prompts, whose KV cache goes to a pool with "
        "the role decode, which generates the rest",
    )
    model: str | None = Field(None, description="a preset's name or a config.json, if another one")
    hardware: Hardware | None = Field(None, description="the devices, if others")
    engine: EngineChoice | None = Field(None, description="the engine, if set differently")
    precision: Precision | None = Field(None, description="number formats, if others")
    parallelism: Parallelism | None = Field(None, description="devices of a replica, if others")
    usd_per_device_hour: PositiveFloat | None = Field(
        None, description="price of a device; default: as the scenario's cost says"
    )
    weight: PositiveFloat = Field(
        1.0,
        description="how much traffic a replica is meant to take compared with those of other "
        "pools; routers divide its load by it",
    )
    shares: PoolName | None = Field(
        None,
        description="pool on whose devices this one runs as well, replica by replica: their steps "
        "take turns, and memory_fraction (or kv_cache_tokens) of each says who gets what",
    )
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="traffic classes that it serves; default: all"
    )
    cold_start: ColdStart | None = Field(None, description="how long a start takes, if otherwise")
    autoscaling: Autoscaling | None = Field(None, description="how many replicas, if otherwise")
    failures: Failures | None = Field(None, description="crashes, if others")
    spot: Spot | None = Field(None, description="devices that may be taken back, if otherwise")

    @field_validator("hardware", mode="before")
    @classmethod
    def _hardware_by_name(cls, value: object) -> object:
        return {"profile": value} if isinstance(value, str) else value

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, value: object) -> object:
        return {"profile": value} if isinstance(value, str) else value
