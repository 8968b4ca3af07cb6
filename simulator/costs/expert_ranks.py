"""How evenly the experts' work lies on expert-parallel ranks: the busiest one sets the pace.

Each rank holds some of the E experts of a layer; tokens reach ranks unevenly for two reasons.

- Popularity (simulator.costs.routing) is a property of the experts, and which lie together is
  chance: the popularity of a rank with a share 1/n of the experts has the relative variance
  v·(n − 1)/(E − 1), where v is that of the experts (sampling without replacement).
- Tokens choose by chance: the assignments on a rank have the variance A/n·(1 − 1/n)·(E − k)/(E − 1)
  for A = tokens · k assignments (k different experts a token: the hypergeometric variance).

The busiest of n ranks whose loads add up to a constant is expected sqrt(n/(n − 1))·m standard
deviations above the mean, m being the expected maximum of n standard normals (order statistics;
the loads are exchangeable and sum to a constant, hence the correlation −1/(n − 1)). Few assignments
are skewed like a Poisson variable, which adds (m² − 1)/6 (Cornish and Fisher, 1938).

With redundant experts, popular experts have copies on several ranks, and all copies are packed so
that ranks are as even as can be (DeepSeek-V3, arXiv:2412.19437, section 3.4): popularity's part is
then what the packing leaves, and only chance remains.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, fields
from functools import cache
from math import erf, sqrt

import numpy as np

from simulator.costs import routing
from simulator.costs.operators import Demand, Experts, Shape, present, scaled
from simulator.costs.routing import POINTS
from simulator.models.layout import Layout
from simulator.workload.requests import Floats


class ExpertRanks:
    """The experts of a layer on ``ranks`` ranks.

    Args:
        experts: different experts of the layer.
        top_k: experts that a token takes.
        ranks: groups of devices that hold different experts.
        skew: how many times as many tokens the most popular expert gets as the least.
        redundant: further copies of popular experts, packed evenly; None: experts lie as numbered.

    Attributes:
        stored: experts with their copies.
        local: those on the fullest rank.
        shares: popularity of the experts as stored, at equidistant ranks of popularity, over their
            mean, (``POINTS``,).
    """

    def __init__(
        self, experts: int, top_k: int, ranks: int, skew: float, redundant: int | None = None
    ) -> None:
        self.experts = experts
        self.top_k = top_k
        self.ranks = ranks
        self.stored = stored = experts + (redundant or 0)
        self.local = -(-stored // ranks)
        popularity = skew ** ((np.arange(experts) + 0.5) / experts)
        popularity /= popularity.sum()
        if redundant is None:
            placed = popularity
            self._uneven = _excess_by_chance(popularity, ranks, self.local)
        else:
            placed = copied(popularity, redundant)
            self._uneven = float(packed(placed, ranks).max()) * ranks - 1.0
        at = (np.arange(POINTS) + 0.5) / POINTS * stored
        self.shares: Floats = np.sort(placed)[at.astype(int)] * stored
        self.shares /= self.shares.mean()
        # A rank holds more than its equal share of experts where they do not divide.
        self._fullest = self.local * ranks / stored

    @property
    def reach(self) -> float:
        """Ranks that hold at least one of the experts that a token takes, at equal popularity."""
        return ranks_reached(self.experts, self.top_k, self.ranks)

    def busiest(self, tokens: Floats) -> Floats:
        """Assignments on the busiest rank over the mean of all ranks, at least 1, (steps,)."""
        n, e, k = self.ranks, self.experts, self.top_k
        if n == 1:
            return np.ones_like(tokens)
        assigned = np.maximum(tokens, 1e-9) * k
        mean = assigned / n
        m = highest_of(n)
        above = m * sqrt(n / (n - 1))
        by_chance = above * np.sqrt(mean * (1 - 1 / n) * (e - k) / max(e - 1, 1))
        few = max(above * above - 1.0, 0.0) / 6.0 * (e - k) / max(e - 1, 1)
        most = mean * self._fullest + np.hypot(by_chance, self._uneven * mean) + few
        # One rank gets no token twice for the same expert, and all of nothing is nothing.
        most = np.minimum(most, tokens * min(k, self.local))
        busiest: Floats = np.maximum(np.maximum(most, np.minimum(assigned, 1.0)) / mean, 1.0)
        return busiest


@dataclass(frozen=True, slots=True)
class RankExperts(Experts):
    """Routed experts of ``count`` layers on one of the ranks of ``placed``. Time is that of the
    busiest rank, work that of the average one. ``experts`` are those of the fullest rank and
    ``top_k`` the ones that a token takes there if it takes any."""

    placed: ExpertRanks
    elsewhere_bytes: float
    """Of a token, results of experts on other ranks that the kernels pass over all the same: where
    every rank holds all tokens, their buffers are filled and summed as well."""

    @classmethod
    def of(cls, whole: Experts, layout: Layout) -> RankExperts:
        """What is left of all experts on one rank."""
        placed = ExpertRanks(
            whole.experts, int(whole.top_k), layout.ep, whole.skew, layout.redundant
        )
        same = {field.name: getattr(whole, field.name) for field in fields(whole)}
        chosen = whole.top_k / placed.reach
        others = whole.top_k * whole.hidden * 2.0 * (1 - 1 / layout.ep) if layout.dp == 1 else 0.0
        return cls(
            **{**same, "experts": placed.local, "top_k": chosen},
            placed=placed,
            elsewhere_bytes=others,
        )

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step; ``shape.tokens`` choose among all ranks' experts."""
        tokens, place = np.unique(shape.tokens, return_inverse=True)
        some = present(tokens)
        tokens = np.maximum(tokens, 1.0)
        placed = self.placed
        even = routing.dealt(tokens, tokens * placed.top_k / placed.stored, placed.shares[None, :])
        ratio = placed.busiest(tokens) * placed.stored / (placed.ranks * placed.local)
        load = np.minimum(even * ratio[:, None], tokens[:, None])
        reached = routing.drawn(load, tokens)
        moved, flops = self._on_rank(load, reached, self.experts)
        seconds = routing.seconds(self._balanced(), load, reached, self.efficiency.tiling)
        seconds = np.maximum(seconds, np.maximum(moved / self.device.bandwidth, flops / self.peak))
        moved_mean, flops_mean = self._on_rank(
            even, routing.drawn(even, tokens), placed.stored / placed.ranks
        )
        elsewhere = tokens * self.elsewhere_bytes
        seconds = seconds + elsewhere / self.device.bandwidth
        moved, moved_mean = moved + elsewhere, moved_mean + elsewhere
        each = (moved, flops, moved_mean, flops_mean, seconds)
        moved, flops, moved_mean, flops_mean, seconds = ((some * part)[place] for part in each)
        return scaled(
            self.count, seconds, flops_mean, moved_mean, 0.0 * flops,
            compute=flops / (self.efficiency.compute * self.peak),
            memory=moved / (self.efficiency.bandwidth * self.device.bandwidth),
            latency=self.efficiency.overhead_s * some[place],
        )  # fmt: skip

    def _on_rank(self, load: Floats, reached: Floats, experts: float) -> tuple[Floats, Floats]:
        """Bytes and FLOPs of a rank whose ``experts`` get these loads."""
        routed = load.mean(axis=1) * experts
        return self._work(routed / self.top_k, experts * reached.mean(axis=1))


