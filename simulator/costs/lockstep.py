"""Step times of data-parallel attention: ranks with sequences of their own share the experts.

In every layer each rank does its attention and what else is its own, then all tokens travel to the
experts and back. Nobody goes on before everybody is there, layer by layer, so a common step takes
the own part of the slowest rank, and once the experts' time for the tokens of all ranks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simulator.costs.model import StepCostModel
from simulator.costs.operators import Experts, Operator, Shape
from simulator.costs.protocol import Chunk, Work
from simulator.costs.rows import View, table
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.results.record import StepTable, StepWork
from simulator.workload.requests import Floats

_ALWAYS = 1 << 60
_AT_ONCE = 256
"""Numbers of tokens whose experts' times are computed together."""


def travels(op: Operator) -> bool:
    """Whether the operator brings tokens to the experts or back."""
    return op.name in ("dispatch", "combine")


class LockstepCostModel(StepCostModel):
    """Predicted step times of ``layout.dp`` ranks in lockstep (``LockstepCost``).

    Engines pad the decode batches of all ranks to that of the largest, so that all take the same
    graph: the experts get that many tokens from every rank, idle ones included. Steps with prompts
    are not padded to each other.

    As a ``StepCost``: a step in which all ranks have the same.
    """

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: EngineProfile,
        precision: ResolvedPrecision,
        layout: Layout,
        limits: Limits,
    ) -> None:
        self.ranks = layout.dp
        self._experts_s: dict[int, list[float]] = {}
        self._travel_s: list[float] = []
        super().__init__(spec, hardware, engine, precision, layout, limits)

    # --- the clock's questions -------------------------------------------------------------------

    def together(self, works: Sequence[Work]) -> float:
        """See ``LockstepCost.together``."""
        if not any(work.chunks for work in works):
            return self.decode_together(works)[0]
        slowest = floor = host = 0.0
        most = total = 0
        for work in works:
            if not work.sequences and not work.chunks:
                continue
            new = sum([chunk.new for chunk in work.chunks])
            padded, launches = self._padding(work.sequences + new, mixed=bool(work.chunks))
            on_host = self._on_host(work, new)
            slowest = max(slowest, self._own_s(work, padded)[0])
            floor = max(floor, launches, self._overlap * on_host, self._emit_s * work.sampled)
            host = max(host, (1.0 - self._overlap) * on_host)
            most, total = max(most, padded), total + padded
        return max(slowest + self._common_s(most, total), floor) + host

    def decode_together(self, works: Sequence[Work]) -> tuple[float, float, int]:
        """See ``LockstepCost.decode_together``."""
        largest = max([work.sequences for work in works])
        padded, floor = self._padding(largest, mixed=False)
        lines = [
            self._own_s(work, self._padding(work.sequences, mixed=False)[0])
            for work in works
            if work.sequences
        ]
        first, slope, steps = max(lines)
        for own, growth, exact in lines:
            steps = min(steps, exact)
            if growth > slope:
                steps = min(steps, int((first - own) / (growth - slope)) + 1)
        device = first + self._common_s(padded, self.ranks * padded)
        on_host = self._host_step + (self._host_seq + self._host_token) * largest
        floor = max(floor, self._overlap * on_host, self._emit_s * largest)
        host = (1.0 - self._overlap) * on_host
        if device >= floor:
            return device + host, slope, steps
        if slope > 0.0:
            steps = min(steps, int((floor - device) / slope) + 1)
        return floor + host, 0.0, steps

    def own(self, work: Work) -> tuple[float, float]:
        """See ``LockstepCost.own``."""
        new = sum([chunk.new for chunk in work.chunks])
        if not work.sequences and not new:
            return 0.0, 0.0
        padded, _ = self._padding(work.sequences + new, mixed=bool(work.chunks))
        seconds, slope, _ = self._own_s(work, padded)
        return seconds, slope

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; on every rank."""
        work = Work(sequences, context, local_context, local_growth, (), sequences)
        return self.decode_together([work] * self.ranks)

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``; on every rank."""
        work = Work(sequences, context, local_context, 0, chunks, sampled)
        return self.together([work] * self.ranks)

    def _on_host(self, work: Work, new: int) -> float:
        seqs = work.sequences + len(work.chunks)
        total = work.sequences + new
        return self._host_step + self._host_seq * seqs + self._host_token * total

    def _own_s(self, work: Work, padded: int) -> tuple[float, float, int]:
        """Device seconds of what is a rank's own, their growth, and steps for which that holds."""
        if padded >= len(self._tokens_s):
            self._reach_tokens(padded)
        if work.sampled >= len(self._sampled_s):
            self._reach_sampled(work.sampled)
        seconds = self._tokens_s[padded] + self._sampled_s[work.sampled]
        if work.chunks:
            seconds += self._attend(work.chunks)
        slope, steps = 0.0, _ALWAYS
        if not work.sequences:
            return seconds, slope, steps
        batch = self._batches.get(work.sequences) or self._batch(work.sequences)
        for bends, at, growth in (
            (batch.full, work.context, work.sequences),
            (batch.local, work.local_context, work.local_growth),
        ):
            if bends is None:
                continue
            ends, starts, values, slopes = bends
            i = bisect_left(ends, at)
            seconds += values[i] + slopes[i] * (at - starts[i])
            if growth:
                slope += slopes[i] * growth
                steps = min(steps, (ends[i] - at) // growth + 1)
        return seconds, slope, steps

    def _common_s(self, most: int, total: int) -> float:
        """Experts of ``total`` tokens, which travel from and to ranks that have ``most`` each."""
        if most >= len(self._travel_s):
            self._reach_tokens(most)
        return self._experts(total) + self._travel_s[most]

    # --- tables ----------------------------------------------------------------------------------

    def _is_own(self, op: Operator) -> bool:
        return not isinstance(op, Experts) and not travels(op)

    def _grow_tokens(self, most: int) -> None:
        super()._grow_tokens(most)
        self._travel_s = table([op for op in self.operators if travels(op)], most + 1)

    def _experts(self, total: int) -> float:
        """Seconds of the experts for so many tokens, computed for many numbers at once."""
        block, place = divmod(total, _AT_ONCE)
        if block not in self._experts_s:
            experts = [op for op in self.operators if isinstance(op, Experts)]
            first = block * _AT_ONCE
            self._experts_s[block] = table(experts, first + _AT_ONCE, first)
        return self._experts_s[block][place]

    # --- after the run ---------------------------------------------------------------------------

    def account(self, steps: StepTable) -> StepWork:
        """See ``Accountant.account``. A row's energy is that of its part of the replica, idle ranks
        included; its devices work but for the time in which they wait for slower ranks."""
        work = super().account(steps)
        part = self._view(steps).devices / self.devices
        return replace(
            work,
            link_bytes=work.link_bytes * part,
            busy_s=(steps.duration_s - steps.stall_s) / self.ranks,
            powered_s=steps.duration_s * part,
        )

    def _view(self, steps: StepTable) -> View:
        return _RankView(self._shape_of(steps), steps, self.ranks, self.devices)


class _RankView(View):
    """Rows of ranks that step together: those of one replica that start at once. They stand for all
    of its devices, those of idle ranks included."""

    def __init__(self, shape: Shape, steps: StepTable, ranks: int, devices: int) -> None:
        start = np.unique(steps.start_s, return_inverse=True)[1]
        key = steps.replica * np.int64(len(steps) + 1) + start.ravel()
        _, place, count = np.unique(key, return_inverse=True, return_counts=True)
        busy = count[place].astype(np.float64)
        most, total, prompts = (np.zeros(len(count)) for _ in range(3))
        np.maximum.at(most, place, shape.tokens)
        np.add.at(total, place, shape.tokens)
        np.maximum.at(prompts, place, shape.prefill)
        total = np.where(prompts > 0, total, ranks * most)[place]
        super().__init__(shape, devices / busy)
        self._to_experts = replace(shape, tokens=total)
        self._travelling = replace(shape, tokens=most[place])
        self._busy = busy / ranks
        self._mine = shape.tokens * busy / np.maximum(total, 1.0)

    def of(self, op: Operator) -> Shape:
        """See ``View.of``."""
        if isinstance(op, Experts):
            return self._to_experts
        return self._travelling if travels(op) else self.shape

    def shares(self, op: Operator) -> tuple[Floats | float, Floats | float]:
        """See ``View.shares``."""
        if isinstance(op, Experts):
            return 1.0, self._mine
        return (1.0, 1.0) if travels(op) else (self._busy, self._busy)
