"""The number of sequences at which decoding turns from memory-bound to compute-bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.costs.context_steps import ContextCostModel
from simulator.costs.lockstep import LockstepCostModel
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Experts, Matmul, Operator, Shape
from simulator.costs.protocol import StepCost

MOST = 1 << 16
"""Sequences up to which it is looked for."""


def turning_points(cost: StepCost, context: float) -> tuple[int | None, int | None] | None:
    """``turning_batch`` of matrix products and of whole steps.

    Args:
        cost: of a replica, or of one of its stages.
        context: see ``turning_batch``.

    Returns:
        None where no single device has operators that see the tokens of every sequence, and only
        those: pipelines as a whole, shared contexts, experts on the tokens of several ranks.
    """
    if not isinstance(cost, StepCostModel) or isinstance(
        cost, ContextCostModel | LockstepCostModel
    ):
        return None
    span, width = cost.local_span, cost.tokens_per_sequence
    return (
        turning_batch(cost.operators, context, span, products=True, width=width),
        turning_batch(cost.operators, context, span, width=width),
    )


def turning_batch(
    operators: Sequence[Operator],
    context: float,
    span: int = 0,
    *,
    products: bool = False,
    width: int = 1,
) -> int | None:
    """The least number of sequences whose decode step takes its operators longer at their rate of
    arithmetic than at their bandwidth; None if there is none up to ``MOST``.

    Args:
        operators: of a step on one device.
        context: tokens that each sequence attends to.
        span: of layers with local attention, 0 if there are none.
        products: only matrix products, which share their weights, count; else attention, norms and
            so on as well, which move more with every sequence.
        width: tokens that each sequence computes, its last one and drafts.
    """
    chosen = [op for op in operators if not products or isinstance(op, Matmul | Experts)]
    if not chosen:
        return None
    powers = 2 ** np.arange(MOST.bit_length())
    above = np.flatnonzero(_computes(chosen, powers, context, span, width))
    if not len(above):
        return None
    high = int(powers[above[0]])
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _computes(chosen, np.array([middle]), context, span, width)[0]:
            high = middle
        else:
            low = middle
    return high


def _computes(
    operators: Sequence[Operator], batch: np.ndarray, context: float, span: int, width: int
) -> np.ndarray:
    n = batch.astype(np.float64)
    nothing = np.zeros(len(n))
    near = min(context, span) if span else 0.0
    shape = Shape(
        tokens=n * width, sampled=n * width, decode=n,
        context=n * (context + width - 1), local_context=n * (near + width - 1 if span else 0.0),
        prefill=nothing, read=nothing, local_read=nothing, pairs=nothing, local_pairs=nothing,
        chunks=nothing,
    )  # fmt: skip
    demands = [op.demand(shape) for op in operators]
    compute = np.sum([demand.compute_s for demand in demands], axis=0)
    memory = np.sum([demand.memory_s for demand in demands], axis=0)
    answer: np.ndarray = compute > memory
    return answer
