"""KV memory before paging: each sequence has one contiguous run, for as long as it might get."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

import numpy as np

from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache, KvLayout
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence
from simulator.workload.requests import Ints


def run_tokens(reserve: str, prompt: Ints, output: Ints, max_model_len: int) -> Ints:
    """Slots that sequences reserve, as the baselines of PagedAttention do (arXiv:2309.06180,
    section 6.1). Shapes (n,).

    Args:
        reserve: ``max_model_len`` (their Orca Max), ``power_of_two`` (the output's next power of
            two, Pow2) or ``exact`` (what will be stored, Oracle).
        prompt, output: tokens.
        max_model_len: longest sequence allowed.
    """
    stored = prompt + output - 1
    if reserve == "exact":
        return stored
    if reserve == "max_model_len":
        return np.full_like(stored, max_model_len)
    doubled = np.int64(1) << np.frexp((output - 1).astype(np.float64))[1].astype(np.int64)
    return np.minimum(prompt + doubled, max_model_len)


class ContiguousKvCache(KvCache):
    """Slots of single tokens, handed out in runs: the first hole that is large enough is taken.

    Attributes:
        stored_at_most: slots of the runs taken that will ever hold a token.
    """

    def __init__(self, layout: KvLayout) -> None:
        super().__init__(layout, prefix_caching=False)
        assert layout.block_size == 1, "runs are counted in tokens"
        self.stored_at_most = 0
        self._holes: list[tuple[int, int]] = [(0, layout.blocks)]  # (start, length), ascending
        self._runs_of: dict[Sequence, tuple[int, int]] = {}

    def fits(self, length: int) -> bool:
        """Whether some hole is large enough."""
        return any(size >= length for _, size in self._holes)

    def place(self, sequence: Sequence, length: int) -> None:
        """Gives a sequence the beginning of the first hole that is large enough; the caller has
        asked ``fits``, and takes the slots."""
        number = next(i for i, (_, size) in enumerate(self._holes) if size >= length)
        start, size = self._holes.pop(number)
        if size > length:
            self._holes.insert(number, (start + length, size - length))
        self._runs_of[sequence] = (start, length)
        self.stored_at_most += sequence.most_tokens

    def release(self, sequence: Sequence, blocks: int, tokens: int) -> None:
        """Gives back a sequence's run; holes that touch become one."""
        super().release(sequence, blocks, tokens)
        start, length = self._runs_of.pop(sequence)
        self.stored_at_most -= sequence.most_tokens
        holes = self._holes
        after = bisect_left(holes, (start, 0))
        if after < len(holes) and holes[after][0] == start + length:
            length += holes.pop(after)[1]
        if after and sum(holes[after - 1]) == start:
            start, before = holes.pop(after - 1)
            length += before
        insort(holes, (start, length))

    def check_integrity(self) -> None:
        """Raises AssertionError if runs overlap, or slots are lost between them."""
        super().check_integrity()
        parts = sorted([*self._holes, *self._runs_of.values()])
        at = 0
        for start, length in parts:
            assert start == at, f"slot {at} belongs to nobody, or to two"
            at += length
        assert at == self.total, "slots leaked"
        assert sum(size for _, size in self._holes) == self.free, "free slots miscounted"


class ContiguousScheduler(InFlightScheduler):
    """Continuous batching in which an admission takes one run and nothing is preempted.

    Attributes:
        no_hole: the last plan left a request waiting that no hole is large enough for.
    """

    def __init__(
        self, kv: ContiguousKvCache, *, max_model_len: int, reserve: bool, **settings: Any
    ) -> None:
        super().__init__(kv, reserve=True, **settings)  # whatever the policy would do with blocks
        self.runs = kv
        self.no_hole = False
        self.max_model_len = max_model_len

    def schedule(self, *, window_over: bool = True) -> Plan | None:
        """See ``Scheduler.schedule``."""
        self.no_hole = False
        return super().schedule(window_over=window_over)

    def _length(self, sequence: Sequence) -> int:
        prompt, output = (np.array([n]) for n in (sequence.prompt, sequence.output))
        return int(run_tokens(self.kv.layout.reserve, prompt, output, self.max_model_len)[0])

    def _asks(self, sequence: Sequence, left: int) -> tuple[int, int, int, int]:
        hits, new, fixed, _ = super()._asks(sequence, left)
        length = self._length(sequence)
        if not self.runs.fits(length):
            self.no_hole = True
            return hits, new, fixed, self.kv.free + 1  # more than there is: it cannot be admitted
        return hits, new, fixed, length

    def _chunk(self, plan: Plan, sequence: Sequence, new: int, blocks: int) -> None:
        if blocks:
            self.runs.place(sequence, blocks)
        super()._chunk(plan, sequence, new, blocks)
