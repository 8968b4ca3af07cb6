"""How long requests wait at least where they come faster than they can be served.

Requests that come between a_s and a_t take W(s, t) of some machine at least. If all but a few of
them are done within v of their arrival, that work less the few's was done between a_s and a_t + v,
and with R machines

    v ≥ (W(s, t) − what the few take) / R − (a_t − a_s)     for every s ≤ t.

So the longest of these waits bounds every percentile; in the calculus of queues it is the largest
distance by which the arrivals' curve exceeds the service's.
"""

from __future__ import annotations

import numpy as np

from simulator.workload.requests import Floats

_POINTS = 1000
"""Arrivals between which work is summed; of more requests every few."""


class Backlog:
    """Work in the order in which it comes.

    Args:
        arrival_s: of the requests. Shape (requests,).
        seconds: of one machine that each takes at least. Shape (requests,).
    """

    def __init__(self, arrival_s: Floats, seconds: Floats) -> None:
        order = np.argsort(arrival_s, kind="stable")
        self._sorted = np.cumsum(np.sort(seconds)[::-1])
        times, sums = arrival_s[order], np.cumsum(seconds[order])
        self.total_s = float(sums[-1])
        every = -(-len(times) // _POINTS)
        self._from_s = times[::every]
        self._before = np.concatenate([[0.0], sums])[:-1][::every]
        last = np.append(np.arange(every - 1, len(times) - 1, every), len(times) - 1)
        self._to_s, self._until = times[last], sums[last]

    def waits_s(self, machines: Floats) -> Floats:
        """The longest wait with nobody left out, for each number of machines. Same shape."""
        each = 1.0 / machines[:, None]
        begins = np.minimum.accumulate(self._before * each - self._from_s, axis=1)
        longest: Floats = (self._until * each - self._to_s - begins).max(axis=1)
        return longest

    def ends_s(self, machines: Floats) -> Floats:
        """When all is done at the earliest. Same shape."""
        rest = self.total_s - self._before
        earliest: Floats = (self._from_s + rest / machines[:, None]).max(axis=1)
        return earliest

    def largest_s(self, count: int) -> float:
        """What so many requests take at the most, of those least times."""
        return float(self._sorted[min(count, len(self._sorted)) - 1]) if count > 0 else 0.0
