"""A device, the node it sits in, its price and power: what a file in hardware_profiles/ holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.errors import UserError
from simulator.hardware.efficiency import Efficiency, Provenance
from simulator.scenario.base import Fraction, Model, PositiveFloat
from simulator.workload.requests import Floats

PEAK_FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4", "fp4")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", max_length=60)]


class Figure(Model):
    """A number and where it comes from (a key of the profile's ``sources``). What is not published
    has the source ``estimate``, and its note says by which rule it was estimated."""

    value: PositiveFloat
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _estimates_say_how(self) -> Figure:
        if self.source == "estimate" and not self.note:
            raise ValueError("an estimate needs a note that says how it was made")
        return self


class Memory(Model):
    """Device memory. ``capacity_gib`` is what software can allocate on an empty device."""

    capacity_gib: Figure
    bandwidth_gb_per_s: Figure
    type: str = ""
    cache_mb: Figure | None = Field(None, description="last-level cache on the device")


class Link(Model):
    """What joins devices of one node."""

    kind: Literal["nvlink", "xgmi", "pcie", "ici", "ethernet", "neuronlink", "upi", "none"]
    gb_per_s_per_direction: Figure | None = Field(
        None, description="a device's total bandwidth to its peers, one direction"
    )

    @model_validator(mode="after")
    def _a_link_has_a_rate(self) -> Link:
        if (self.kind == "none") != (self.gb_per_s_per_direction is None):
            raise ValueError(
                "a link needs gb_per_s_per_direction, and kind 'none' must not have it"
            )
        return self


class Node(Model):
    """The server."""

    devices: Annotated[int, Field(ge=1, le=512)]
    host_link_gb_per_s: Figure | None = Field(None, description="device to host, one direction")
    network_gb_per_s_per_device: Figure | None = Field(
        None, description="to other nodes, one direction"
    )
    network_latency_us: Figure | None = Field(
        None, description="of one hop between nodes, as collectives feel it; default: 5"
    )


Coefficient = Annotated[float, Field(ge=0, le=10)]


class PowerCurve(Model):
    """Power while a step runs, between idle and TDP:
    ``P = idle + (TDP - idle)·min(1, active + compute·MFU + memory·MBU + attention·A + widening·W)``
    with the step's shares of the peak FLOP/s (of the type used) and of the peak bandwidth, and the
    shares of its time in decode attention (A) and in products that widen their weights first (W):
    both kernels keep the cores busy far beyond what their FLOPs and bytes say. Matrix units draw
    full power well below their full rate, hence coefficients above 1."""

    active: Fraction
    compute: Coefficient
    memory: Coefficient
    attention: Coefficient = 0.0
    widening: Coefficient = 0.0
    provenance: Provenance


class Power(Model):
    """Electrical power of one device."""

    tdp_w: Figure
    idle_w: Figure
    curve: PowerCurve

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Power:
        if self.idle_w.value >= self.tdp_w.value:
            raise ValueError(f"idle_w ({self.idle_w.value:g}) is not below tdp_w")
        return self

    def step_w(self, load: Mapping[str, Floats]) -> Floats:
        """Power in W while steps run; ``load`` has the shares that the curve's coefficients of the
        same names multiply (0 to 1), shape (steps,)."""
        idle, curve = self.idle_w.value, self.curve
        part = sum((getattr(curve, name) * share for name, share in load.items()), curve.active)
        watts: Floats = idle + (self.tdp_w.value - idle) * np.minimum(1.0, part)
        return watts


class Price(Model):
    """What a cloud asks for one device for one hour."""

    plan: Literal["on_demand", "reserved", "spot"]
    usd_per_device_hour: PositiveFloat
    cloud: str
    instance: str = ""
    region: str = ""
    as_of: date
    source: str


class HardwareProfile(Model):
    """One device type. Peaks are dense (no sparsity), TFLOP/s or TOP/s by number format."""

    name: Name
    title: str
    vendor: str
    kind: Literal["gpu", "tpu", "accelerator", "cpu"]
    architecture: str
    aliases: tuple[Name, ...] = ()
    peak_tflops: dict[str, Figure]
    structured_sparsity: Figure | None = Field(
        None, description="peak with 2:4 sparse weights over the dense one; none: no such units"
    )
    memory: Memory
    link: Link
    node: Node
    power: Power
    prices: tuple[Price, ...] = ()
    efficiency: Efficiency
    sources: dict[str, str]

    @model_validator(mode="after")
    def _every_figure_has_a_source(self) -> HardwareProfile:
        for where, source in self.cited():
            if source not in self.sources:
                raise ValueError(f"{where}: source '{source}' is not a key of sources")
        cited = {source for _, source in self.cited()}
        unused = [key for key in self.sources if key not in cited]
        if unused:
            raise ValueError(f"sources: no figure cites '{unused[0]}'")
        return self

    @model_validator(mode="after")
    def _peaks_make_sense(self) -> HardwareProfile:
        for key in self.peak_tflops:
            if key not in PEAK_FORMATS:
                raise ValueError(f"peak_tflops: '{key}' is none of {', '.join(PEAK_FORMATS)}")
        if not {"bf16", "fp16"} & set(self.peak_tflops):
            raise ValueError("peak_tflops needs bf16 or fp16")
        if self.node.devices > 1 and self.link.kind == "none":
            raise ValueError("a node of several devices needs a link")
        return self

    def cited(self) -> Iterator[tuple[str, str]]:
        """Every figure's place and source key."""
        yield from _citations(self, "")

    def computes(self, dtype: str) -> bool:
        """Whether the device has units for products in this type (fp16 and bf16 are one)."""
        return _peak_key(self.peak_tflops, dtype) is not None

    @property
    def vector_ops_per_s(self) -> float | None:
        """Instructions of the vector units a second: half of their FLOP/s, as a fused
        multiply-add counts two; None where that figure is not known."""
        peak = self.peak_tflops.get("fp32")
        return None if peak is None else peak.value * 1e12 / 2

    def peak_flops_per_s(self, dtype: str) -> float:
        """Dense peak in FLOP/s for products in ``dtype``.

        Raises:
            UserError: the device has no such units.
        """
        key = _peak_key(self.peak_tflops, dtype)
        if key is None:
            known = ", ".join(self.peak_tflops)
            raise UserError(f"{self.title} has no {dtype} matrix units", hint=f"it has {known}")
        return self.peak_tflops[key].value * 1e12

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Peak memory bandwidth, bytes/s."""
        return self.memory.bandwidth_gb_per_s.value * 1e9

    @property
    def link_bytes_per_s(self) -> float | None:
        """Bandwidth to the peers in the node, one direction, bytes/s; None without a link."""
        rate = self.link.gb_per_s_per_direction
        return rate.value * 1e9 if rate else None


def _peak_key(peaks: dict[str, Figure], dtype: str) -> str | None:
    same = {"bf16": "fp16", "fp16": "bf16"}
    return next((key for key in (dtype, same.get(dtype, "")) if key in peaks), None)


def _citations(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Figure | Price):
        yield where, value.source
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _citations(getattr(value, name), f"{where}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _citations(item, f"{where}.{key}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _citations(item, f"{where}[{index}]")
