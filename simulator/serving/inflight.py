"""Policies that let sequences join and leave the batch between any two steps."""

from __future__ import annotations

from collections import deque

from simulator.costs.protocol import Chunk
from simulator.serving.kv_cache import KvCache
from simulator.serving.queues import Waiting
from simulator.serving.scheduler import DecodeSet, Plan
from simulator.serving.sequence import NOT_DECODING, Sequence


class InFlightScheduler:
    """Continuous batching (Orca, OSDI 2022) as vLLM v1 does it.

    There are no phases: each sequence catches its computed tokens up under one token budget a
    step, running sequences first, then waiting ones in order. Nothing is admitted in a step that
    had to preempt; the last sequence admitted is the first to be preempted.

    Args:
        kv: the replica's cache.
        max_num_seqs: most sequences running at once.
        max_num_batched_tokens: tokens of one step.
        chunked_prefill: a prompt may be split over steps.
        reserve: take the blocks of the whole output with the admission (never preempts).
        prefill_first: prompts get steps of their own, and decoding waits for them.
        wait_steps: while others decode, prompts that could be admitted wait up to so many steps for
            more to come, unless the step with them would have ``wait_fill`` of the token budget.
        local_span, local_chunked: span of the local-attention layers, see ``StepCost``.
        waiting: an empty queue; default: first come, first served.
    """

    def __init__(
        self,
        kv: KvCache,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        chunked_prefill: bool = True,
        reserve: bool = False,
        prefill_first: bool = False,
        wait_steps: int = 0,
        wait_fill: float = 1.0,
        local_span: int = 0,
        local_chunked: bool = False,
        waiting: Waiting | None = None,
    ) -> None:
        self.kv = kv
        self.max_num_seqs = max_num_seqs
        self.budget = max_num_batched_tokens
        self.chunked_prefill = chunked_prefill
        self.reserve = reserve
        self.prefill_first = prefill_first
        self.pauses_decoding = prefill_first
        self.watermark = kv.layout.watermark
        self._spares = prefill_first or self.watermark > 0
        self._takes_fixed = kv.layout.fixed
        self.wait_steps = wait_steps
        self.enough = wait_fill * max_num_batched_tokens
        self._waited = 0
        self.waiting: Waiting = deque() if waiting is None else waiting
        self.blocked = False
        self._in_vain = 0
        # The first waiting one is blocked with a prefix hit. Should its cached blocks be taken
        # while it waits, its prompt would exceed the budget, and the shorter chunk could fit.
        self._hit_may_go = False
        self.decoding = DecodeSet(
            kv.block_size,
            growing=kv.layout.growing and not reserve,
            span=local_span,
            chunked=local_chunked,
        )
        self._running: dict[Sequence, None] = {}
        # At most one prompt is partially computed, the last one admitted: a prompt is cut only
        # where the budget ends, and then nothing follows it.
        self._partial: Sequence | None = None
        self._admissions = 0

    @property
    def decoding_count(self) -> int:
        """Sequences that decode."""
        return self.decoding.count

    def decoding_now(self) -> list[tuple[Sequence, int]]:
        """Sequences that decode and the tokens they have stored, in the order of admission."""
        ahead = self.decoding.steps
        return [(s, s.offset + ahead) for s in self._running if s.finish_at != NOT_DECODING]

    def preempted_in_vain(self) -> int:
        """See ``Scheduler``."""
        count, self._in_vain = self._in_vain, 0
        return count

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        self.waiting.append(sequence)

    def unfinished(self) -> list[Sequence]:
        """Sequences that have not ended, with their progress up to date."""
        for sequence in self._running:
            if sequence.finish_at != NOT_DECODING:
                sequence.generated = sequence.output - self.decoding.left(sequence)
        return [*self._running, *self.waiting]

    # --- planning --------------------------------------------------------------------------------

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step; None if nothing runs and nothing waits."""
        while self._running or self.waiting:
            plan = Plan()
            self.blocked = self._hit_may_go = False
            if self.prefill_first:
                self._add_prompts(plan, self.budget)
            if not plan.chunks:
                self._add_decodes(plan)
                if not self.prefill_first:
                    self._add_prompts(plan, self.budget - plan.decode)
                settled = not self.waiting or (self.blocked and not plan.preempted)
                if (settled or plan.held) and plan.decode and not plan.chunks:
                    plan.steps = self._leap()
                    if plan.held:
                        plan.steps = min(plan.steps, self.wait_steps - self._waited)
            if plan.decode or plan.chunks:
                plan.running = len(self._running)
                plan.stored = self.decoding.context - self.decoding.count
                if self._partial is not None and not plan.chunks:
                    plan.stored += self._partial.computed
                return plan
            if not plan.preempted:
                break  # all wait for blocks that no running sequence holds
            # The only running sequence, with a part of its prompt computed, lacked blocks and gave
            # its own back: it can start anew at once.
            self._in_vain += len(plan.preempted)
        return None

    def _add_decodes(self, plan: Plan) -> None:
        decoding = self.decoding
        if not decoding.count:
            return
        blocks = decoding.need[decoding.steps % decoding.block_size]
        if blocks > self.kv.free:
            self._grow_one_by_one(plan)
        elif blocks:
            self.kv.take(blocks)
        plan.decode = plan.emitting = decoding.count
        plan.context = decoding.context
        plan.local_context = decoding.local_context
        plan.local_growth = decoding.growth

    def _add_prompts(self, plan: Plan, left: int) -> None:
        if self._partial is not None and left > 0:
            left = self._continue_partial(plan, left)
        if self.waiting and not plan.preempted:
            plan.held = self._waited < self.wait_steps and self._worth_waiting(plan, left)
            if not plan.held:
                self._admit(plan, left)
                if plan.chunks:
                    self._waited = 0

    def _worth_waiting(self, plan: Plan, left: int) -> bool:
        """Whether some prompt could be admitted beside decoding sequences, but too few to fill the
        step. Each is looked at with the cache as it stands."""
        if not plan.decode or plan.chunks:
            return False
        decoding = tokens = self.budget - left
        count, free = len(self._running), self.kv.free
        for sequence in self.waiting:
            hits, new, _, blocks = self._asks(sequence, left)
            needed = blocks + self.kv.unreferenced(sequence, hits) if hits else blocks
            spare = self._spare(count)
            if count >= self.max_num_seqs or not 0 < new <= left or needed + spare > free:
                break
            count, free, left, tokens = count + 1, free - needed, left - new, tokens + new
            if tokens >= self.enough:
                return False
        return tokens > decoding

    def _asks(self, sequence: Sequence, left: int) -> tuple[int, int, int, int]:
        """Of the next prompt: blocks found in the cache, tokens to compute now (more than ``left``
        where it may not be split), its fixed blocks, and blocks to take."""
        kv, layout = self.kv, self.kv.layout
        hits = past = 0
        if sequence.streams is not None or sequence.preemptions:
            hits = kv.lookup(sequence)
            past = hits * kv.block_size
        new = sequence.target - past
        if new > left and self.chunked_prefill:
            new = left
        fixed = layout.fixed_blocks(sequence.most_tokens) if self._takes_fixed else 0
        total = layout.growing_blocks(sequence.most_tokens if self.reserve else past + new)
        return hits, new, fixed, total + fixed - hits

    def _leap(self) -> int:
        """How many steps the batch can decode unchanged; the first one's blocks are taken."""
        decoding = self.decoding
        steps = decoding.until_change()
        if steps > 1 and decoding.growing:
            first = decoding.need[decoding.steps % decoding.block_size]
            if not self._hit_may_go:
                return decoding.steps_within(self.kv.free + first, steps)
            # Only until a block is taken after the waiting request was looked at.
            return max(1, decoding.steps_within(0 if self.prefill_first else first, steps))
        return steps

    def _continue_partial(self, plan: Plan, left: int) -> int:
        sequence = self._partial
        assert sequence is not None
        new = min(sequence.target - sequence.computed, left)
        tokens = sequence.computed + new
        blocks = 0
        if not self.reserve:
            blocks = self.kv.layout.growing_blocks(tokens) + sequence.fixed - sequence.blocks
        if blocks > self.kv.free and not self._find_blocks(plan, sequence, blocks):
            return left
        self._chunk(plan, sequence, new, blocks)
        return left - new

    def _find_blocks(self, plan: Plan, sequence: Sequence, blocks: int) -> bool:
        """Whether a chunk can have its blocks after all: here its sequence, which is the last one
        admitted, has to go."""
        self._preempt(sequence, plan)
        return False

    def _admit(self, plan: Plan, left: int) -> None:
        kv = self.kv
        waiting = self.waiting
        running = self._running
        count, most = len(running), self.max_num_seqs
        while waiting:
            if count >= most:
                self.blocked = True
                return
            if left <= 0:
                return
            sequence = waiting[0]
            hits, new, fixed, blocks = self._asks(sequence, left)
            if new > left:
                self.blocked = not plan.chunks
                return
            needed = blocks + kv.unreferenced(sequence, hits) if hits else blocks
            if self._spares:
                needed += self._spare(count)
            if needed > kv.free:
                self.blocked = True
                self._hit_may_go = hits > 0 and sequence.target > left
                return
            waiting.popleft()
            running[sequence] = None
            count += 1
            self._admissions += 1
            sequence.order = self._admissions
            sequence.fixed = fixed
            sequence.blocks = hits
            past = sequence.computed = hits * kv.block_size
            if hits:
                kv.share(sequence, hits)
            if sequence.cached < 0:
                sequence.cached = past
            self._chunk(plan, sequence, new, blocks)
            left -= new

    def _spare(self, running: int) -> int:
        """Blocks that an admission beside ``running`` sequences leaves free."""
        if not running:
            return 0  # or a request that needs nearly all blocks would wait forever
        return self.watermark + running if self.prefill_first else self.watermark

    def _chunk(self, plan: Plan, sequence: Sequence, new: int, blocks: int) -> None:
        """Puts ``new`` prompt tokens of an admitted sequence into the plan."""
        kv = self.kv
        if blocks:
            kv.take(blocks)
            sequence.blocks += blocks
        past = sequence.computed
        tokens = past + new
        if sequence.streams is not None or sequence.preemptions:
            kv.register(sequence, tokens)
            if sequence.highest > past:
                plan.wasted += min(tokens, sequence.highest) - past
        plan.chunks.append(Chunk(new, past))
        plan.prefill.append(sequence)
        if tokens == sequence.target:
            plan.ending += 1
            self._partial = None
        else:
            self._partial = sequence

    def _grow_one_by_one(self, plan: Plan) -> None:
        """One more token for each decoding sequence where not all can have the block they need."""
        kv = self.kv
        decoding = self.decoding
        size = decoding.block_size
        for sequence in list(self._running):
            if sequence.finish_at == NOT_DECODING or decoding.stored(sequence) % size:
                continue
            while kv.free == 0:
                victim = next(reversed(self._running))
                self._preempt(victim, plan)
                if victim is sequence:
                    return
            kv.take(1)

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        """Takes everything from a sequence and puts it back to the front of the queue."""
        if victim.finish_at != NOT_DECODING:
            remaining = self.decoding.left(victim)
            victim.computed = self.decoding.leave(victim)
            victim.generated = victim.output - remaining
            victim.target = victim.prompt + victim.generated
            victim.blocks = self._blocks_held(victim)
            plan.interrupted += (victim,)
        elif victim is self._partial:
            self._partial = None
        plan.preempted += (victim,)
        victim.preemptions += 1
        victim.highest = max(victim.highest, victim.computed)
        del self._running[victim]
        self._release(victim)
        self.waiting.appendleft(victim)

    def _blocks_held(self, sequence: Sequence) -> int:
        """Blocks of a sequence that stopped decoding with ``computed`` tokens stored."""
        if self.reserve:
            return sequence.blocks
        return self.kv.layout.growing_blocks(sequence.computed) + sequence.fixed

    def _release(self, sequence: Sequence) -> None:
        self.kv.release(sequence, sequence.blocks, sequence.computed)
        sequence.blocks = 0
        sequence.computed = 0

    # --- booking ---------------------------------------------------------------------------------

    def complete(self, plan: Plan, steps: int = 1) -> list[Sequence]:
        """Books ``steps`` executions of the plan; returns the sequences that ended."""
        decoding = self.decoding
        ended: list[Sequence] = []
        if plan.held:
            self._waited += steps
        if steps > 1 and decoding.growing:
            first = decoding.need[decoding.steps % decoding.block_size]
            self.kv.take(decoding.blocks_for(steps) - first)
        plan.kv_used = self.kv.total - self.kv.free
        if plan.decode:
            decoding.advance(steps)
            ends = decoding.ends
            if ends and ends[0][0] <= decoding.steps:
                ended = decoding.ended()
                for sequence in ended:
                    sequence.generated = sequence.output
                    sequence.blocks = self._blocks_held(sequence)
                    del self._running[sequence]
                    self._release(sequence)
        if plan.chunks:
            self._book_chunks(plan, ended)
        return ended

    def _book_chunks(self, plan: Plan, ended: list[Sequence]) -> None:
        for sequence, chunk in zip(plan.prefill, plan.chunks, strict=True):
            sequence.computed += chunk.new
            if sequence.computed < sequence.target:
                continue
            sequence.generated += 1
            remaining = sequence.output - sequence.generated
            if remaining:
                self.decoding.join(sequence, remaining)
            else:
                del self._running[sequence]
                self._let_go(sequence)
                ended.append(sequence)

    def _let_go(self, sequence: Sequence) -> None:
        """A sequence ends with its prompt."""
        self._release(sequence)

    def kv_used(self, steps: int) -> int:
        """KV blocks in use in the ``steps``-th of the equal steps of the plan under way."""
        decoding = self.decoding
        if steps == 1 or not decoding.growing:
            return self.kv.used
        first = decoding.need[decoding.steps % decoding.block_size]
        return self.kv.used + decoding.blocks_for(steps) - first

    def generated(self, sequence: Sequence) -> int:
        """Output tokens that a sequence has given by now."""
        if sequence.finish_at == NOT_DECODING:
            return sequence.generated
        return sequence.output - self.decoding.left(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up, between two plans."""
        if sequence not in self._running:
            self.waiting.remove(sequence)
            return
        if sequence.finish_at != NOT_DECODING:
            remaining = self.decoding.left(sequence)
            sequence.computed = self.decoding.leave(sequence)
            sequence.generated = sequence.output - remaining
            sequence.blocks = self._blocks_held(sequence)
        elif sequence is self._partial:
            self._partial = None
        sequence.highest = max(sequence.highest, sequence.computed)
        del self._running[sequence]
        self._release(sequence)

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        self.kv.check_integrity()
        decoding = [s for s in self._running if s.finish_at != NOT_DECODING]
        assert len(decoding) == self.decoding.count, "decoding sequences miscounted"
        context = sum(self.decoding.stored(s) + 1 for s in decoding)
        assert context == self.decoding.context, "context miscounted"
        assert sum(self.decoding.need) == (len(decoding) if self.decoding.growing else 0)
        if not self._running:
            assert self.kv.used == 0, f"{self.kv.used} blocks leaked"
