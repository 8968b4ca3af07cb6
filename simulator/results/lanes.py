"""Figures of replicas whose lanes overlap in time: sums over lanes at each moment."""

from __future__ import annotations

import numpy as np

from simulator.results.record import StepTable
from simulator.workload.requests import Floats, Ints


def active_s(steps: StepTable, start_s: float, end_s: float) -> float:
    """Replica-seconds between two times in which at least one lane of a replica had a step."""
    start = np.maximum(steps.start_s, start_s)
    end = np.minimum(steps.start_s + steps.duration_s, end_s)
    seconds = 0.0
    for replica in np.unique(steps.replica):
        mine = np.flatnonzero((steps.replica == replica) & (end > start))
        if not len(mine):
            continue
        mine = mine[np.argsort(start[mine], kind="stable")]
        until = np.maximum.accumulate(end[mine])
        # What each row adds to those that began before it.
        before = np.concatenate(([start[mine[0]]], until[:-1]))
        seconds += float((until - np.maximum(before, start[mine])).clip(min=0.0).sum())
    return seconds


def most(steps: StepTable, column: Ints, start_s: float, end_s: float) -> int:
    """The largest sum of a column over the lanes of a replica at one moment between two times."""
    start = np.maximum(steps.start_s, start_s)
    end = np.minimum(steps.start_s + steps.duration_s, end_s)
    inside = np.flatnonzero(end > start)
    at: Floats = np.concatenate((end[inside], start[inside]))
    change = np.concatenate((-column[inside], column[inside]))
    begins = np.repeat((0, 1), len(inside))
    replica = np.tile(steps.replica[inside], 2)
    order = np.lexsort((begins, at, replica))
    # Every replica's changes add up to nothing, so that one sum runs over all of them.
    return int(np.cumsum(change[order]).max(initial=0))
