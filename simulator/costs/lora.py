"""What adapters cost: their products in a step, their memory, and the way to the device.

An adapter of rank r adds x·A·B to a linear layer x·W, with A of k × r and B of r × n (LoRA,
arXiv:2106.09685). A step with several adapters runs two grouped products a layer over all tokens,
which shrink to r and expand again (Punica, arXiv:2310.18547; S-LoRA, arXiv:2311.03285): every
distinct adapter's A and B are read once, whatever the number of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.costs.operators import Demand, scaled
from simulator.errors import ScenarioError
from simulator.hardware.efficiency import Efficiency
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import DenseMlp, GroupedAttention, ModelSpec
from simulator.scenario.lora import Lora
from simulator.workload.requests import Floats

_BYTES = 2.0
_WIDE = 4.0
"""Of what is in between the two products, which is kept in 32 bits."""


@dataclass(frozen=True, slots=True)
class AdapterCost:
    """Of one device.

    Args:
        layers: linear layers that adapters change.
        width: k + n of all of them together.
        traffic: bytes that a token moves besides what is in between: inputs, and outputs read and
            written.
        rank: that kernels are made for.
        overhead_s, bandwidth, compute: of a kernel; bytes/s and FLOP/s that it reaches.
    """

    layers: int
    width: float
    traffic: float
    rank: int
    overhead_s: float
    bandwidth: float
    compute: float

    def seconds(self, distinct: int, tokens: int) -> float:
        """Of a step in which ``tokens`` use ``distinct`` adapters."""
        if not tokens:
            return 0.0
        moved, flops = self.moved(distinct, tokens), self.flops(tokens)
        fixed = 2 * self.layers * self.overhead_s
        return float(fixed + moved / self.bandwidth + flops / self.compute)

    def moved(self, distinct: Floats | float, tokens: Floats | float) -> Floats | float:
        """Bytes."""
        between = 2 * _WIDE * self.rank * self.layers
        return distinct * self.bytes_of(self.rank) + tokens * (self.traffic + between)

    def flops(self, tokens: Floats | float) -> Floats | float:
        """2 · r · (k + n) a token and layer."""
        return 2.0 * tokens * self.rank * self.width

    def bytes_of(self, rank: int) -> float:
        """Weights of one adapter on one device."""
        return _BYTES * rank * self.width

    def demand(self, distinct: Floats, tokens: Floats) -> Demand:
        """Time and work for each step; arrays of shape (steps,)."""
        some = (tokens > 0).astype(np.float64)
        moved = np.asarray(self.moved(distinct, tokens))
        flops = np.asarray(self.flops(tokens))
        latency = 2 * self.layers * self.overhead_s * some
        return scaled(
            1, latency + moved / self.bandwidth + flops / self.compute, flops, moved, 0.0 * flops,
            compute=flops / self.compute, memory=moved / self.bandwidth, latency=latency,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """Adapters of a deployment as replicas see them.

    Args:
        max_loras: in device memory at once, and in a step.
        cost: of their products.
        host_bytes_per_s: at which a device loads its share of one.
    """

    max_loras: int
    cost: AdapterCost
    host_bytes_per_s: float

    def load_s(self, rank: int) -> float:
        """Time until an adapter of this rank is in device memory."""
        return self.cost.bytes_of(rank) / self.host_bytes_per_s

    @property
    def slots_gib(self) -> float:
        """Memory of all slots on one device."""
        return self.max_loras * self.cost.bytes_of(self.cost.rank) / (1 << 30)


def adapter_plan(
    lora: Lora,
    spec: ModelSpec,
    hardware: HardwareProfile,
    efficiency: Efficiency,
    layout: Layout,
) -> AdapterPlan:
    """What adapters of a scenario cost.

    Raises:
        ScenarioError: the model has no such layers, or nothing says how fast the host's link is.
    """
    link = hardware.node.host_link_gb_per_s
    if link is None:
        raise ScenarioError(
            f"the profile of {hardware.title} does not say how fast adapters come from the host",
            where="engine.lora",
            hint="give node.host_link_gb_per_s in a hardware profile of your own",
        )
    shapes = [shape for shape in _shapes(lora, spec, layout.tp) if shape[0]]
    product = efficiency.matmul["bf16"]
    bandwidth, peak = hardware.bandwidth_bytes_per_s, hardware.peak_flops_per_s("bf16")
    cost = AdapterCost(
        layers=sum(count for count, _, _ in shapes),
        width=sum(count * (k + n) for count, k, n in shapes),
        traffic=_BYTES * sum(count * (k + 2 * n) for count, k, n in shapes),
        rank=lora.max_rank,
        overhead_s=efficiency.elementwise.overhead_s,
        bandwidth=product.bandwidth * bandwidth,
        compute=product.compute * peak,
    )
    return AdapterPlan(lora.max_loras, cost, link.value * 1e9)


def _shapes(lora: Lora, spec: ModelSpec, tp: int) -> Iterator[tuple[int, float, float]]:
    """(layers, inputs, outputs) of the linear layers that adapters change, on one device."""
    for group in spec.groups:
        attention, mlp, hidden = group.attention, group.mlp, spec.hidden
        if {"qkv", "o"} & set(lora.targets):
            if not isinstance(attention, GroupedAttention):
                raise _no_target("qkv and o", spec, "up and down")
            dim = attention.head_dim
            heads, kv = attention.heads / tp, max(1.0, attention.kv_heads / tp)
            if "qkv" in lora.targets:
                yield group.count, hidden, (heads + 2 * kv) * dim
            if "o" in lora.targets:
                yield group.count, heads * dim, hidden
        if {"up", "down"} & set(lora.targets):
            if not isinstance(mlp, DenseMlp):
                raise _no_target("up and down", spec, "qkv and o")
            width = mlp.intermediate / tp
            if "up" in lora.targets:
                yield group.count, hidden, (2 if mlp.gated else 1) * width
            if "down" in lora.targets:
                yield group.count, width, hidden


def _no_target(names: str, spec: ModelSpec, others: str) -> ScenarioError:
    return ScenarioError(
        f"adapters on {names} are simulated for grouped attention and dense feed-forward layers, "
        f"and some layers of {spec.name} are others",
        where="engine.lora.targets",
        hint=f"use {others} alone, if those are",
    )
