"""What the cluster asks of a cost model: how long a step takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Chunk(NamedTuple):
    """Prompt tokens of one sequence in one step: ``new`` ones after ``past`` that are stored."""

    new: int
    past: int


class StepCost(Protocol):
    """Predicted duration of steps, in seconds."""

    local_span: int
    """Span of the local-attention layers in tokens, 0 if the model has none."""
    local_is_chunked: bool
    """Whether those layers attend within aligned chunks instead of a sliding window."""

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """A run of pure decode steps with a fixed set of sequences.

        Args:
            sequences: how many decode.
            context: tokens they attend to in the first step, summed; grows by ``sequences`` a step.
            local_context: the same, cut to the local span; grows by ``local_growth`` a step.

        Returns:
            Duration of the first step, its growth from step to step, and for how many steps that
            straight line is exact (at least 1).
        """
        ...

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """One step with prompt chunks: ``sequences`` decode beside them and ``sampled`` sequences
        (decoding ones and those whose prompt ends) need logits."""
        ...


@runtime_checkable
class SeriesCost(StepCost, Protocol):
    """Predicted durations of many decode steps at once."""

    def decode_series(self, sequences: int, context: Ints, local_context: Ints) -> Floats:
        """Durations of decode steps with the same number of sequences: to the last bit what
        ``decode`` says of each, its ``local_growth`` being 0. ``context`` never falls. Shapes
        (steps,)."""
        ...


def decode_series_of(cost: StepCost) -> Callable[[int, Ints, Ints], Floats]:
    """``SeriesCost.decode_series`` of any cost model."""
    if isinstance(cost, SeriesCost):
        return cost.decode_series

    def one_by_one(sequences: int, context: Ints, local_context: Ints) -> Floats:
        pairs = zip(context.tolist(), local_context.tolist(), strict=True)
        return np.array([cost.decode(sequences, whole, local, 0)[0] for whole, local in pairs])

    return one_by_one


class Work(NamedTuple):
    """What one data-parallel attention rank has in a step; the arguments of ``StepCost.step``, and
    with no ``chunks`` those of ``StepCost.decode``. ``local_growth``: of a pure decode step."""

    sequences: int
    context: int
    local_context: int
    local_growth: int
    chunks: Sequence[Chunk]
    sampled: int


@runtime_checkable
class LockstepCost(StepCost, Protocol):
    """Predicted duration of steps that several attention ranks take together, because their
    experts lie on all of them: attention of the slowest rank, experts on all ranks' tokens."""

    ranks: int
    """How many there are."""

    def together(self, works: Sequence[Work]) -> float:
        """One common step; one work a rank, ranks without sequences have one of zeros."""
        ...

    def decode_together(self, works: Sequence[Work]) -> tuple[float, float, int]:
        """A run of pure decode steps with fixed sets of sequences: as ``StepCost.decode``, duration
        of the first step, its growth, and for how many steps that line is exact. Cut where another
        rank becomes the slowest one."""
        ...

    def own(self, work: Work) -> tuple[float, float]:
        """The part of a step that each rank does for itself: seconds, and growth from step to step
        of pure decode. A common step takes the longest of these and what all do together."""
        ...


class Passage(NamedTuple):
    """How long pure decode steps keep each machine of a pipeline busy, seconds: stage, link, stage,
    link, … stage. ``first`` of the first step, ``slope`` its growth from step to step, ``most``:
    for how many steps these lines are exact. Lists are the receiver's to keep."""

    first: list[float]
    slope: list[float]
    most: int


@runtime_checkable
class PipelineCost(StepCost, Protocol):
    """Predicted passages of steps through the stages of one replica. As a ``StepCost``: a step
    alone in the pipeline."""

    stages: int
    """How many there are."""
    lags: Sequence[float]
    """Latency from a machine's end to the next one's earliest start, by machine."""

    def decode_passage(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> Passage:
        """Of a run of pure decode steps; arguments as of ``StepCost.decode``."""
        ...

    def step_passage(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> list[float]:
        """Of one step with prompt chunks; arguments as of ``StepCost.step``."""
        ...


def step_seconds(
    cost: StepCost,
    sequences: int,
    context: int,
    local_context: int,
    chunks: Sequence[Chunk],
    sampled: int,
) -> float:
    """Predicted duration of one step, with or without prompt chunks; see ``StepCost``."""
    if chunks:
        return cost.step(sequences, context, local_context, chunks, sampled)
    return cost.decode(sequences, context, local_context, 0)[0]


def local_pairs(new: int, past: int, span: int, *, chunked: bool) -> int:
    """(query, key) pairs of ``new`` tokens after ``past`` ones in a layer with local attention."""
    end = past + new
    return _pairs_up_to(end, span, chunked) - _pairs_up_to(past, span, chunked)


def _pairs_up_to(tokens: int, span: int, chunked: bool) -> int:
    if chunked:
        whole, rest = divmod(tokens, span)
        return whole * (span * (span + 1) // 2) + rest * (rest + 1) // 2
    if tokens <= span:
        return tokens * (tokens + 1) // 2
    return span * (span + 1) // 2 + (tokens - span) * span
