"""Policies that form a batch, run it to its end and only then take the next one."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from simulator.costs.protocol import Chunk
from simulator.serving.kv_cache import KvCache
from simulator.serving.queues import Waiting
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence


class BatchScheduler:
    """Static batching, and dynamic batching where ``wait_to_fill``.

    Prompts are padded to the longest one, every slot stays occupied until the longest output has
    ended, and each slot holds the KV blocks of the longest prompt with the longest output.
    """

    def __init__(
        self,
        kv: KvCache,
        *,
        batch_size: int,
        wait_to_fill: bool = False,
        local_span: int = 0,
        local_chunked: bool = False,
        waiting: Waiting | None = None,
    ) -> None:
        self.kv = kv
        self.batch_size = batch_size
        self.wait_to_fill = wait_to_fill
        self.pauses_decoding = False
        self.waiting: Waiting = deque() if waiting is None else waiting
        self.blocked = False
        self._span = local_span
        self._chunked = local_chunked
        self._ends: list[tuple[int, int, Sequence]] = []
        self._slots = 0
        self._prompt = 0
        self._steps = 0
        self._blocks = 0
        self._prefilled = False

    @property
    def decoding_count(self) -> int:
        """Slots that decode, padded ones included."""
        return self._slots if self._prefilled else 0

    def preempted_in_vain(self) -> int:
        """None: nobody is preempted."""
        return 0

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        self.waiting.append(sequence)

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """Plans the next step. An idle engine that may wait for its batch to fill returns None
        until it is full or ``window_over``."""
        if self._slots:
            return self._decode()
        if not self.waiting:
            return None
        if self.wait_to_fill and not window_over and len(self.waiting) < self.batch_size:
            return None
        return self._begin()

    def _begin(self) -> Plan:
        layout = self.kv.layout
        prompt = output = 0
        batch: list[Sequence] = []
        for sequence in self.waiting:
            if len(batch) == self.batch_size:
                break
            longest = max(prompt, sequence.prompt) + max(output, sequence.output) - 1
            if (len(batch) + 1) * layout.blocks_for(longest) > self.kv.free:
                break
            prompt = max(prompt, sequence.prompt)
            output = max(output, sequence.output)
            batch.append(sequence)
        plan = Plan()
        for sequence in batch:
            self.waiting.popleft()
            sequence.cached = max(sequence.cached, 0)
            plan.chunks.append(Chunk(prompt, 0))
            plan.prefill.append(sequence)
            plan.wasted += prompt - sequence.prompt
        plan.stored = 0
        plan.running = plan.ending = self._slots = len(batch)
        self._prompt = prompt
        self._blocks = len(batch) * layout.blocks_for(prompt + output - 1)
        self.kv.take(self._blocks)
        # From now on only the end of the batch makes room for those who wait.
        self.blocked = True
        return plan

    def _decode(self) -> Plan:
        plan = Plan()
        position = self._prompt + self._steps + 1
        plan.decode = self._slots
        plan.running = plan.emitting = len(self._ends)
        plan.stored = self._slots * (position - 1)
        plan.context = self._slots * position
        plan.steps = self._ends[0][0] - self._steps
        if self._span:
            span = self._span
            if self._chunked:
                visible = (position - 1) % span + 1
                plan.local_growth = self._slots
                plan.steps = min(plan.steps, span - visible + 1)
            else:
                visible = min(position, span)
                if position < span:
                    plan.local_growth = self._slots
                    plan.steps = min(plan.steps, span - position)
            plan.local_context = self._slots * visible
        return plan

    def complete(self, plan: Plan, steps: int = 1) -> list[Sequence]:
        """Books ``steps`` executions of the plan; returns the sequences that ended."""
        ended: list[Sequence] = []
        plan.kv_used = self.kv.used
        if plan.chunks:
            self._prefilled = True
            for order, sequence in enumerate(plan.prefill):
                sequence.computed = sequence.target
                sequence.generated = 1
                if sequence.output == 1:
                    ended.append(sequence)
                else:
                    sequence.finish_at = sequence.output - 1
                    heappush(self._ends, (sequence.finish_at, order, sequence))
        else:
            self._steps += steps
        while self._ends and self._ends[0][0] <= self._steps:
            sequence = heappop(self._ends)[2]
            sequence.generated = sequence.output
            ended.append(sequence)
        if not self._ends:
            self._finish()
        return ended

    def _finish(self) -> None:
        self.kv.release_blocks(self._blocks)
        self._blocks = self._slots = self._steps = 0
        self._prefilled = False
        self.blocked = False

    def kv_used(self, steps: int) -> int:
        """KV blocks in use: the same in every step of a batch."""
        return self.kv.used

    def generated(self, sequence: Sequence) -> int:
        """Output tokens that a sequence has given by now."""
        if sequence.finish_at == NOT_DECODING or sequence.generated == sequence.output:
            return sequence.generated
        return 1 + self._steps

    def drop(self, sequence: Sequence) -> None:
        """Takes out a sequence whose client gave up; its slot stays until the batch ends."""
        entries = [entry for entry in self._ends if entry[2] is not sequence]
        if len(entries) == len(self._ends):
            self.waiting.remove(sequence)
            return
        sequence.generated = 1 + self._steps
        self._ends = sorted(entries)
        if not self._ends:
            self._finish()

    def unfinished(self) -> list[Sequence]:
        """Sequences that have not ended, with their progress up to date."""
        for _, _, sequence in self._ends:
            sequence.generated = 1 + self._steps
        return [*(entry[2] for entry in self._ends), *self.waiting]

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked."""
        assert self.kv.used == self._blocks, f"{self.kv.used} blocks used, {self._blocks} known"
