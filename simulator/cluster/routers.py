"""Which replica a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from itertools import cycle
from typing import NamedTuple, Protocol

import numpy as np

from simulator.cluster.replica import Replica
from simulator.scenario.routers import PrefixAwareRouter, Router
from simulator.serving.sequence import Sequence


class Fleet(NamedTuple):
    """The replicas, and how many requests are queued or running at each (kept up to date)."""

    replicas: List[Replica]
    loads: list[int]


class Route(Protocol):
    """A routing policy with its own state."""

    def choose(self, sequence: Sequence) -> Replica:
        """The replica for a request that arrives now."""
        ...


class RoundRobin:
    """Replicas in turn."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._next = cycle(fleet.replicas).__next__

    def choose(self, sequence: Sequence) -> Replica:
        """The next one."""
        return self._next()


class Random:
    """Any replica, equally likely."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._replicas = fleet.replicas
        self._draw = _draws(rng, len(fleet.replicas)).__next__

    def choose(self, sequence: Sequence) -> Replica:
        """One drawn at random."""
        return self._replicas[self._draw()]


class LeastOutstanding:
    """The replica with the fewest requests queued or running."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._replicas, self._loads = fleet.replicas, fleet.loads

    def choose(self, sequence: Sequence) -> Replica:
        """The least loaded one, the lowest number on a tie."""
        loads = self._loads
        return self._replicas[loads.index(min(loads))]


class PowerOfTwo:
    """The less loaded of two different replicas drawn at random (Mitzenmacher, 2001)."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._replicas, self._loads = fleet.replicas, fleet.loads
        self._first = _draws(rng, len(fleet.replicas)).__next__
        self._step = _draws(rng, max(1, len(fleet.replicas) - 1)).__next__

    def choose(self, sequence: Sequence) -> Replica:
        """The first drawn on a tie."""
        replicas = self._replicas
        n = len(replicas)
        first = self._first()
        a = replicas[first]
        if n == 1:
            return a
        b = replicas[(first + 1 + self._step()) % n]
        return b if self._loads[b.number] < self._loads[a.number] else a


class PrefixAware:
    """The replica with the longest cached prefix, as long as it is not much busier than others."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        assert isinstance(router, PrefixAwareRouter)
        self._replicas, self._loads = fleet.replicas, fleet.loads
        self._max_imbalance = router.max_imbalance
        self._min_match = router.min_match

    def choose(self, sequence: Sequence) -> Replica:
        """The longest hit that is long enough, among replicas within the imbalance; the least
        loaded one on a tie, and where there is none."""
        loads = self._loads
        least = min(loads)
        best = self._replicas[loads.index(least)]
        if sequence.streams is None:
            return best
        enough = -(-self._min_match * sequence.prompt // best.scheduler.kv.block_size)
        most = (max(1.0, enough), -least - self._max_imbalance - 1)
        for replica, load in zip(self._replicas, loads, strict=True):
            if load <= least + self._max_imbalance:
                warmth = (replica.scheduler.kv.lookup(sequence), -load)
                if warmth > most:
                    best, most = replica, warmth
        return best


def _draws(rng: np.random.Generator, n: int) -> Iterator[int]:
    while True:
        yield from rng.integers(0, n, size=4096).tolist()


ROUTERS: dict[str, Callable[[Fleet, Router, np.random.Generator], Route]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_outstanding": LeastOutstanding,
    "power_of_two": PowerOfTwo,
    "prefix_aware": PrefixAware,
}
"""Register a router of your own here under the ``kind`` of its settings."""
