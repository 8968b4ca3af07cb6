"""One server with round service times, for orders of the queue that have closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.cluster import run_cluster
from simulator.resolution.terms import ClassTerms
from simulator.results.record import RunRecord
from simulator.scenario.policies import ContinuousPolicy
from simulator.scenario.queue import Queue
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.dyadic import TICK_S, DyadicCost
from tests.strategies import make_limits

Floats = npt.NDArray[np.float64]

STEP_TICKS = 1000
STEP_S = STEP_TICKS * TICK_S
CONSTANT = DyadicCost(
    base=STEP_TICKS, mixed_base=STEP_TICKS,
    sequence=0, context=0, token=0, pair=0, chunk=0, sampled=0,
)  # fmt: skip
"""Every step takes STEP_S, so that a request alone takes STEP_S for each output token."""

SAME = (ClassTerms(),)


def requests(
    at_s: Sequence[float] | Floats,
    outputs: Sequence[int] | npt.NDArray[np.int64],
    classes: Sequence[int] | npt.NDArray[np.int64] | None = None,
    prompts: Sequence[int] | None = None,
) -> Requests:
    """Open-loop requests with prompts of one token unless said."""
    n = len(outputs)
    ones = np.ones(n, dtype=np.int64)
    class_id = 0 * ones if classes is None else np.asarray(classes, dtype=np.int64)
    return Requests(
        arrival_s=np.asarray(at_s, dtype=np.float64),
        input_tokens=ones if prompts is None else np.asarray(prompts, dtype=np.int64),
        output_tokens=np.asarray(outputs, dtype=np.int64),
        class_id=class_id,
        parent=ROOT * ones,
        pool=OPEN_LOOP * ones,
        session=-ones,
        classes=tuple(f"class {i}" for i in range(int(class_id.max()) + 1)),
    )


def serve(
    traffic: Requests,
    queue: Queue,
    terms: tuple[ClassTerms, ...] | None = None,
    *,
    seqs: int = 1,
    blocks: int = 10_000_000,
    block_size: int = 16,
    cost: DyadicCost = CONSTANT,
    **more: Any,
) -> RunRecord:
    """Serves them with ``seqs`` seats under an order."""
    limits = make_limits(ContinuousPolicy(), seqs=seqs, budget=100_000, block_size=block_size)
    limits = replace(limits, queue=queue)
    return run_cluster(traffic, limits, blocks, cost, terms=terms, **more)


def steps(seconds: Floats) -> list[float]:
    """Times in steps."""
    return [float(s) / STEP_S for s in seconds]
