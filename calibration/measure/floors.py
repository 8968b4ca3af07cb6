"""Measured kernels and steps against the ceilings of the same run.

``python -m calibration.measure.floors DIR`` prints them. A kernel's floor is the larger of its
bytes over the copy's rate and its FLOPs over the rate of a large product; a step's floor is the sum
over its operators.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibration.engine.build import NAME as ENGINE
from calibration.fit.machine.operators import models_of, precision_of
from calibration.fit.machine.profile import MachineFit
from calibration.measure.rows import Row
from simulator.costs.build import OperatorBuilder
from simulator.costs.operators import Operator, Shape
from simulator.models.layout import ALONE


class Reached(NamedTuple):
    """A kernel or step at a size: its time, its floor, and the wanted share of the floor."""

    model: str
    name: str
    size: str
    seconds: float
    floor_s: float
    wanted: float | None

    @property
    def share(self) -> float:
        """Of the ceiling that binds."""
        return self.floor_s / self.seconds


def reached(folder: Path) -> Iterator[Reached]:
    """Everything that was measured in a folder of ``simulate calibrate``.

    Raises:
        UserError: it holds no measurements.
    """
    machine = MachineFit(folder)
    rows, hardware = machine.rows, machine.hardware
    models = models_of(rows, folder)
    for model, spec in models.items():
        mine = [row for row in rows if row.model == model and row.what != "ceiling"]
        for precision in dict.fromkeys(precision_of(row) for row in mine):
            here = [row for row in mine if precision_of(row) == precision]
            ops = list(OperatorBuilder(spec, hardware, ENGINE, precision, ALONE).build())
            title = model if precision.weights == "bf16" else f"{model} {precision.weights}"
            yield from _operators(title, here, ops)
            yield from _steps(title, here, ops)


def _operators(model: str, rows: Sequence[Row], ops: Sequence[Operator]) -> Iterator[Reached]:
    by_name = {op.name: op for op in ops}
    for row in rows:
        op = by_name.get(row.name)
        if row.what == "operator" and op is not None:
            kernels = op.count  # type: ignore[attr-defined]
            floor = _floor(op, row) / kernels
            yield Reached(model, row.name, _size(row), row.seconds, floor, _wanted(row, floor))


def _wanted(row: Row, floor: float) -> float | None:
    """The share of the ceiling that a kernel should reach where it is large enough to."""
    match row.name:
        case "decode_attention" if row.decode >= 32 and row.context >= 2048 * row.decode:
            return 0.85
        case "prefill_attention" if any(c.new >= 4096 for c in row.prompt_chunks):
            return 0.60
        case "qkv_proj" | "up_proj" | "down_proj" if row.rows >= 4096:
            return 0.80
        case _:
            return None


def _steps(model: str, rows: Sequence[Row], ops: Sequence[Operator]) -> Iterator[Reached]:
    """Steps in which all of 32 sequences or so decode, the middle one of them."""
    decodes = sorted(
        (row for row in rows if row.what == "step" and not row.chunks and 30 <= row.decode <= 32),
        key=lambda row: row.seconds,
    )
    if decodes:
        row = decodes[len(decodes) // 2]
        floor = sum(_floor(op, row) for op in ops)
        yield Reached(model, "decode step", _size(row), row.seconds, floor, 1 / 1.25)


def _floor(op: Operator, row: Row) -> float:
    demand = op.demand(_shape(row))
    device, peak = op.device, getattr(op, "peak", None)  # type: ignore[attr-defined]
    memory = float(demand.moved[0]) / device.bandwidth
    return max(memory, float(demand.flops[0]) / peak if peak else 0.0)


def _shape(row: Row) -> Shape:
    chunks = row.prompt_chunks
    new = sum(c.new for c in chunks)
    read = sum(c.new + c.past for c in chunks)
    pairs = sum(c.new * c.past + c.new * (c.new + 1) / 2 for c in chunks)

    def one(value: float) -> np.ndarray:
        return np.array([float(value)])

    return Shape(
        tokens=one(row.rows), sampled=one(row.sampled), decode=one(row.decode),
        context=one(row.context), local_context=one(row.local_context or row.context),
        prefill=one(new), read=one(read), local_read=one(read), pairs=one(pairs),
        local_pairs=one(pairs), chunks=one(len(chunks)),
    )  # fmt: skip


def _size(row: Row) -> str:
    parts = []
    if row.decode:
        parts.append(f"{row.decode} × {row.context // row.decode}")
    if row.chunks:
        parts.append(row.chunks if len(row.chunks) < 20 else f"{len(row.prompt_chunks)} prompts")
    return " + ".join(parts) or f"{row.sampled or row.rows} rows"


def table(found: Sequence[Reached], *, everything: bool = False) -> Iterator[str]:
    """A line for each kernel and step that something is wanted of, or for all."""
    yield (
        f"{'model':26s}{'what':20s}{'size':>18s}{'µs':>11s}{'floor':>11s}{'share':>8s}{'want':>7s}"
    )
    for each in found:
        if each.wanted is None and not everything:
            continue
        want = f"{100 * each.wanted:6.0f}%" if each.wanted else ""
        mark = "" if not each.wanted or each.share >= each.wanted else "  below"
        yield (
            f"{each.model:26s}{each.name:20s}{each.size:>18s}{each.seconds * 1e6:>11.1f}"
            f"{each.floor_s * 1e6:>11.1f}{100 * each.share:>7.0f}%{want}{mark}"
        )


if __name__ == "__main__":
    print("\n".join(table(list(reached(Path(sys.argv[1]))), everything="--all" in sys.argv)))  # noqa: T201
