"""Exact quantiles of inter-token gaps, weighted by tokens, without listing the tokens.

A row stands for an arithmetic progression of gaps, each of which several tokens share. Its members
up to a value are counted in closed form, so an order statistic is found by narrowing the range of
values in which it lies, and what remains is a member of some row: the value is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.results.record import Gaps, StepTable
from simulator.workload.requests import Floats, Ints

_CHUNK = 1 << 18
"""Rows looked at together, so that temporary arrays stay small."""

_FEW = 1 << 17
"""So many gaps, each shared by some tokens, are sorted faster than they are narrowed down."""

_SAMPLE = 4096
"""Rows from which the first guess of a quantile is made."""


class GapDistribution:
    """Gaps ``first + i · slope`` for i in 0 .. steps−1, each ``weight`` times, over all rows.

    Args:
        first, slope: seconds (any unit will do). Shape (rows,).
        steps: at least 1.
        weight: tokens that each gap stands for; rows of weight 0 do not count.
    """

    def __init__(self, first: Floats, slope: Floats, steps: Ints, weight: Ints) -> None:
        keep = weight > 0
        if not keep.all():
            first, slope, steps, weight = first[keep], slope[keep], steps[keep], weight[keep]
        self._first = first
        self._slope = slope
        self._steps = steps
        self._weight = weight
        last = first + (steps - 1) * slope
        self._low = np.minimum(first, last)
        self._high = np.maximum(first, last)
        self.count = int((steps * weight).sum())

    @classmethod
    def of(
        cls, chosen: Sequence[tuple[StepTable, Ints]], gaps: Gaps, *, at_once: int = 0
    ) -> GapDistribution:
        """The gaps that the given rows of step tables imply, those noted apart, and ``at_once`` of
        zero length."""
        if at_once:
            zero = np.zeros(1)
            gaps = Gaps(
                np.append(gaps.at_s, zero),
                np.append(gaps.gap_s, zero),
                np.append(gaps.count, np.array([at_once])),
            )
        ones = np.ones(len(gaps.count), dtype=np.int64)
        return cls(
            np.concatenate([*(steps.first_s[rows] for steps, rows in chosen), gaps.gap_s]),
            np.concatenate([*(steps.slope_s[rows] for steps, rows in chosen), 0.0 * gaps.gap_s]),
            np.concatenate([*(steps.steps[rows] for steps, rows in chosen), ones]),
            np.concatenate([*(steps.gap_tokens[rows] for steps, rows in chosen), gaps.count]),
        )

    # --- moments ---------------------------------------------------------------------------------

    @property
    def min(self) -> float:
        """Smallest gap. Raises ValueError if there are none."""
        return float(self._low.min())

    @property
    def max(self) -> float:
        """Largest gap. Raises ValueError if there are none."""
        return float(self._high.max())

    @property
    def mean(self) -> float:
        """Mean over tokens; NaN if there are none."""
        middle = self._first + self._slope * (self._steps - 1) / 2
        return float((self._steps * self._weight * middle).sum() / self.count)

    @property
    def std(self) -> float:
        """Standard deviation over tokens; NaN if there are none."""
        steps, weight = self._steps, self._weight
        away = self._first + self._slope * (steps - 1) / 2 - self.mean
        # Sum of squares of an arithmetic progression around its own middle: n(n² − 1)/12 · slope².
        spread = self._slope * self._slope * ((steps * steps - 1.0) / 12)
        return float(np.sqrt((steps * weight * (away * away + spread)).sum() / self.count))

    # --- order statistics ------------------------------------------------------------------------

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Quantiles, interpolated between order statistics as ``numpy.quantile`` does by default.

        Args:
            shares: each in 0 .. 1.

        Raises:
            ValueError: there are no gaps.
        """
        if self.count == 0:
            raise ValueError("no gaps: quantiles are undefined")
        places = [share * (self.count - 1) for share in shares]
        ranks = sorted({min(int(p) + up, self.count - 1) for p in places for up in (0, 1)})
        found = dict(zip(ranks, self._order_statistics(ranks), strict=True))
        values = []
        for place in places:
            rank = int(place)
            low, high = found[rank], found[min(rank + 1, self.count - 1)]
            values.append(_interpolate(low, high, place - rank))
        return values

    def counts(self, values: Floats) -> Ints:
        """Tokens whose gap is at most each of ``values`` (ascending). Same shape."""
        ending = np.zeros(len(values) + 1, dtype=np.int64)
        across = np.zeros(len(values), dtype=np.int64)
        for start in range(0, len(self._low), _CHUNK):
            part = slice(start, start + _CHUNK)
            begin = np.searchsorted(values, self._low[part])
            end = np.searchsorted(values, self._high[part])
            tokens = self._steps[part] * self._weight[part]
            ending += _bincount(end, tokens, len(ending))
            split = np.flatnonzero(begin < end)
            for i in range(int(begin[split].min(initial=0)), int(end[split].max(initial=0))):
                rows = split[(begin[split] <= i) & (end[split] > i)] + start
                across[i] += (self._at_most(values[i], rows) * self._weight[rows]).sum()
        return np.cumsum(ending[:-1]) + across

    def _order_statistics(self, ranks: list[int]) -> list[float]:
        """The values at the given ranks (ascending, from 0)."""
        if int(self._steps.sum()) <= _FEW:
            return self._of_all(ranks)
        edges = self._guess_edges(ranks)
        upto = self.counts(edges)
        values = []
        for rank in ranks:
            i = int(np.searchsorted(upto, rank, side="right"))
            below = edges[i - 1] if i else -np.inf
            above = edges[i] if i < len(edges) else np.inf
            rows = np.flatnonzero((self._high > below) & (self._low <= above))
            values.append(self._select(rows, rank - (int(upto[i - 1]) if i else 0), below, above))
        return values

    def _of_all(self, ranks: list[int]) -> list[float]:
        """The same, from a list of all gaps."""
        steps = self._steps
        rows = np.repeat(np.arange(len(steps)), steps)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(steps) - steps, steps)
        values = self._first[rows] + place * self._slope[rows]
        order = np.argsort(values)
        upto = np.cumsum(self._weight[rows][order])
        found: list[float] = values[order][np.searchsorted(upto, ranks, side="right")].tolist()
        return found

    def _guess_edges(self, ranks: list[int]) -> Floats:
        """Values a little below and above the wanted ones, judged by a sample of the rows. A bad
        guess costs time, nothing else."""
        rows = slice(None, None, max(1, len(self._low) // _SAMPLE))
        middle = (self._low[rows] + self._high[rows]) / 2
        order = np.argsort(middle)
        middle = middle[order]
        share = np.cumsum((self._steps[rows] * self._weight[rows])[order].astype(np.float64))
        share /= share[-1]
        wanted = np.array(ranks) / self.count
        margin = 3 * np.sqrt(wanted * (1 - wanted) / len(middle)) + 2 / len(middle)
        places = np.searchsorted(share, np.concatenate((wanted - margin, wanted + margin)))
        edges: Floats = np.unique(middle[np.clip(places, 0, len(middle) - 1)])
        return edges

    def _select(self, rows: Ints, rank: int, below: float, above: float) -> float:
        """The value of that rank (from 0) among the members of ``rows`` in (below, above]."""
        begin, end = self._at_most(below, rows), self._at_most(above, rows)
        while True:
            keep = begin < end
            rows, begin, end = rows[keep], begin[keep], end[keep]
            weight = self._weight[rows]
            pivot = self._weighted_middle(rows, begin, end, weight)
            upto = np.clip(self._at_most(pivot, rows), begin, end)
            tokens = int(((upto - begin) * weight).sum())
            if rank >= tokens:
                rank -= tokens
                begin = upto
                continue
            under = np.clip(self._at_most(float(np.nextafter(pivot, -np.inf)), rows), begin, end)
            if rank >= int(((under - begin) * weight).sum()):
                return pivot
            end = under

    def _weighted_middle(self, rows: Ints, begin: Ints, end: Ints, weight: Ints) -> float:
        """Of the rows' middle members the one with half the tokens on either side: at least a
        quarter of all tokens lies beyond it on each side."""
        members = self._member(rows, (begin + end) // 2)
        order = np.argsort(members)
        half = np.cumsum(((end - begin) * weight)[order])
        return float(members[order[int(np.searchsorted(half, half[-1] / 2))]])

    def _member(self, rows: Ints, index: Ints) -> Floats:
        """The ``index``-th smallest gap of each row."""
        slope = self._slope[rows]
        place = np.where(slope < 0, self._steps[rows] - 1 - index, index)
        value: Floats = self._first[rows] + place * slope
        return value

    def _at_most(self, value: float, rows: Ints) -> Ints:
        """How many gaps of each row are at most ``value``."""
        steps = self._steps[rows]
        low, high = self._low[rows], self._high[rows]
        counts = np.where(high <= value, steps, 0)
        inside = np.flatnonzero((low <= value) & (high > value))
        if len(inside) == 0:
            return counts
        rows, steps = rows[inside], steps[inside]
        slope = np.abs(self._slope[rows])
        guess = np.clip((value - low[inside]) / slope, 0, steps - 2).astype(np.int64)
        # Rounding puts the closed form off by a little: the members themselves decide.
        first = np.where(self._member(rows, guess) <= value, guess, 0)
        last = np.where(self._member(rows, guess + 1) > value, guess + 1, steps - 1)
        while (open_ := np.flatnonzero(last - first > 1)).size:
            middle = (first[open_] + last[open_]) // 2
            is_in = self._member(rows[open_], middle) <= value
            first[open_] = np.where(is_in, middle, first[open_])
            last[open_] = np.where(is_in, last[open_], middle)
        counts[inside] = last
        return counts


def _bincount(index: Ints, weights: Ints, size: int) -> Ints:
    """As numpy's, but exact for whole numbers beyond 2^53."""
    if weights.sum() < 2**53:
        return np.bincount(index, weights, size).astype(np.int64)
    total = np.zeros(size, dtype=np.int64)
    np.add.at(total, index, weights)
    return total


def _interpolate(low: float, high: float, share: float) -> float:
    """Linear, from the nearer end, so that the ends are met exactly (as numpy does)."""
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)
