"""Steps as they ran beside their predictions: a table, and errors by kind of step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from calibration.engine.serve import DoneStep
from simulator.costs.protocol import Chunk, StepCost, step_seconds

KINDS = ("decode only", "with prompts", "prompts only")
"""All sequences decode; some decode beside prompts; none decodes."""

ALL = "all"

_PLAIN = tuple(field.name for field in fields(DoneStep) if field.name != "chunks")


@dataclass(frozen=True, slots=True)
class StepErrors:
    """How far predicted step times lie from measured ones.

    Args:
        kind: one of ``KINDS``, or ``ALL``.
        steps: how many.
        share: of the measured time of all steps.
        mean_ms: measured.
        median_error_pct, p90_error_pct: of |predicted − measured| / measured.
        bias: median of predicted / measured.
        time_ratio: predicted / measured time of all of them together.
    """

    kind: str
    steps: int
    share: float
    mean_ms: float
    median_error_pct: float
    p90_error_pct: float
    bias: float
    time_ratio: float

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def predicted_s(step: DoneStep, cost: StepCost) -> float:
    """What the cost model says about the step that ran."""
    return step_seconds(
        cost, step.decode, step.context, step.local_context, step.chunks, step.sampled
    )


def table_of(steps: Sequence[DoneStep], cost: StepCost | None = None) -> pd.DataFrame:
    """One row a step: the fields of ``DoneStep``, its chunks as the lists ``chunk_new`` and
    ``chunk_past``; with a cost model also ``kind``, ``prompt_tokens``, ``measured_s`` and
    ``predicted_s``."""
    columns: dict[str, Any] = {name: [getattr(step, name) for step in steps] for name in _PLAIN} | {
        "chunk_new": [[chunk.new for chunk in step.chunks] for step in steps],
        "chunk_past": [[chunk.past for chunk in step.chunks] for step in steps],
    }
    if cost is not None:
        columns |= {
            "kind": [_kind(step) for step in steps],
            "prompt_tokens": [sum(chunk.new for chunk in step.chunks) for step in steps],
            "measured_s": [step.seconds for step in steps],
            "predicted_s": [predicted_s(step, cost) for step in steps],
        }
    return pd.DataFrame(columns)


def steps_of(table: pd.DataFrame) -> list[DoneStep]:
    """The steps of such a table."""
    plain = zip(*(table[name].tolist() for name in _PLAIN), strict=True)
    chunks = (
        tuple(Chunk(int(n), int(p)) for n, p in zip(new, past, strict=True))
        for new, past in zip(table["chunk_new"], table["chunk_past"], strict=True)
    )
    return [
        DoneStep(**dict(zip(_PLAIN, row, strict=True)), chunks=some)
        for row, some in zip(plain, chunks, strict=True)
    ]


def _kind(step: DoneStep) -> str:
    if not step.chunks:
        return KINDS[0]
    return KINDS[1] if step.decode else KINDS[2]


def errors(table: pd.DataFrame) -> list[StepErrors]:
    """Of each kind that occurs, and of all steps."""
    whole = float(table["measured_s"].sum())
    found = []
    for kind in (*KINDS, ALL):
        part = table if kind == ALL else table[table["kind"] == kind]
        if not len(part):
            continue
        measured = part["measured_s"].to_numpy(dtype=np.float64)
        predicted = part["predicted_s"].to_numpy(dtype=np.float64)
        ratio = predicted / measured
        away = 100.0 * np.abs(ratio - 1.0)
        found.append(
            StepErrors(
                kind=kind,
                steps=len(part),
                share=float(measured.sum()) / whole,
                mean_ms=1e3 * float(measured.mean()),
                median_error_pct=float(np.median(away)),
                p90_error_pct=float(np.percentile(away, 90)),
                bias=float(np.median(ratio)),
                time_ratio=float(predicted.sum() / measured.sum()),
            )
        )
    return found
