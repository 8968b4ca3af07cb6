"""What the order of the queue changes in a scheduler besides its queue."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.serving.fair import FairOrder
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache
from simulator.serving.scheduler import Plan, Scheduler
from simulator.serving.sequence import NOT_DECODING, Sequence


class PriorityScheduler(InFlightScheduler):
    """Where KV blocks lack, the running sequence with the highest rank goes (of several the one
    that came last), as with vLLM's priority policy, instead of the one admitted last."""

    def _worst(self) -> Sequence:
        return max(self._running, key=lambda sequence: (sequence.rank, sequence.ticket))

    def _grow_one_by_one(self, plan: Plan) -> None:
        """Sequences go until what the others need for one more token each is free."""
        decoding = self.decoding
        place = decoding.steps % decoding.block_size
        while decoding.need[place] > self.kv.free:
            self._preempt(self._worst(), plan)
        if decoding.need[place]:
            self.kv.take(decoding.need[place])

    def _find_blocks(self, plan: Plan, sequence: Sequence, blocks: int) -> bool:
        """Sequences go until a chunk has its blocks; False if its own sequence had to."""
        decoding = self.decoding
        while blocks > self.kv.free:
            victim = self._worst()
            decodes = victim.finish_at != NOT_DECODING
            planned = decodes and plan.decode > 0
            if planned and decoding.growing and not decoding.stored(victim) % decoding.block_size:
                # It holds a block for the token that it does not get now.
                self.kv.release_blocks(1)
            self._preempt(victim, plan)
            if victim is sequence:
                return False
            if planned:
                plan.decode = plan.emitting = decoding.count
                plan.context = decoding.context
                plan.local_context = decoding.local_context
                plan.local_growth = decoding.growth
        return True


class FairScheduler:
    """Any scheduler whose queue is fair: tells the queue what each class gets, and ends runs of
    equal steps where it becomes another class's turn.

    Args:
        inner: whose ``waiting`` is a ``FairOrder``.
        classes: how many there are.
    """

    def __init__(self, inner: Scheduler, classes: int) -> None:
        assert isinstance(inner.waiting, FairOrder)
        self.inner = inner
        self.kv: KvCache = inner.kv
        self.waiting: FairOrder = inner.waiting
        self.pauses_decoding = inner.pauses_decoding
        self._decoding = [0] * classes

    @property
    def blocked(self) -> bool:
        """See ``Scheduler``."""
        return self.inner.blocked

    @property
    def decoding_count(self) -> int:
        """See ``Scheduler``."""
        return self.inner.decoding_count

    def preempted_in_vain(self) -> int:
        """See ``Scheduler``."""
        return self.inner.preempted_in_vain()

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        self.inner.add(sequence)

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step."""
        plan = self.inner.schedule(window_over=window_over)
        if plan is None:
            return None
        for sequence in plan.interrupted:
            self._decoding[int(sequence.rank)] -= 1
        if plan.held:
            plan.steps = 1  # who else waits matters too, and in which order
        elif plan.steps > 1 and self.waiting:
            plan.steps = self.waiting.turn_lasts(self._decoding, plan.steps)
        return plan

    def complete(self, plan: Plan, steps: int = 1) -> list[Sequence]:
        """Books ``steps`` executions of the plan; returns the sequences that ended."""
        decoding = self._decoding
        if plan.decode:
            for number, count in enumerate(decoding):
                self.waiting.book(number, steps * count)
        ended = self.inner.complete(plan, steps)
        for sequence in plan.prefill[: plan.ending]:
            self.waiting.book(int(sequence.rank), 1)
            decoding[int(sequence.rank)] += 1
        for sequence in ended:
            decoding[int(sequence.rank)] -= 1
        return ended

    def kv_used(self, steps: int) -> int:
        """See ``Scheduler``."""
        return self.inner.kv_used(steps)

    def generated(self, sequence: Sequence) -> int:
        """See ``Scheduler``."""
        return self.inner.generated(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up."""
        if sequence.finish_at != NOT_DECODING:
            self._decoding[int(sequence.rank)] -= 1
        self.inner.drop(sequence)

    def unfinished(self) -> list[Sequence]:
        """See ``Scheduler``."""
        return self.inner.unfinished()

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        self.inner.check_integrity()
        held: Iterator[int] = iter(self._decoding)
        assert all(count >= 0 for count in held), "classes miscounted"
