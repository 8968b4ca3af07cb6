"""Preemption by swapping: blocks of a preempted sequence wait in host memory for its return."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from simulator.serving.below import Moves
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence


class Away(NamedTuple):
    """What host memory holds of a sequence: its blocks, the tokens in them, and whether it goes on
    decoding when it comes back (or with the rest of its prompt)."""

    blocks: int
    tokens: int
    decodes: bool


class SwapScheduler(InFlightScheduler):
    """Continuous batching whose preemption swaps, as vLLM's first scheduler did (arXiv:2309.06180,
    section 4.5).

    Sequences that are swapped out stand at the front of ``waiting``, the first admitted first, and
    nobody behind them is admitted before all are back. One comes back when its blocks are free, and
    the one for its next token, in a step that did not preempt. A sequence that finds no room in
    host memory computes its tokens anew.
    """

    def __init__(self, kv: KvCache, **settings: Any) -> None:
        super().__init__(kv, **settings)
        assert isinstance(self.waiting, deque), "those who come back stand before all others"
        self._line: deque[Sequence] = self.waiting
        assert not self.reserve, "who reserves is never preempted"
        assert self.kv.layout.below is not None, "no host memory is known"
        self.host_blocks = self.kv.layout.below.swap_blocks
        self.host_free = self.host_blocks
        self._away: dict[Sequence, Away] = {}
        self._moves = Moves()

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """See ``Scheduler.schedule``."""
        plan = super().schedule(window_over=window_over)
        moves = self._moves
        if plan is not None and (moves.swapped_in or moves.swapped_out):
            plan.moves, self._moves = moves, Moves()
            plan.steps = 1
        return plan

    # --- out -------------------------------------------------------------------------------------

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        decodes = victim.finish_at != NOT_DECODING
        tokens = self.decoding.stored(victim) if decodes else victim.computed
        blocks = self.kv.layout.growing_blocks(tokens) + victim.fixed
        super()._preempt(victim, plan)
        self.waiting.popleft()
        if not 0 < blocks <= self.host_free:
            self._line.insert(len(self._away), victim)
            return
        self.host_free -= blocks
        self._away[victim] = Away(blocks, tokens, decodes)
        self._moves.swapped_out += blocks
        self.waiting.appendleft(victim)

    # --- back ------------------------------------------------------------------------------------

    def _add_decodes(self, plan: Plan) -> None:
        super()._add_decodes(plan)
        while self._away and not plan.preempted:
            sequence = self.waiting[0]
            away = self._away[sequence]
            if not away.decodes or plan.decode >= self.budget:
                break
            blocks = self.kv.layout.growing_blocks(away.tokens + 1) + sequence.fixed
            if not self._comes_back(sequence, away, blocks):
                break
            self.kv.take(blocks)
            self.kv.register(sequence, away.tokens)
            self.decoding.join(sequence, sequence.output - sequence.generated)
            self._count_decodes(plan)
            plan.returned += (sequence,)

    def _count_decodes(self, plan: Plan) -> None:
        decoding = self.decoding
        plan.decode = plan.emitting = decoding.count
        plan.context = decoding.context
        plan.local_context = decoding.local_context
        plan.local_growth = decoding.growth

    def _admit(self, plan: Plan, left: int) -> None:
        if self._away and left > 0:
            sequence = self.waiting[0]
            away = self._away[sequence]
            if away.decodes:
                return  # it comes back in a step that decodes
            new = min(sequence.target - away.tokens, left)
            blocks = self.kv.layout.growing_blocks(away.tokens + new) + sequence.fixed
            if not self._comes_back(sequence, away, blocks):
                return
            self._chunk(plan, sequence, new, blocks)
            left -= new
        super()._admit(plan, left)

    def _comes_back(self, sequence: Sequence, away: Away, blocks: int) -> bool:
        """Lets the first of those who are away run again if there is a seat and ``blocks`` are
        free; they are not taken yet."""
        count = len(self._running)
        if count >= self.max_num_seqs or blocks + self._spare(count) > self.kv.free:
            self.blocked = True
            return False
        self.waiting.popleft()
        del self._away[sequence]
        self.host_free += away.blocks
        self._moves.swapped_in += away.blocks
        self._admissions += 1
        sequence.order = self._admissions
        sequence.computed = away.tokens
        self._running[sequence] = None
        return True

    # --- ends ------------------------------------------------------------------------------------

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up, between two plans."""
        away = self._away.pop(sequence, None)
        if away is not None:
            self.host_free += away.blocks
        super().drop(sequence)

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked on either side or the counts disagree."""
        super().check_integrity()
        held = sum(away.blocks for away in self._away.values())
        assert held == self.host_blocks - self.host_free, "host blocks leaked"
        first = [sequence in self._away for sequence in self.waiting]
        assert first == sorted(first, reverse=True), "someone waits before those who are away"
