"""Continuous batching with speculative decoding: sequences advance by as much as is accepted."""

from __future__ import annotations

from typing import Any

from simulator.deployment import Speculation
from simulator.serving.drafts import SpeculativeDecodeSet
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence
from simulator.serving.timetable import Outlook


class SpeculativeScheduler(InFlightScheduler):
    """An ``InFlightScheduler`` whose decoding sequences verify drafts.

    A step computes ``Speculation.width`` tokens of each: they count against the budget and need KV
    slots before it runs, though never more than the output has left, which stay with the sequence
    whatever is accepted. A plan is for one step, unless somebody who asks for the ``outlook`` of
    plans allows more.

    Attributes:
        most_steps: of a plan.
    """

    def __init__(self, kv: KvCache, *, speculation: Speculation, **options: Any) -> None:
        super().__init__(kv, **options)
        span, chunked = self.decoding.span, self.decoding.chunked
        self.most_steps = 1
        self._ahead: Outlook | None = None
        self._taken = 0
        self._drafting = self.decoding = SpeculativeDecodeSet(
            kv.block_size,
            growing=self.decoding.growing,
            span=span,
            chunked=chunked,
            speculation=speculation,
        )

    def decoding_now(self) -> list[tuple[Sequence, int]]:
        """Sequences that decode and the tokens they have stored, in the order of admission."""
        stored = self._drafting.stored
        return [(s, stored(s)) for s in self._running if s.finish_at != NOT_DECODING]

    # --- planning --------------------------------------------------------------------------------

    def _add_decodes(self, plan: Plan) -> None:
        decoding = self._drafting
        if not decoding.count:
            return
        decoding.settle()
        table = decoding.table
        if table is None:
            self._take_for_all(plan)
        else:
            blocks = table.blocks
            if blocks > self.kv.free:
                self._grow_one_by_one(plan)
            elif blocks:
                self.kv.take(blocks)
        if not decoding.count:
            return
        plan.decode = plan.emitting = decoding.count
        plan.context = decoding.context
        if table is None:
            if decoding.span:
                plan.local_context = decoding.visible()
            plan.accepted = decoding.draw(decoding.width) - decoding.count
        else:
            plan.local_context = table.visible
            plan.accepted = table.tokens - decoding.count

    def _take_for_all(self, plan: Plan) -> None:
        """KV slots for all without a timetable."""
        decoding = self._drafting
        blocks = decoding.lacking(decoding.width)
        if blocks is None:
            return
        wanted = int(blocks.sum())
        if wanted > self.kv.free:
            self._grow_one_by_one(plan)
        else:
            self.kv.take(wanted)
            decoding.give(blocks)

    def _grow_one_by_one(self, plan: Plan) -> None:
        """Slots for each decoding sequence in turn where not all can have the blocks they need. If
        preemptions leave so few that a step drafts again, they need more."""
        decoding = self._drafting
        width = 0
        while width != decoding.width:
            width = decoding.width
            for sequence in list(self._running):
                if sequence.finish_at != NOT_DECODING and not self._grow(sequence, width, plan):
                    break

    def _grow(self, sequence: Sequence, width: int, plan: Plan) -> bool:
        """All blocks for one sequence; False if it had to go itself."""
        blocks = self._drafting.lacks(sequence, width)
        while blocks > self.kv.free:
            victim = next(reversed(self._running))
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        if blocks:
            self.kv.take(blocks)
            self._drafting.give_one(sequence, blocks)
        return True

    def _add_prompts(self, plan: Plan, left: int) -> None:
        if plan.decode:
            left -= plan.decode * (self._drafting.width - 1)
        super()._add_prompts(plan, left)

    def _leap(self) -> int:
        table = self._drafting.table
        if self.most_steps == 1 or table is None or self._hit_may_go:
            return 1
        if self.waiting and not self.blocked:
            return 1  # prompts are held back
        return table.steps_within(self.kv.free, min(table.until_end(), self.most_steps))

    def outlook(self, steps: int) -> Outlook:
        """What the steps of a plan for several do. Their blocks are taken when the steps are
        completed, or when somebody wants to know (``catch_up``)."""
        table = self._drafting.table
        assert table is not None, "a plan for several steps has a timetable"
        self._ahead, self._taken = table.outlook(steps), 0
        return self._ahead

    def catch_up(self, steps: int) -> None:
        """Takes the blocks of the plan's first ``steps``, the last of which is under way."""
        assert self._ahead is not None
        blocks = self._ahead.blocks.item(steps - 1)
        if blocks > self._taken:
            self.kv.take(blocks - self._taken)
            self._taken = blocks

    def kv_used(self, steps: int) -> int:
        """KV blocks in use in the ``steps``-th step of the plan under way."""
        if steps > 1:
            self.catch_up(steps)
        return self.kv.used

    def _blocks_held(self, sequence: Sequence) -> int:
        return sequence.blocks

    # --- booking ---------------------------------------------------------------------------------

    def complete(self, plan: Plan, steps: int = 1) -> list[Sequence]:
        """Books ``steps`` executions of the plan; returns the sequences that ended."""
        ended: list[Sequence] = []
        tokens = plan.decode + plan.accepted
        if steps > 1:
            self.catch_up(steps)
            assert self._ahead is not None
            tokens = int(self._ahead.tokens[:steps].sum())
        if plan.held:
            self._waited += 1
        plan.kv_used = self.kv.total - self.kv.free
        if plan.decode:
            ended = self._drafting.advance_drawn(tokens, steps)
            for sequence in ended:
                sequence.generated = sequence.output
                del self._running[sequence]
                self._release(sequence)
        if plan.chunks:
            self._book_chunks(plan, ended)
        return ended

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        self.kv.check_integrity()
        decoding = sum(s.finish_at != NOT_DECODING for s in self._running)
        assert decoding == self._drafting.count, "decoding sequences miscounted"
        self._drafting.check_integrity()
        if not self._running:
            assert self.kv.used == 0, f"{self.kv.used} blocks leaked"
