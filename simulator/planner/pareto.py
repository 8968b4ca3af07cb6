"""Pareto fronts: deployments that nothing else beats in one figure without losing in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.results.definitions import value_at

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Front:
    """Two figures that pull in different directions.

    Args:
        name: for reports and columns.
        x, y: paths of the figures in a summary.
        x_up, y_up: whether more is better.
    """

    name: str
    title: str
    x: str
    y: str
    x_up: bool
    y_up: bool


FRONTS = (
    Front(
        "speed", "Speed for one user against throughput of a device",
        "throughput.output_tokens_per_s_per_user.p50",
        "throughput.output_tokens_per_s_per_device", True, True,
    ),
    Front(
        "cost_ttft", "Cost against TTFT", "cost.usd_per_million_output_tokens",
        "latency.ttft_ms.p99", False, False,
    ),
    Front(
        "cost_tpot", "Cost against TPOT", "cost.usd_per_million_output_tokens",
        "latency.tpot_ms.p99", False, False,
    ),
    Front(
        "cost_energy", "Cost against energy", "cost.usd_per_million_output_tokens",
        "energy.joules_per_output_token", False, False,
    ),
)  # fmt: skip
"""What reports draw."""


def on_front(values: Floats) -> npt.NDArray[np.bool_]:
    """Which points no other point is as good as in every column and better in one.

    Args:
        values: lower is better in each column; rows with NaN are on no front. Shape (points,
            figures).

    Returns:
        Shape (points,). Equal points are all on the front, or none is.
    """
    known = np.isfinite(values).all(axis=1)
    found = np.zeros(len(values), dtype=np.bool_)
    rows = np.flatnonzero(known)
    order = rows[np.lexsort(values[rows].T[::-1])]
    kept: list[Floats] = []
    for row in order:
        point = values[row]
        beaten = any(bool((other <= point).all()) and bool((other < point).any()) for other in kept)
        if not beaten:
            found[row] = True
            kept.append(point)
    return found


def flags(summaries: Sequence[dict[str, Any]], front: Front) -> list[bool]:
    """Which of the runs lie on a front."""
    values = np.array(
        [
            [
                _number(value_at(summary, front.x)) * (-1 if front.x_up else 1),
                _number(value_at(summary, front.y)) * (-1 if front.y_up else 1),
            ]
            for summary in summaries
        ],
        dtype=np.float64,
    ).reshape(-1, 2)
    return [bool(flag) for flag in on_front(values)]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