def ranks_reached(experts: int, top_k: int, ranks: int) -> float:
    """Expected number of ``ranks`` that hold at least one of ``top_k`` different experts."""
    missed = 1.0  # chance that a rank has none of them (hypergeometric)
    for taken in range(top_k):
        missed *= max(experts - experts / ranks - taken, 0.0) / (experts - taken)
    return ranks * (1.0 - missed)


def _excess_by_chance(popularity: Floats, ranks: int, local: int) -> float:
    """How far the most popular of ``ranks`` random groups of experts is expected above the mean,
    as a share of it; never above the group of the most popular ones."""
    experts = len(popularity)
    if ranks == 1 or experts == 1:
        return 0.0
    variance = float(np.var(popularity * experts))
    deviation = sqrt(variance * (ranks - 1) / (experts - 1))
    most = float(np.sort(popularity)[-local:].sum()) * ranks - 1.0
    if local == 1:  # whoever has the most popular expert
        return most
    return min(highest_of(ranks) * sqrt(ranks / (ranks - 1)) * deviation, most)


def copied(popularity: Floats, redundant: int) -> Floats:
    """Popularity of each stored expert when ``redundant`` copies more are stored: every copy goes
    to the expert whose copies are most popular; copies share evenly. (experts + redundant,)."""
    counts = [1] * len(popularity)
    heap = [(-share, expert) for expert, share in enumerate(popularity.tolist())]
    heapq.heapify(heap)
    for _ in range(redundant):
        expert = heap[0][1]
        counts[expert] += 1
        heapq.heapreplace(heap, (-float(popularity[expert]) / counts[expert], expert))
    shares = popularity / np.asarray(counts)
    return np.repeat(shares, counts)


def packed(popularity: Floats, ranks: int) -> Floats:
    """Popularity of each rank when experts, the most popular first, go to the least popular rank
    that has room. (ranks,)."""
    room = [-(-len(popularity) // ranks)] * ranks
    heap = [(0.0, rank) for rank in range(ranks)]
    total = [0.0] * ranks
    for share in np.sort(popularity)[::-1].tolist():
        _, rank = heapq.heappop(heap)
        total[rank] += share
        room[rank] -= 1
        if room[rank]:
            heapq.heappush(heap, (total[rank], rank))
    return np.asarray(total)


@cache
def highest_of(n: int) -> float:
    """Expected maximum of ``n`` independent standard normal variables."""
    x = np.linspace(0.0, 9.0, 1801)
    up = np.array([0.5 * (1.0 + erf(value / sqrt(2.0))) for value in x.tolist()])
    # ∫ (1 − F) over positive x − ∫ F over negative x.
    part = (1.0 - up**n) - (1.0 - up) ** n
    return float(np.sum((part[1:] + part[:-1]) / 2) * (x[1] - x[0]))
