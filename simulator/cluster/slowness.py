"""Replicas whose steps take longer for a while, as on a device that is throttled."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, cast

from simpy import Environment, Event

from simulator.costs.protocol import StepCost
from simulator.costs.scaled import scaled

if TYPE_CHECKING:
    from simulator.cluster.replica import Replica


class Slowness:
    """How much longer the steps of a replica, or of one of its lanes, take than they would.

    The work of a step stays what it is: in the time that it takes longer, its devices wait.

    Args:
        cost: of its steps at full speed.
        give: gives it another cost model.

    Attributes:
        wanted: factor of the steps that begin from now on.
        factor: of the step under way.
    """

    def __init__(self, cost: StepCost, give: Callable[[StepCost], None]) -> None:
        self.wanted = self.factor = 1.0
        self._cost = cost
        self._give = give

    def turn(self) -> None:
        """No step is under way."""
        if self.wanted != self.factor:
            self.factor = self.wanted
            slow = self.factor != 1.0
            self._give(scaled(self._cost, self.factor, self.factor) if slow else self._cost)

    def stalled_s(self, took_s: float, stall_s: float) -> float:
        """Of the time that steps took, ``stall_s`` of which they waited for something else, what
        their devices wait."""
        return stall_s + (1.0 - 1.0 / self.factor) * (took_s - stall_s)


class Slowdowns:
    """Slow-downs of a cluster's replicas; where several overlap, their factors multiply.

    Args:
        env: the clock.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._factors: dict[Replica, list[float]] = {}

    def begin(self, replica: Replica, factor: float, for_s: float) -> None:
        """Steps that the replica begins within the next ``for_s`` seconds take ``factor`` times as
        long, unless it is gone before."""
        factors = self._factors.setdefault(replica, [])
        factors.append(factor)
        replica.slow(prod(factors))

        def end(_: Event) -> None:
            factors.remove(factor)
            replica.slow(prod(factors))
            if not factors:
                self._factors.pop(replica, None)

        cast("list[Callable[[Event], None]]", self._env.timeout(for_s).callbacks).append(end)

    def factor_of(self, replica: Replica) -> float:
        """How many times as long steps take that the replica begins now."""
        return prod(self._factors.get(replica, ()))
