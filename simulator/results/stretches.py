"""Rows of the step table cut at a point in time."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from simulator.results.record import StepTable
from simulator.workload.requests import Floats, Ints

_CARRIED_BY_THE_FIRST = (
    "prefill", "prefill_tokens", "wasted_tokens", "first_tokens", "accepted_tokens"
)  # fmt: skip


def rows(steps: StepTable, start: int, stop: int) -> StepTable:
    """A range of rows, without copying them."""
    return StepTable(**{f.name: getattr(steps, f.name)[start:stop] for f in fields(steps)})


def cut_at(steps: StepTable, at_s: float) -> StepTable:
    """The same steps, with rows that run across ``at_s`` split into the steps that ended by then,
    the step under way, and those that start afterwards. The parts stand at the end of the table.
    """
    duration = steps.duration_s
    across = (steps.start_s < at_s) & (steps.start_s + duration > at_s) & (steps.steps > 1)
    if not across.any():
        return steps
    whole, torn = steps.select(~across), steps.select(across)
    done = _ended_by(torn, at_s)
    under_way = np.minimum(done + 1, torn.steps)
    parts = [whole]
    for first, last in ((np.zeros_like(done), done), (done, under_way), (under_way, torn.steps)):
        parts.append(_part(torn, first, last))
    return StepTable(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(steps)}
    )


def _ended_by(steps: StepTable, at_s: float) -> Ints:
    """How many steps of each row ended at or before ``at_s``."""
    first, last = np.zeros_like(steps.steps), steps.steps.copy()
    while (last - first > 1).any():
        middle = (first + last) // 2
        ended = steps.start_s + span_of(steps, middle) <= at_s
        first = np.where(ended, middle, first)
        last = np.where(ended, last, middle)
    return first


def span_of(steps: StepTable, count: Ints) -> Floats:
    """Seconds of the first ``count`` steps of each row. Shapes (rows,)."""
    span: Floats = count * steps.first_s + steps.slope_s * (count * (count - 1) / 2)
    return span


def _part(steps: StepTable, first: Ints, last: Ints) -> StepTable:
    """Steps ``first`` to ``last`` − 1 of each row; rows without any are left out."""
    columns = {f.name: getattr(steps, f.name) for f in fields(steps)}
    columns["steps"] = last - first
    columns["start_s"] = steps.start_s + span_of(steps, first)
    columns["first_s"] = steps.first_s + first * steps.slope_s
    columns["context"] = steps.context + first * steps.decode
    columns["local_context"] = steps.local_context + first * steps.local_growth
    columns["stall_s"] = steps.stall_s * ((last - first) / steps.steps)
    columns["kv_tokens"] = steps.kv_tokens - (steps.steps - last) * steps.decode
    for name in _CARRIED_BY_THE_FIRST:  # rows of several steps have none of these; keep the sums
        columns[name] = np.where(first == 0, columns[name], 0)
    return StepTable(**columns).select(last > first)
