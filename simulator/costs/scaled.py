"""Cost models whose steps take longer or shorter by a factor."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.costs.protocol import (
    Chunk,
    Floats,
    Ints,
    LockstepCost,
    Passage,
    PipelineCost,
    StepCost,
    Work,
    decode_series_of,
)


class Scaled:
    """A cost model whose steps take longer or shorter by a factor (``StepCost``)."""

    def __init__(self, cost: StepCost, prompts: float, decode: float) -> None:
        self._cost = cost
        self._prompts = prompts
        self._decode = decode
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``."""
        first, slope, steps = self._cost.decode(sequences, context, local_context, local_growth)
        return first * self._decode, slope * self._decode, steps

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        return self._prompts * self._cost.step(sequences, context, local_context, chunks, sampled)

    def decode_series(self, sequences: int, context: Ints, local_context: Ints) -> Floats:
        """See ``SeriesCost.decode_series``."""
        return decode_series_of(self._cost)(sequences, context, local_context) * self._decode


class ScaledPipeline(Scaled):
    """Passages through stages that take longer or shorter (``PipelineCost``); latencies of links
    stay."""

    _cost: PipelineCost

    def __init__(self, cost: PipelineCost, prompts: float, decode: float) -> None:
        super().__init__(cost, prompts, decode)
        self.stages = cost.stages
        self.lags = cost.lags

    def decode_passage(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> Passage:
        """See ``PipelineCost.decode_passage``."""
        found = self._cost.decode_passage(sequences, context, local_context, local_growth)
        factor = self._decode
        return Passage(
            [factor * seconds for seconds in found.first],
            [factor * growth for growth in found.slope],
            found.most,
        )

    def step_passage(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> list[float]:
        """See ``PipelineCost.step_passage``."""
        times = self._cost.step_passage(sequences, context, local_context, chunks, sampled)
        return [self._prompts * seconds for seconds in times]


class ScaledLockstep(Scaled):
    """Common steps that take longer or shorter (``LockstepCost``)."""

    _cost: LockstepCost

    def __init__(self, cost: LockstepCost, prompts: float, decode: float) -> None:
        super().__init__(cost, prompts, decode)
        self.ranks = cost.ranks

    def together(self, works: Sequence[Work]) -> float:
        """See ``LockstepCost.together``."""
        return self._prompts * self._cost.together(works)

    def decode_together(self, works: Sequence[Work]) -> tuple[float, float, int]:
        """See ``LockstepCost.decode_together``."""
        first, slope, steps = self._cost.decode_together(works)
        return first * self._decode, slope * self._decode, steps

    def own(self, work: Work) -> tuple[float, float]:
        """See ``LockstepCost.own``."""
        factor = self._prompts if work.chunks else self._decode
        seconds, slope = self._cost.own(work)
        return factor * seconds, factor * slope


def scaled(cost: StepCost, prompts: float, decode: float) -> StepCost:
    """The cost model with steps that take ``prompts`` times as long where they have prompts, and
    ``decode`` times where they have none; of the same kind."""
    if isinstance(cost, PipelineCost):
        return ScaledPipeline(cost, prompts, decode)
    if isinstance(cost, LockstepCost):
        return ScaledLockstep(cost, prompts, decode)
    return Scaled(cost, prompts, decode)
