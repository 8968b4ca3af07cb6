"""Continuous batching with LoRA adapters: so many in memory, and so many in a step."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence


class AdapterScheduler(InFlightScheduler):
    """An ``InFlightScheduler`` that passes over waiting requests whose adapter would be one too
    many and tries those behind them, as vLLM v1 does.

    Attributes:
        distinct, tokens: adapters in the last plan, and its tokens that use one.
        loaded: adapters that this plan brought into memory, in order.
        asked: how often a request with an adapter was admitted.
    """

    def __init__(self, kv: KvCache, *, max_loras: int, **options: Any) -> None:
        super().__init__(kv, **options)
        self.max_loras = max_loras
        self.distinct = self.tokens = self.asked = 0
        self.loaded: list[int] = []
        # Adapters in memory, least recently used first, and how many admitted ones use each.
        self._slots: OrderedDict[int, None] = OrderedDict()
        self._using: dict[int, int] = {}
        self._held: dict[Sequence, None] = {}
        self._passed_over = False

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """See ``InFlightScheduler.schedule``."""
        self.loaded = []
        self._passed_over = False
        plan = super().schedule(window_over=window_over)
        if plan is None:
            return None
        if self._passed_over and plan.decode and not plan.chunks and not plan.preempted:
            # Only the end of a sequence, or a request that comes, can change anything.
            plan.steps = self._leap()
        self._count(plan)
        return plan

    def _count(self, plan: Plan) -> None:
        used, self.tokens = set(), 0
        for sequence, chunk in zip(plan.prefill, plan.chunks, strict=True):
            if sequence.adapter >= 0:
                used.add(sequence.adapter)
                self.tokens += chunk.new
        if plan.decode:
            for sequence in self._held:
                if sequence.finish_at != NOT_DECODING:
                    used.add(sequence.adapter)
                    self.tokens += 1
        self.distinct = len(used)

    def _admit(self, plan: Plan, left: int) -> None:
        queue = self.waiting
        passed_over: list[Sequence] = []
        while queue:
            if not self._has_room_for(queue[0].adapter):
                passed_over.append(queue.popleft())
                continue
            self.waiting = deque([queue.popleft()])
            super()._admit(plan, left)
            if self.waiting:  # it has to wait, and so have those behind it
                queue.appendleft(self.waiting[0])
                break
            left -= plan.chunks[-1].new
        for sequence in reversed(passed_over):
            queue.appendleft(sequence)
        self.waiting = queue
        self._passed_over = len(passed_over) == len(queue) > 0

    def _has_room_for(self, adapter: int) -> bool:
        return adapter < 0 or adapter in self._using or len(self._using) < self.max_loras

    def _chunk(self, plan: Plan, sequence: Sequence, new: int, blocks: int) -> None:
        if sequence.adapter >= 0 and sequence not in self._held:
            self._hold(sequence)
        super()._chunk(plan, sequence, new, blocks)

    def _hold(self, sequence: Sequence) -> None:
        adapter = sequence.adapter
        self._held[sequence] = None
        self._using[adapter] = self._using.get(adapter, 0) + 1
        self.asked += 1
        slots = self._slots
        if adapter in slots:
            slots.move_to_end(adapter)
            return
        if len(slots) == self.max_loras:
            del slots[next(old for old in slots if old not in self._using)]
        slots[adapter] = None
        self.loaded.append(adapter)

    def _release(self, sequence: Sequence) -> None:
        super()._release(sequence)
        if sequence in self._held:
            del self._held[sequence]
            self._using[sequence.adapter] -= 1
            if not self._using[sequence.adapter]:
                del self._using[sequence.adapter]

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked or the counts disagree."""
        super().check_integrity()
        assert len(self._slots) <= self.max_loras, "more adapters than slots"
        assert set(self._using) <= set(self._slots), "an adapter in use is not in memory"
        assert len(self._held) == sum(self._using.values()), "adapters miscounted"
