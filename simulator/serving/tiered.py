"""Schedulers over a prefix cache with tiers."""

from __future__ import annotations

from typing import Any

from simulator.serving.inflight import InFlightScheduler
from simulator.serving.ordered import PriorityScheduler
from simulator.serving.scheduler import Plan
from simulator.serving.speculative import SpeculativeScheduler
from simulator.serving.tiers import TieredKvCache


class TieredScheduler(InFlightScheduler):
    """Continuous batching over a cache with tiers; its plans say what moves in their first step."""

    def __init__(self, kv: TieredKvCache, **settings: Any) -> None:
        super().__init__(kv, **settings)
        self.tiered = kv

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """See ``Scheduler.schedule``."""
        plan = super().schedule(window_over=window_over)
        if plan is not None:
            plan.moves = self.tiered.drain()
        return plan

    def _leap(self) -> int:
        if self.waiting and self.tiered.min_blocks > 1:
            # A block that goes to a tier can make what is found there worth loading.
            self._hit_may_go = True
        return super()._leap()

    def steps_without_moves(self, steps: int) -> int:
        """How many of the next ``steps`` equal steps, at least one, take no block with a key; those
        of the first one are taken."""
        decoding = self.decoding
        if not decoding.growing:
            return steps
        first = decoding.need[decoding.steps % decoding.block_size]
        return max(1, decoding.steps_within(first + self.tiered.queued_before_a_key(), steps))

    def most_taken(self) -> int:
        """Most blocks that one step takes while nobody joins or leaves."""
        return max(self.decoding.need) if self.decoding.growing else 0


class TieredPriorityScheduler(TieredScheduler, PriorityScheduler):
    """The same where the queue is ordered by priority."""


class TieredSpeculativeScheduler(TieredScheduler, SpeculativeScheduler):
    """The same where decoding sequences verify drafts."""
