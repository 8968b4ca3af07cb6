"""Replicas of several pools on the same devices: their steps take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from simulator.cluster.replica import Replica
from simulator.serving.scheduler import Plan


class Turns:
    """Who uses a set of devices: one step of one replica at a time, in the order of asking."""

    def __init__(self) -> None:
        self.holder: SharingReplica | None = None
        self.asking: dict[SharingReplica, None] = {}

    def ask(self, replica: SharingReplica) -> None:
        """Wants the devices; whoever has them stops after the step under way."""
        if replica not in self.asking:
            self.asking[replica] = None
            if self.holder is not None:
                self.holder.stop_soon()

    def pass_on(self) -> None:
        """The holder needs the devices no longer, or has had its turn."""
        self.holder = next(iter(self.asking), None)
        if self.holder is not None:
            del self.asking[self.holder]
            self.holder.take_turn()


def sharing_maker(turns: Sequence[Turns], first: int) -> Callable[[int], Callable[..., Replica]]:
    """Who makes the replicas of one pool, by number, the first of which is ``first``; each on the
    devices of the same place in ``turns``."""
    return lambda number: partial(SharingReplica, turns=turns[number - first])


class SharingReplica(Replica):
    """Executes a step when its turn comes; see ``Replica``.

    The time between two steps in which others use the devices belongs to no row of the step table;
    gaps between tokens have it in them.

    Args:
        turns: of the devices.
    """

    def __init__(self, *args: Any, turns: Turns, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._turns = turns
        self._since: float | None = None

    def take_turn(self) -> None:
        """The devices are free for it."""
        self._wake(0.0)

    def _begin(self, now: float) -> None:
        turns = self._turns
        if turns.holder is self and turns.asking and self._plan is not None:
            # A step is over, and others wait.
            self._plan = None
            turns.pass_on()
        if turns.holder is not self and turns.holder is not None:
            self._plan = None
            if self._since is None:
                self._since = now
            turns.ask(self)
            return
        turns.holder = self
        super()._begin(now)
        self._since = None
        if self._plan is None:
            turns.pass_on()
        elif turns.asking and self._steps > 1:
            self._cut()

    def _schedule(self, now: float) -> Plan | None:
        plan = super()._schedule(now)
        since = self._since
        if plan is not None and since is not None and since < now and not self._paused:
            # Those who decode got their last tokens when this replica began to wait.
            decoding = plan.emitting + len(plan.interrupted)
            if self.scheduler.pauses_decoding and not plan.decode:
                decoding = self.scheduler.decoding_count
            if decoding:
                self._paused[since] = decoding
        return plan
