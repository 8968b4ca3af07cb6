"""Schedulers of a deployment in which one engine computes prompts and another one goes on.

The prompt's engine ends with the first token and keeps the KV blocks until they have been fetched.
The other one first takes blocks for the prompt, then waits for the keys and values to come, and
then decodes; what it preempts it computes again itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from simulator.serving.inflight import InFlightScheduler
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence


class PrefillScheduler(InFlightScheduler):
    """Computes prompts of sequences with one output token; keeps their blocks until ``fetched``.

    Takes the arguments of ``InFlightScheduler``.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._kept: dict[Sequence, None] = {}
        self._kept_tokens = 0

    def _let_go(self, sequence: Sequence) -> None:
        self._kept[sequence] = None
        self._kept_tokens += sequence.computed

    def fetched(self, sequence: Sequence) -> None:
        """The keys and values of a sequence that has ended are no longer needed."""
        del self._kept[sequence]
        self._kept_tokens -= sequence.computed
        self._release(sequence)

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step; None if nothing can run now."""
        plan = super().schedule(window_over=window_over)
        if plan is not None:
            plan.stored += self._kept_tokens
        return plan

    def unfinished(self) -> list[Sequence]:
        """Those whose prompts wait or run; none has a token yet."""
        return [s for s in super().unfinished() if s.generated == 0]

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        super().check_integrity()
        assert not self._kept, f"{len(self._kept)} prompts were never fetched"


class DecodeScheduler(InFlightScheduler):
    """Goes on with sequences whose prompts were computed elsewhere.

    A sequence is expected, gets blocks for its prompt (``reserved``), its keys and values come
    (``land``), and from the next step on it decodes. Blocks are given to expected ones in the order
    of their coming, as long as one free block stays for every sequence that is there: else they
    would preempt each other at once. Takes the arguments of ``InFlightScheduler``.

    Attributes:
        reserved: sequences that got blocks since this list was last emptied.
        landed: sequences whose keys and values came since the last plan.
        joined: sequences that decode for the first time in the plan made last.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.reserved: list[Sequence] = []
        self.joined: list[Sequence] = []
        self._most = self.max_num_seqs
        self._expected: deque[Sequence] = deque()
        self._coming: dict[Sequence, None] = {}
        self.landed: list[Sequence] = []

    @property
    def crowded(self) -> bool:
        """Whether a sequence that is expected now has to wait for one that runs to end."""
        return bool(self._expected)

    def expect(self, sequence: Sequence) -> None:
        """A sequence whose prompt is computed elsewhere will come."""
        self._expected.append(sequence)

    def land(self, sequence: Sequence) -> None:
        """The keys and values of a prompt have come; its first token was made with them."""
        sequence.generated = 1
        self.landed.append(sequence)

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step; None if nothing can run now."""
        self.joined = [self._join(sequence) for sequence in self.landed]
        self.landed = []
        self._reserve()
        # Those that lost their blocks and wait anew leave room for those that are on their way.
        self.max_num_seqs = self._most - len(self._coming)
        return super().schedule(window_over=window_over)

    def _join(self, sequence: Sequence) -> Sequence:
        del self._coming[sequence]
        sequence.computed = sequence.prompt
        if sequence.streams is not None:
            self.kv.register(sequence, sequence.prompt)
        self._running[sequence] = None
        self._admissions += 1
        sequence.order = self._admissions
        self.decoding.join(sequence, sequence.output - 1)
        return sequence

    def _reserve(self) -> None:
        """Takes blocks for prompts that are to come."""
        kv, layout = self.kv, self.kv.layout
        while self._expected:
            there = len(self._running) + len(self._coming)
            if there >= self._most:
                return
            sequence = self._expected[0]
            hits = kv.lookup(sequence) if sequence.streams is not None else 0
            tokens = sequence.most_tokens if self.reserve else sequence.prompt
            fixed = layout.fixed_blocks(sequence.most_tokens) if layout.local_ratio else 0
            blocks = layout.growing_blocks(tokens) + fixed - hits
            needed = blocks + kv.unreferenced(sequence, hits) if hits else blocks
            if needed + (0 if self.reserve else there) > kv.free:
                return
            self._expected.popleft()
            self._coming[sequence] = None
            if hits:
                kv.share(sequence, hits)
            kv.take(blocks)
            sequence.cached = hits * kv.block_size
            sequence.fixed = fixed
            sequence.blocks = hits + blocks
            self.reserved.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up, between two plans."""
        if sequence in self._coming:
            del self._coming[sequence]
            if sequence in self.landed:
                self.landed.remove(sequence)
            if sequence in self.reserved:
                self.reserved.remove(sequence)
            self._release(sequence)
        elif sequence in self._expected:
            self._expected.remove(sequence)
        else:
            super().drop(sequence)

    def unfinished(self) -> list[Sequence]:
        """Sequences that have not ended, with their progress up to date."""
        return [*super().unfinished(), *self._coming, *self._expected]

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        super().check_integrity()
        assert not self._coming, f"{len(self._coming)} prompts never came"
        assert not self._expected, f"{len(self._expected)} prompts were never fetched"
