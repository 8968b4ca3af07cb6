"""Steps of one kind as rows of a step table, the form in which cost models price them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from simulator.costs.model import StepCostModel
from simulator.costs.protocol import Chunk, LockstepCost, local_pairs, step_seconds
from simulator.results.record import StepTable


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``decode`` sequences that each attend to ``context`` tokens, or the first
    ``prompt`` tokens of one prompt, whose last one is sampled."""

    decode: int = 0
    context: int = 0
    prompt: int = 0


def table_of(cost: StepCostModel, steps: Sequence[Step]) -> StepTable:
    """A row for each step, as long as the cost model says; where ranks step together, a row for
    each of them, all alike, those of a step next to each other."""
    ranks = cost.ranks if isinstance(cost, LockstepCost) else 1
    one = np.array([_row(cost, step, float(at)) for at, step in enumerate(steps)])
    rows = np.repeat(one, ranks, axis=0)
    columns = {name: rows[:, at] for at, name in enumerate(_COLUMNS)}
    columns["lane"] = np.tile(np.arange(ranks), len(steps)).astype(np.float64)
    nothing = np.zeros(len(rows))
    made: dict[str, Any] = {
        field.name: columns.get(field.name, nothing).astype(
            np.int64 if field.type == "Ints" else np.float64
        )
        for field in fields(StepTable)
    }
    return StepTable(**made)


_COLUMNS = (
    "start_s", "steps", "first_s", "decode", "context", "local_context", "local_growth",
    "prefill", "prefill_tokens", "prefill_pairs", "local_pairs", "prefill_context", "sampled",
    "first_tokens", "gap_tokens", "running",
)  # fmt: skip


def _row(cost: StepCostModel, step: Step, at: float) -> list[float]:
    n, new, span = step.decode, step.prompt, cost.local_span
    near = near_of(step.context, span, chunked=cost.local_is_chunked)
    chunks = [Chunk(new, 0)] if new else []
    seconds = step_seconds(cost, n, n * step.context, n * near, chunks, n + len(chunks))
    pairs = local_pairs(new, 0, span, chunked=cost.local_is_chunked) if span else 0
    some = float(bool(new))
    return [
        at, 1, seconds, n, n * step.context, n * near, 0, some, new, new * (new + 1) / 2, pairs,
        new, n + some, some, n, n + some,
    ]  # fmt: skip


def near_of(context: int, span: int, *, chunked: bool) -> int:
    """Tokens of a context that a layer with local attention looks back at."""
    if not span or not context:
        return 0
    return (context - 1) % span + 1 if chunked else min(context, span)
