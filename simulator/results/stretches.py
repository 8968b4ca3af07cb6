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
    done = ended_by(torn, at_s)
    under_way = np.minimum(done + 1, torn.steps)
    parts = [whole]
    for first, last in ((np.zeros_like(done), done), (done, under_way), (under_way, torn.steps)):
        parts.append(_part(torn, first, last))
    return StepTable(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(steps)}
    )


def cut_into(steps: StepTable, edges_s: Floats) -> tuple[StepTable, Ints]:
    """The same steps, with rows split so that the steps of each end in one interval.

    Args:
        edges_s: where the intervals end, ascending; what ends after the last one counts there.

    Returns:
        Rows, by interval and start, and their intervals. Shape (parts,).
    """
    end_s = steps.start_s + steps.duration_s
    first = np.searchsorted(edges_s, steps.start_s, side="right")
    last = np.minimum(np.searchsorted(edges_s, end_s), len(edges_s) - 1)
    inside = np.where(steps.steps > 1, np.maximum(last - first, 0), 0)
    torn = np.flatnonzero(inside)
    # Of a torn row as many copies as edges lie within it, and one more for what follows.
    rows = np.repeat(torn, inside[torn] + 1)
    place = np.arange(len(rows)) - np.repeat(
        np.cumsum(inside[torn] + 1) - inside[torn] - 1, inside[torn] + 1
    )
    copies, cells = steps.select(rows), first[rows] + place
    done = np.where(place == inside[rows], copies.steps, ended_by(copies, edges_s[cells]))
    before = np.where(place == 0, 0, np.roll(done, 1))
    parts, kept = _part(copies, before, done), done > before
    whole = np.flatnonzero(inside == 0)
    both = StepTable(
        **{
            f.name: np.concatenate((getattr(steps, f.name)[whole], getattr(parts, f.name)))
            for f in fields(steps)
        }
    )
    cells = np.concatenate((last[whole], cells[kept]))
    order = np.lexsort((both.start_s, cells))
    return both.select(order), cells[order]


def ended_by(steps: StepTable, at_s: float | Floats) -> Ints:
    """How many steps of each row ended at or before ``at_s``; all but one at most."""
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
