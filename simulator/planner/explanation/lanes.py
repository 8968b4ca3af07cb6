"""What the time of a scheduler went to, as functions of time that any request can ask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from simulator.results.record import LANES_APART, RunRecord, StepTable
from simulator.results.stretches import span_of
from simulator.workload.requests import Floats, Ints

TICK = 1e-9
"""Seconds by which the same moment may differ, because sums of times are rounded."""


class Lane:
    """The rows of the step table of one scheduler (a replica, or one of its lanes), in order.

    Args:
        steps: those rows.
        shares: for each kind of time, the share of every row's duration. Shapes (rows,).
    """

    def __init__(self, steps: StepTable, shares: Mapping[str, Floats]) -> None:
        self.steps = steps
        self.start_s = steps.start_s
        self.duration_s = steps.duration_s
        self.end_s = self.start_s + self.duration_s
        self._shares = dict(shares)
        self._before = {
            kind: np.concatenate(([0.0], np.cumsum(share * self.duration_s)))
            for kind, share in self._shares.items()
        }

    def spent(self, kind: str, from_s: Floats, until_s: Floats) -> Floats:
        """Seconds of a kind of time between two times each. Shape as given."""
        taken: Floats = self._until(kind, until_s) - self._until(kind, from_s)
        return np.maximum(taken, 0.0)

    def _until(self, kind: str, at_s: Floats) -> Floats:
        if not len(self.start_s):
            return np.zeros(np.shape(at_s))
        row = np.searchsorted(self.start_s, at_s, side="right") - 1
        known = np.maximum(row, 0)
        part = np.minimum(at_s, self.end_s[known]) - self.start_s[known]
        inside = self._before[kind][known] + self._shares[kind][known] * part
        return np.where(row >= 0, inside, 0.0)

    def row_at(self, at_s: Floats) -> Ints:
        """The row that runs at each time, -1 where none does (a row's end belongs to it)."""
        row = np.searchsorted(self.start_s, at_s, side="left") - 1
        runs = (row >= 0) & (at_s <= self.end_s[np.maximum(row, 0)] + TICK)
        return np.where(runs, row, -1)

    def boundary(self, at_s: Floats) -> Floats:
        """End of the step under way at each time; the time itself where none is. Shape as given."""
        row = self.row_at(at_s)
        inside = row >= 0
        if not inside.any():
            return np.array(at_s, dtype=np.float64)
        mine = self.steps.select(row[inside])
        passed = at_s[inside] - mine.start_s
        low, high = np.zeros_like(mine.steps), mine.steps.copy()
        while (apart := high - low > 1).any():  # the least number of steps that last so long
            middle = (low + high) // 2
            short = span_of(mine, middle) < passed - TICK
            low = np.where(apart & short, middle, low)
            high = np.where(apart & ~short, middle, high)
        found = np.array(at_s, dtype=np.float64)
        found[inside] = np.maximum(mine.start_s + span_of(mine, high), at_s[inside])
        return found


def keys_of_rows(record: RunRecord) -> Ints:
    """The scheduler of each row of the step table, as one number."""
    return record.steps.replica + LANES_APART * record.steps.lane


def keys_of_requests(record: RunRecord, replica: Ints) -> Ints:
    """The scheduler of each request on the given replicas; -1 for nobody's."""
    lane = 0 if record.lane is None else record.lane
    keys: Ints = np.where(replica >= 0, replica + LANES_APART * lane, -1)
    return keys


def rows_of(record: RunRecord, key: int, keys: Ints) -> npt.NDArray[np.int64]:
    """Rows of one scheduler, in the order of their start."""
    rows = np.flatnonzero(keys == key)
    order: npt.NDArray[np.int64] = rows[np.argsort(record.steps.start_s[rows], kind="stable")]
    return order
