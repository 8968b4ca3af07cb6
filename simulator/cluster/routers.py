"""Which replica a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from itertools import cycle
from typing import Protocol

import numpy as np

from simulator.cluster.replica import Replica
from simulator.scenario.routers import PrefixAwareRouter, Router, SessionAffinityRouter
from simulator.serving.sequence import Sequence


@dataclass(slots=True)
class Fleet:
    """The replicas to choose from.

    Args:
        replicas: those that take requests now, by ascending number; the list changes in place
            where replicas come and go.
        loads: requests queued or running, by number of the replica (kept up to date).
        weights: how much traffic each is meant to take, by number; None: all the same.
        session: of each request, by its index; -1: none.
        plain: the replicas are those numbered from 0 on, and all of them always.
    """

    replicas: list[Replica]
    loads: list[int]
    weights: list[float] | None = None
    session: List[int] = field(default_factory=list)
    plain: bool = True

    def load(self, replica: Replica) -> float:
        """What the replica would have with one request more, for its weight."""
        load = self.loads[replica.number] + 1
        return load if self.weights is None else load / self.weights[replica.number]

    def least(self) -> Replica:
        """The least loaded replica, the lowest number on a tie."""
        if self.plain:
            return self.replicas[self.loads.index(min(self.loads))]
        return min(self.replicas, key=self.load)


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


class WeightedRoundRobin:
    """Replicas in turn, each as often as its weight says, spread evenly (as nginx does it: every
    replica saves its weight each turn, the richest is chosen and pays the sum)."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._fleet = fleet
        self._saved: dict[int, float] = {}

    def choose(self, sequence: Sequence) -> Replica:
        """The next one."""
        saved, weights = self._saved, self._fleet.weights
        best, most, total = None, 0.0, 0.0
        for replica in self._fleet.replicas:
            number = replica.number
            weight = 1.0 if weights is None else weights[number]
            total += weight
            has = saved[number] = saved.get(number, 0.0) + weight
            if best is None or has > most:
                best, most = replica, has
        assert best is not None
        saved[best.number] -= total
        return best


class Random:
    """Any replica, equally likely or by weight."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._fleet = fleet
        self._draw = _draws(rng, len(fleet.replicas)).__next__
        self._uniform = _uniforms(rng).__next__

    def choose(self, sequence: Sequence) -> Replica:
        """One drawn at random."""
        fleet = self._fleet
        if fleet.plain:
            return fleet.replicas[self._draw()]
        weights = fleet.weights
        shares = [1.0 if weights is None else weights[r.number] for r in fleet.replicas]
        left = self._uniform() * sum(shares)
        for replica, share in zip(fleet.replicas, shares, strict=True):
            left -= share
            if left < 0.0:
                return replica
        return fleet.replicas[-1]


class LeastOutstanding:
    """The replica with the fewest requests queued or running."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._fleet = fleet

    def choose(self, sequence: Sequence) -> Replica:
        """The least loaded one, the lowest number on a tie."""
        return self._fleet.least()


class PowerOfTwo:
    """The less loaded of two different replicas drawn at random (Mitzenmacher, 2001)."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        self._fleet = fleet
        self._replicas, self._loads = fleet.replicas, fleet.loads
        self._first = _draws(rng, len(fleet.replicas)).__next__
        self._step = _draws(rng, max(1, len(fleet.replicas) - 1)).__next__
        self._uniform = _uniforms(rng).__next__

    def choose(self, sequence: Sequence) -> Replica:
        """The first drawn on a tie."""
        replicas = self._replicas
        n = len(replicas)
        if not self._fleet.plain:
            return self._any(n)
        first = self._first()
        a = replicas[first]
        if n == 1:
            return a
        b = replicas[(first + 1 + self._step()) % n]
        return b if self._loads[b.number] < self._loads[a.number] else a

    def _any(self, n: int) -> Replica:
        """The same where the number of replicas changes."""
        first = int(self._uniform() * n)
        a = self._replicas[first]
        if n == 1:
            return a
        b = self._replicas[(first + 1 + int(self._uniform() * (n - 1))) % n]
        return b if self._fleet.load(b) < self._fleet.load(a) else a


class PrefixAware:
    """The replica with the longest cached prefix, as long as it is not much busier than others."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        assert isinstance(router, PrefixAwareRouter)
        self._fleet = fleet
        self._max_imbalance = router.max_imbalance
        self._min_match = router.min_match

    def choose(self, sequence: Sequence) -> Replica:
        """The longest hit that is long enough, among replicas within the imbalance; the least
        loaded one on a tie, and where there is none."""
        loads = self._fleet.loads
        best = self._fleet.least()
        if sequence.streams is None:
            return best
        least = loads[best.number]
        enough = -(-self._min_match * sequence.prompt // best.scheduler.kv.block_size)
        most = (max(1.0, enough), -least - self._max_imbalance - 1)
        for replica in self._fleet.replicas:
            load = loads[replica.number]
            if load <= least + self._max_imbalance:
                warmth = (replica.cached_blocks(sequence), -load)
                if warmth > most:
                    best, most = replica, warmth
        return best


class SessionAffinity:
    """All turns of a conversation go where the first one went, as long as that replica is there and
    not much busier than others; the first turn, and what belongs to no conversation, goes to the
    least loaded one."""

    def __init__(self, fleet: Fleet, router: Router, rng: np.random.Generator) -> None:
        assert isinstance(router, SessionAffinityRouter)
        self._fleet = fleet
        self._max_imbalance = router.max_imbalance
        self._homes: dict[int, Replica] = {}

    def choose(self, sequence: Sequence) -> Replica:
        """The conversation's replica; a new one if that is gone or too busy."""
        fleet = self._fleet
        least = fleet.least()
        session = fleet.session[sequence.index]
        if session < 0:
            return least
        home = self._homes.get(session)
        most = fleet.loads[least.number] + self._max_imbalance
        there = home is not None and (fleet.plain or home in fleet.replicas)
        if home is not None and there and fleet.loads[home.number] <= most:
            return home
        self._homes[session] = least
        return least

    def forget(self, replica: Replica) -> None:
        """A replica is gone for ever."""
        self._homes = {s: home for s, home in self._homes.items() if home is not replica}


def _draws(rng: np.random.Generator, n: int) -> Iterator[int]:
    while True:
        yield from rng.integers(0, n, size=4096).tolist()


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(size=4096).tolist()


def _in_turn(fleet: Fleet, router: Router, rng: np.random.Generator) -> Route:
    return (RoundRobin if fleet.plain else WeightedRoundRobin)(fleet, router, rng)


ROUTERS: dict[str, Callable[[Fleet, Router, np.random.Generator], Route]] = {
    "round_robin": _in_turn,
    "random": Random,
    "least_outstanding": LeastOutstanding,
    "power_of_two": PowerOfTwo,
    "prefix_aware": PrefixAware,
    "session_affinity": SessionAffinity,
}
"""Register a router of your own here under the ``kind`` of its settings."""
