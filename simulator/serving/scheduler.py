"""Which sequences run in the next step, and how many tokens of each: no clock and no cost in here.

A scheduler is used in a loop: ``add`` new sequences, ``schedule`` a plan, execute it (a cost model
says how long it would take, a real engine does it), ``complete`` it. Pure decode plans may be
executed up to ``plan.steps`` times before completing, because nothing changes in between; that and
the O(1) bookkeeping of decoding sequences is what makes the simulator fast.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Protocol

from simulator.costs.protocol import Chunk
from simulator.serving.below import Moves
from simulator.serving.kv_cache import KvCache
from simulator.serving.queues import Waiting
from simulator.serving.sequence import NOT_DECODING, Sequence


class Plan:
    """One step, or ``steps`` equal ones.

    Attributes:
        chunks: prompt tokens to compute, as (new, past).
        prefill: the sequences of the chunks, in the same order.
        ending: how many of them, from the first on, reach the end of their prompt and give a token.
        decode: sequences (or padded slots) that decode one token each.
        emitting: how many of those have a client waiting for the token.
        context: tokens the decoding ones attend to in the first step, summed.
        local_context, local_growth: the same cut to the local span, and its growth a step.
        steps: most steps for which this plan stays the same.
        wasted: tokens of the chunks that are padding or recomputation.
        preempted: sequences that lost their blocks to make this plan possible.
        interrupted: those of them that were decoding.
        held: prompts that could be admitted wait for more to come.
        returned: those of the decoding ones that were swapped out until now.
        moves: KV blocks that move because of this step, None: none does. Then it is one step.
        running: sequences admitted.
        stored: tokens in the cache before the step, without those of ``prefill``.
        kv_used: KV blocks in use at the end of the last step, set by ``complete``.
        accepted: tokens beyond the first that decoding sequences get at once, where a plan stands
            for one step (speculative decoding).
    """

    __slots__ = (
        "accepted",
        "chunks",
        "context",
        "decode",
        "emitting",
        "ending",
        "held",
        "interrupted",
        "kv_used",
        "local_context",
        "local_growth",
        "moves",
        "preempted",
        "prefill",
        "returned",
        "running",
        "steps",
        "stored",
        "wasted",
    )

    running: int
    stored: int
    kv_used: int

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.prefill: list[Sequence] = []
        self.preempted: tuple[Sequence, ...] = ()
        self.interrupted: tuple[Sequence, ...] = ()
        self.returned: tuple[Sequence, ...] = ()
        self.moves: Moves | None = None
        self.ending = self.decode = self.emitting = self.wasted = self.accepted = 0
        self.context = self.local_context = self.local_growth = 0
        self.steps = 1
        self.held = False


class Scheduler(Protocol):
    """What the cluster and a real engine need of a policy."""

    kv: KvCache
    pauses_decoding: bool
    """Steps with prompts leave decoding sequences out."""

    @property
    def waiting(self) -> Waiting:
        """Who is queued, the next one first."""
        ...

    @property
    def blocked(self) -> bool:
        """The last plan left sequences waiting, and as long as the same one is the head, somebody
        is only admitted when one that runs ends."""
        ...

    def preempted_in_vain(self) -> int:
        """Preemptions since the last call that no plan tells of, because nothing could run then."""
        ...

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        ...

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step; None if there is nothing to do. ``window_over`` is only heard by
        policies that wait for a batch to fill."""
        ...

    def complete(self, plan: Plan, steps: int = 1) -> list[Sequence]:
        """Books ``steps`` executions of the plan; returns the sequences that ended."""
        ...

    def kv_used(self, steps: int) -> int:
        """KV blocks in use in the ``steps``-th of the equal steps of the plan under way."""
        ...

    def generated(self, sequence: Sequence) -> int:
        """Output tokens that a sequence has given by now, between two plans."""
        ...

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up, between two plans."""
        ...

    def unfinished(self) -> list[Sequence]:
        """Sequences that have not ended, with their ``generated`` up to date."""
        ...

    @property
    def decoding_count(self) -> int:
        """Sequences (or padded slots) that decode."""
        ...

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or counts disagree."""
        ...


