"""Continuous batching with speculative decoding: sequences advance by as much as is accepted."""

from __future__ import annotations

from typing import Any

from simulator.deployment import Speculation
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache
from simulator.serving.paced import PacedDecodeSet
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence
from simulator.serving.timetable import Outlook, Timetable

_WORTH = 2
"""Steps with drafts a sequence, after steps without, until a new timetable is made: about the time
that making it takes."""


class SpeculativeDecodeSet(PacedDecodeSet):
    """The sequences that decode, each at its own pace, with a timetable as long as all steps draft.

    Where too many decode for drafts, steps are taken as they come (``PacedDecodeSet``), and for
    some time after that, because a load that swings around ``max_batch`` would have a new
    timetable made all the time.
    """

    def __init__(
        self, block_size: int, *, growing: bool, span: int, chunked: bool, speculation: Speculation
    ) -> None:
        super().__init__(
            block_size, growing=growing, span=span, chunked=chunked, speculation=speculation
        )
        self._calm = 0
        self.table: Timetable | None = self._new_table()

    def _new_table(self) -> Timetable:
        return Timetable(
            1 + self._speculation.tokens,
            self.block_size if self.growing else 0,
            self.span,
            chunked=self.chunked,
        )

    def settle(self) -> None:
        """Before a step is planned: makes a timetable, or gives it up."""
        most = self._speculation.max_batch
        if self.table is not None:
            if self.count > most:
                self._give_up(self.table)
        elif self.count > most:
            self._calm = 0
        else:
            self._calm += 1
            if self._calm > _WORTH * self.count:
                self._make()

    def _give_up(self, table: Timetable) -> None:
        members = [(sequence, self.leave(sequence)) for sequence in table.sequences()]
        self.table, self._calm = None, 0
        for sequence, stored in members:
            sequence.computed = stored
            self.join(sequence, sequence.output - sequence.generated)

    def _make(self) -> None:
        members = []
        for sequence in list(self.slots):
            sequence.generated = sequence.output - self.left(sequence)
            members.append((sequence, self.leave(sequence)))
        self.table = self._new_table()
        for sequence, stored in members:
            sequence.computed = stored
            self.join(sequence, sequence.output - sequence.generated)

    # --- coming and going ------------------------------------------------------------------------

    def join(self, sequence: Sequence, remaining: int) -> None:
        """See ``PacedDecodeSet.join``."""
        if self.table is None:
            super().join(sequence, remaining)
            return
        stored = sequence.computed
        drawn = self._acceptance.tokens(sequence.index, sequence.output, remaining)
        self.table.join(sequence, stored, remaining, sequence.blocks - sequence.fixed, drawn)
        sequence.finish_at = 0
        self.count += 1
        self.context += stored + 1

    def leave(self, sequence: Sequence) -> int:
        """See ``PacedDecodeSet.leave``."""
        if self.table is None:
            return super().leave(sequence)
        stored, left, held = self.table.leave(sequence)
        if self.growing:
            sequence.blocks = held + sequence.fixed
        sequence.generated = sequence.output - left
        sequence.finish_at = NOT_DECODING
        self.count -= 1
        self.context -= stored + 1
        return stored

    def stored(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has in the cache."""
        return super().stored(sequence) if self.table is None else self.table.stored(sequence)

    def left(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has still to give."""
        return super().left(sequence) if self.table is None else self.table.left(sequence)

    def steps_to(self, sequence: Sequence, token: int) -> int:
        """Steps until a sequence of the timetable gives that token of its output."""
        assert self.table is not None, "without a timetable nobody knows"
        return self.table.steps_to(sequence, token - sequence.output + self.left(sequence))

    # --- a step ----------------------------------------------------------------------------------

    def lacks(self, sequence: Sequence, width: int) -> int:
        """Blocks that a sequence lacks to store ``width`` tokens more, or all that are left."""
        if self.table is None:
            return super().lacks(sequence, width)
        return self.table.lacks(sequence)

    def give_one(self, sequence: Sequence, blocks: int) -> None:
        """One sequence gets the blocks that it lacks."""
        if self.table is None:
            super().give_one(sequence, blocks)
        else:
            self.table.given(sequence)

    def advance_drawn(self, tokens: int, steps: int = 1) -> list[Sequence]:
        """See ``PacedDecodeSet.advance_drawn``; ``tokens`` come in ``steps``."""
        if self.table is None:
            return super().advance_drawn(tokens)
        self.context += tokens
        ended = self.table.advance(steps)
        for sequence in ended:
            sequence.computed = self.leave(sequence)
        return ended

    def check_integrity(self) -> None:
        """Raises AssertionError if what is known of the sequences contradicts itself."""
        if self.table is None:
            super().check_integrity()
            return
        self.table.check_integrity()
        members = self.table.sequences()
        assert len(members) == self.count, "courses miscounted"
        assert sum(self.stored(s) + 1 for s in members) == self.context, "context miscounted"


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
