"""Operators of the steps of one device: what they ask, what they reach, what binds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.balance import MOST
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Demand, Elementwise, Experts, Matmul, Operator
from simulator.costs.recurrent import RecurrentScan, RecurrentUpdate
from simulator.costs.rows import bound
from simulator.costs.sharded import GATHER
from simulator.deployment import ResolvedDeployment
from simulator.results.record import StepTable, StepWork
from simulator.rooflines.figures import BatchSweep, Roof, RooflineStep, StepOperator
from simulator.rooflines.rows import Step, table_of

RESOURCES = ("compute", "memory", "network", "latency", "host")
LINKS, OTHER = "links", "other"

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Matmul, "products"),
    (Experts, "experts"),
    (DecodeAttention, "decode attention"),
    (PrefillAttention, "prefill attention"),
    ((RecurrentUpdate, RecurrentScan), "recurrent layers"),
    (Elementwise, OTHER),
)


def kernels_of(op: Operator) -> str:
    """Of which kind an operator's kernels are, see ``Roof`` and ``StepOperator``."""
    return next((name for kind, name in _KINDS if isinstance(op, kind)), LINKS)


class Formats:
    """Names of the number formats in which a deployment computes, by the device's peak in them."""

    def __init__(self, deployment: ResolvedDeployment) -> None:
        precision, hardware = deployment.precision, deployment.hardware
        used = ("fp32", "fp16", "bf16", precision.kv_cache, precision.activations)
        self._names = {
            hardware.peak_flops_per_s(name): name for name in used if hardware.computes(name)
        }
        self.peak = hardware.peak_flops_per_s(precision.activations)

    def name(self, op: Operator) -> str:
        """Format of an operator's arithmetic; empty without any."""
        peak = getattr(op, "peak", None)
        return "" if peak is None else self._names.get(peak, "")


def roofs_of(cost: StepCostModel, formats: Formats) -> tuple[Roof, ...]:
    """A roof for each kind of kernels and each pair of coefficients, the products first."""
    found: dict[tuple[Any, ...], Roof] = {}
    order = [name for _, name in _KINDS]
    for op in cost.operators:
        peak, device = getattr(op, "peak", None), getattr(op, "device", None)
        if peak is None or device is None:
            continue
        e: Any = op.efficiency
        reached = getattr(e, "compute", 1.0)
        if isinstance(op, PrefillAttention):
            reached /= 1 + e.half_head_dim / op.head_dim
        roof = Roof(
            kernels_of(op), formats.name(op), peak, device.bandwidth, reached * peak,
            e.bandwidth * device.bandwidth,
        )  # fmt: skip
        found.setdefault((roof.kernels, roof.format, reached, e.bandwidth), roof)
    return tuple(sorted(found.values(), key=lambda roof: order.index(roof.kernels)))


@dataclass(slots=True)
class _Sum:
    """Operators of the same name."""

    kernels: str
    format: str
    flops: float = 0.0
    moved: float = 0.0
    link: float = 0.0
    seconds: float = 0.0
    floor_s: float = 0.0
    bound_s: dict[str, float] = field(default_factory=dict)

    def add(self, op: Operator, demand: Demand, bandwidth: float) -> None:
        flops, moved = float(demand.flops[0]), float(demand.moved[0])
        self.flops += flops
        self.moved += moved
        self.link += float(demand.link[0])
        self.seconds += float(demand.seconds[0])
        self.floor_s += max(moved / bandwidth, flops / getattr(op, "peak", np.inf))
        first = Demand(*(getattr(demand, name)[:1] for name in Demand.__slots__))
        for name, seconds in bound([(op.name, first)], np.ones(1))[op.name].items():
            self.bound_s[name] = self.bound_s.get(name, 0.0) + seconds

    def told(self, name: str, whole: float) -> StepOperator:
        return StepOperator(
            name=name, kernels=self.kernels, format=self.format if self.flops else "",
            flops=self.flops, bytes=self.moved, link_bytes=self.link,
            seconds=self.seconds, floor_s=self.floor_s,
            intensity=self.flops / self.moved if self.flops and self.moved else None,
            flops_per_s=self.flops / self.seconds, bytes_per_s=self.moved / self.seconds,
            bound=max(self.bound_s, key=lambda key: self.bound_s[key]),
            share=self.seconds / whole,
        )  # fmt: skip


def step_of(cost: StepCostModel, step: Step, formats: Formats, bandwidth: float) -> RooflineStep:
    """One step, operator by operator."""
    table = table_of(cost, [step])
    work = cost.account(table)
    seconds = float(table.duration_s[0])
    sums: dict[str, _Sum] = {}
    for op, demand in cost.demands(table):
        if demand.seconds[0] > 0.0:
            mine = sums.setdefault(op.name, _Sum(kernels_of(op), formats.name(op)))
            mine.add(op, demand, bandwidth)
    told = [each.told(name, seconds) for name, each in sums.items()]
    shares = {name: share[0] for name, share in _shares(table, work).items()}
    return RooflineStep(
        kind="decode" if step.decode else "prefill",
        sequences=step.decode or 1,
        tokens=step.prompt or cost.tokens_per_sequence,
        padded_tokens=cost.tokens_on_device(table)[0],
        context=step.context or step.prompt,
        seconds=seconds,
        host_s=float(work.operator_s["host"][0]),
        gather_s=float(work.operator_s[GATHER][0]) if GATHER in work.operator_s else 0.0,
        operators=tuple(sorted(told, key=lambda each: -each.seconds)),
        resource_share=shares,
        bound=max(shares, key=lambda name: shares[name]),
        flops_share=sum(each.flops for each in told) / (seconds * formats.peak),
        bytes_share=sum(each.bytes for each in told) / (seconds * bandwidth),
    )


def sweep_of(cost: StepCostModel, batches: Sequence[int], context: int) -> BatchSweep:
    """Decode steps with so many sequences each."""
    table = table_of(cost, [Step(decode=n, context=context) for n in batches])
    apart = len(table) // len(batches)
    shares = _shares(table, cost.account(table))
    return BatchSweep(
        batch=tuple(batches),
        seconds=tuple(table.duration_s[::apart].tolist()),
        resource_share={name: tuple(share[::apart]) for name, share in shares.items()},
    )


def _shares(table: StepTable, work: StepWork) -> dict[str, list[float]]:
    whole = table.duration_s
    return {name: (work.resource_s[name] / whole).tolist() for name in RESOURCES}


def batches_up_to(most: int, *more: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 … up to ``most``, and ``more`` of them."""
    steps = [n for power in range(MOST.bit_length()) for n in (1 << power, 3 << power >> 1)]
    return sorted({n for n in (*steps, most, *more) if 1 <= n <= most})