class DecodeSet:
    """The sequences that decode, advanced together.

    ``count`` of them attend to ``context`` tokens in the next step. ``steps`` counts decode steps
    since the beginning; a sequence's own counters follow from it (see ``Sequence.offset``).
    ``need[steps % block_size]`` says how many of them need a new KV block in the next step.
    """

    __slots__ = (
        "_local",
        "block_size",
        "chunked",
        "context",
        "count",
        "ends",
        "growing",
        "growth",
        "local_context",
        "need",
        "span",
        "steps",
    )

    def __init__(self, block_size: int, *, growing: bool, span: int, chunked: bool) -> None:
        self.block_size = block_size
        self.growing = growing
        self.span = span
        self.chunked = chunked
        self.steps = 0
        self.count = 0
        self.context = 0
        self.local_context = 0
        self.growth = 0
        self.need = [0] * block_size
        self.ends: list[tuple[int, int, Sequence]] = []
        # Decode counts at which a sequence's local context stops growing or starts a new chunk.
        self._local: list[tuple[int, int, Sequence]] = []

    def join(self, sequence: Sequence, remaining: int) -> None:
        """Adds a sequence that has ``computed`` tokens stored and ``remaining`` tokens to come."""
        stored = sequence.computed
        steps = self.steps
        sequence.offset = stored - steps
        end = steps + remaining
        sequence.finish_at = end
        heappush(self.ends, (end, sequence.order, sequence))
        self.count += 1
        self.context += stored + 1
        if self.growing:
            self.need[(steps - stored) % self.block_size] += 1
        if self.span:
            self._join_local(sequence, stored + 1)

    def leave(self, sequence: Sequence) -> int:
        """Takes out a sequence; returns how many tokens it has stored."""
        stored = sequence.offset + self.steps
        sequence.finish_at = NOT_DECODING
        self.count -= 1
        self.context -= stored + 1
        if self.growing:
            self.need[-sequence.offset % self.block_size] -= 1
        if self.span:
            self._leave_local(stored + 1)
        return stored

    def advance(self, steps: int) -> None:
        """Every sequence decodes ``steps`` tokens; ``steps`` is at most ``until_change()``."""
        self.steps += steps
        self.context += self.count * steps
        if self.span:
            self.local_context += self.growth * steps
            self._cross()

    def ended(self) -> list[Sequence]:
        """Sequences whose last token has come; they have left the set."""
        ends = self.ends
        steps = self.steps
        done = []
        while ends and ends[0][0] <= steps:
            end, _, sequence = heappop(ends)
            if sequence.finish_at == end:
                sequence.computed = self.leave(sequence)
                done.append(sequence)
        return done

    def until_change(self) -> int:
        """Steps until a sequence ends or the growth of the local context changes."""
        ends = self.ends
        while ends[0][2].finish_at != ends[0][0]:
            heappop(ends)
        steps = ends[0][0] - self.steps
        if self._local:
            # Entries of sequences that left only shorten a stretch, which is always allowed.
            steps = min(steps, self._local[0][0] - self.steps)
        return steps

    def blocks_for(self, steps: int) -> int:
        """KV blocks that the next ``steps`` steps need together."""
        size = self.block_size
        need = self.need
        start = self.steps % size
        rounds, rest = divmod(steps, size)
        blocks = rounds * sum(need) if rounds else 0
        if rest:
            end = start + rest
            blocks += sum(need[start:end])
            if end > size:
                blocks += sum(need[: end - size])
        return blocks

    def steps_within(self, free: int, most: int) -> int:
        """The largest number of steps up to ``most`` whose blocks fit into ``free``."""
        if (most // self.block_size + 1) * self.count <= free or self.blocks_for(most) <= free:
            return most
        size = self.block_size
        need = self.need
        steps = free // max(1, sum(need)) * size
        left = free - self.blocks_for(steps)
        while left >= need[(self.steps + steps) % size]:
            left -= need[(self.steps + steps) % size]
            steps += 1
        return steps

    def forget_gone(self) -> None:
        """Drops what is still known of sequences that left before their end."""
        self.ends = [entry for entry in self.ends if entry[2].finish_at == entry[0]]
        self._local = [
            entry
            for entry in self._local
            if entry[2].finish_at != NOT_DECODING and entry[2].order == entry[1]
        ]
        heapify(self.ends)
        heapify(self._local)

    def stored(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has in the cache."""
        return sequence.offset + self.steps

    def left(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has still to give."""
        return sequence.finish_at - self.steps

    # --- local attention -------------------------------------------------------------------------

    def _join_local(self, sequence: Sequence, position: int) -> None:
        span = self.span
        if self.chunked:
            visible = (position - 1) % span + 1
            self.growth += 1
            heappush(self._local, (self.steps + span - visible + 1, sequence.order, sequence))
        elif position < span:
            visible = position
            self.growth += 1
            heappush(self._local, (self.steps + span - position, sequence.order, sequence))
        else:
            visible = span
        self.local_context += visible

    def _leave_local(self, position: int) -> None:
        span = self.span
        if self.chunked:
            self.local_context -= (position - 1) % span + 1
            self.growth -= 1
        elif position < span:
            self.local_context -= position
            self.growth -= 1
        else:
            self.local_context -= span

    def _cross(self) -> None:
        local = self._local
        steps = self.steps
        while local and local[0][0] <= steps:
            at, order, sequence = heappop(local)
            if sequence.finish_at == NOT_DECODING or sequence.order != order:
                continue
            if self.chunked:
                self.local_context -= self.span
                heappush(local, (at + self.span, order, sequence))
            else:
                self.growth -= 1
