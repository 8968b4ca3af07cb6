"""The scenario: everything one simulation depends on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from simulator.scenario.base import Model
from simulator.scenario.deployment import Deployment
from simulator.scenario.economy import Cost, Energy
from simulator.scenario.engine import EngineChoice
from simulator.scenario.hardware import Hardware
from simulator.scenario.measurement import Measurement
from simulator.scenario.parallelism import Parallelism
from simulator.scenario.precision import Precision
from simulator.scenario.workload import Slo, Workload


class Scenario(Model):
    """Model, hardware, engine, traffic and SLO. The same scenario gives the same result, bit for
    bit, in any process."""

    name: Annotated[str, Field(min_length=1, max_length=80)] = Field(
        "scenario", description="how reports and output directories call the run"
    )
    description: str = Field("", description="what the scenario is for; shown in reports")
    model: str = Field(
        description="a preset's name, or the path of a Hugging Face config.json or its folder"
    )
    hardware: Hardware = Field(description="a profile's name, or a mapping with its name")
    engine: EngineChoice = Field(
        EngineChoice(), description="an engine profile's name, or a mapping with its name"
    )
    precision: Precision = Field(Precision(), description="number formats")
    parallelism: Parallelism = Field(Parallelism(), description="devices of one replica")
    deployment: Deployment = Field(Deployment(), description="replicas and routing")
    workload: Workload = Field(description="the traffic")
    slo: Slo = Field(Slo(), description="what counts as good enough")
    cost: Cost = Field(Cost(), description="what a device-hour costs")
    energy: Energy = Field(Energy(), description="power and carbon")
    measurement: Measurement = Field(Measurement(), description="seed, and which part counts")

    @field_validator("hardware", mode="before")
    @classmethod
    def _hardware_by_name(cls, value: object) -> object:
        return {"profile": value} if isinstance(value, str) else value

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, value: object) -> object:
        return {"profile": value} if isinstance(value, str) else value
