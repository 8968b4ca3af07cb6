"""Operators over many steps at once: tables for the clock, rows of the step table afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from simulator.costs.operators import Collective, Demand, Elementwise, Matmul, Operator, Shape
from simulator.workload.requests import Floats

_TIMED = (Matmul, Elementwise, Collective)
"""Operators that can tell their time without all the rest."""


class View:
    """Rows of the step table as operators see them.

    Attributes:
        shape: sizes of each row's average step.
        devices: how many a row stands for.
    """

    def __init__(self, shape: Shape, devices: Floats | int) -> None:
        self.shape = shape
        self.devices = devices

    def of(self, op: Operator) -> Shape:
        """The sizes for an operator."""
        return self.shape

    def shares(self, op: Operator) -> tuple[Floats | float, Floats | float]:
        """The share of the row's devices that executes an operator, and the same weighed by the
        share of its tokens that are the row's own."""
        return 1.0, 1.0


def table_shape(*, tokens: Floats | None = None, sampled: Floats | None = None) -> Shape:
    """Steps that have so many tokens or sampled sequences, and nothing that looks back."""
    size = len(tokens) if tokens is not None else len(sampled) if sampled is not None else 0
    nothing = np.zeros(size)
    return Shape(
        tokens=nothing if tokens is None else tokens,
        sampled=nothing if sampled is None else sampled,
        decode=nothing, context=nothing, local_context=nothing, prefill=nothing,
        read=nothing, local_read=nothing, pairs=nothing, local_pairs=nothing, chunks=nothing,
    )  # fmt: skip


def table(operators: Sequence[Operator], end: int, first: int = 0) -> list[float]:
    """Seconds of operators for ``first`` to ``end`` - 1 tokens."""
    seconds = total(
        operators, table_shape(tokens=np.arange(first, end, dtype=np.float64)), end - first
    )
    return list(seconds.tolist())


def total(operators: Sequence[Operator], shape: Shape, size: int) -> Floats:
    """Seconds of operators in ``size`` steps of this shape, summed. (steps,)."""
    seconds = np.zeros(size)
    for op in operators:
        seconds += op.duration(shape) if isinstance(op, _TIMED) else op.demand(shape).seconds
    return seconds


def attribute(demand: Demand, k: Floats, resource_s: dict[str, Floats]) -> None:
    """Gives an operator's time, its latency apart, to the resource that it needs longest."""
    latency = np.minimum(demand.latency_s, demand.seconds)
    rest = (demand.seconds - latency) * k
    resource_s["latency"] += latency * k
    parts = np.stack([demand.compute_s, demand.memory_s, demand.network_s])
    binding = parts.argmax(axis=0)
    for i, name in enumerate(("compute", "memory", "network")):
        resource_s[name] += np.where(binding == i, rest, 0.0)


def bound(demands: Iterable[tuple[str, Demand]], k: Floats) -> dict[str, dict[str, float]]:
    """Seconds of operators, by name, and by the resource that they need longest (``attribute``)."""
    found: dict[str, dict[str, float]] = {}
    for name, demand in demands:
        sums = {key: np.zeros(len(k)) for key in ("compute", "memory", "network", "latency")}
        attribute(demand, k, sums)
        added(found.setdefault(name, {}), {key: float(each.sum()) for key, each in sums.items()})
    return found


def added(sums: dict[str, float], parts: dict[str, float]) -> None:
    """Adds numbers by their names."""
    for name, part in parts.items():
        sums[name] = sums.get(name, 0.0) + part
