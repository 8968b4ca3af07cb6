"""Costs of pipelines and of lockstep ranks in whole multiples of 2^-20 s; see tests/dyadic.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.costs.protocol import Chunk, Passage, Work
from tests.dyadic import TICK_S, UNLIMITED, DyadicCost


@dataclass(unsafe_hash=True)
class DyadicPipeline:
    """Stages of their own cost; a link takes ``link`` ticks a token and ``lag`` before it arrives."""

    parts: tuple[DyadicCost, ...] = (DyadicCost(), DyadicCost())
    link: int = 0
    lag: int = 0

    @property
    def local_span(self) -> int:
        return self.parts[0].local_span

    @property
    def local_is_chunked(self) -> bool:
        return self.parts[0].local_is_chunked

    @property
    def stages(self) -> int:
        return len(self.parts)

    @property
    def lags(self) -> Sequence[float]:
        return [*[0.0, self.lag * TICK_S] * (len(self.parts) - 1), 0.0]

    def decode_passage(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> Passage:
        first: list[float] = []
        slope: list[float] = []
        most = UNLIMITED
        for part in self.parts:
            if first:
                first.append(self.link * sequences * TICK_S)
                slope.append(0.0)
            seconds, growth, steps = part.decode(sequences, context, local_context, local_growth)
            first.append(seconds)
            slope.append(growth)
            most = min(most, steps)
        return Passage(first, slope, most)

    def step_passage(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> list[float]:
        tokens = sequences + sum(chunk.new for chunk in chunks)
        times: list[float] = []
        for part in self.parts:
            if times:
                times.append(self.link * tokens * TICK_S)
            times.append(part.step(sequences, context, local_context, chunks, sampled))
        return times

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        found = self.decode_passage(sequences, context, local_context, local_growth)
        return sum(found.first) + sum(self.lags), sum(found.slope), found.most

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        times = self.step_passage(sequences, context, local_context, chunks, sampled)
        return sum(times) + sum(self.lags)


@dataclass(unsafe_hash=True)
class DyadicLockstep:
    """The slowest rank's own part, and ``common`` ticks plus ``token`` for each token of all."""

    part: DyadicCost = field(default_factory=DyadicCost)
    ranks: int = 2
    common: int = 30
    token: int = 2

    @property
    def local_span(self) -> int:
        return self.part.local_span

    @property
    def local_is_chunked(self) -> bool:
        return self.part.local_is_chunked

    def own(self, work: Work) -> tuple[float, float]:
        if work.chunks:
            seconds = self.part.step(
                work.sequences, work.context, work.local_context, work.chunks, work.sampled
            )
            return seconds, 0.0
        if not work.sequences:
            return 0.0, 0.0
        return self.part.decode(
            work.sequences, work.context, work.local_context, work.local_growth
        )[:2]

    def _shared(self, works: Sequence[Work]) -> float:
        tokens = sum(work.sequences + sum(c.new for c in work.chunks) for work in works)
        return (self.common + self.token * tokens) * TICK_S

    def together(self, works: Sequence[Work]) -> float:
        return max(self.own(work)[0] for work in works) + self._shared(works)

    def decode_together(self, works: Sequence[Work]) -> tuple[float, float, int]:
        most = UNLIMITED
        for work in works:
            if work.sequences:
                most = min(
                    most,
                    self.part.decode(
                        work.sequences, work.context, work.local_context, work.local_growth
                    )[2],
                )
        lines = [self.own(work) for work in works]
        longest, growth = max(lines)
        for seconds, slope in lines:
            if slope > growth:
                # The last step in which this one is not longer than the slowest one.
                most = min(most, int((longest - seconds) / (slope - growth)) + 1)
        return longest + self._shared(works), growth, most

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        return self.decode_together(
            [Work(sequences, context, local_context, local_growth, (), sequences)]
        )

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        return self.together([Work(sequences, context, local_context, 0, chunks, sampled)])
