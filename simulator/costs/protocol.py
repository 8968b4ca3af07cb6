"""What the cluster asks of a cost model: how long a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


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


class Work(NamedTuple):
    """What one data-parallel attention rank has in a step; the arguments of ``StepCost.step``, and
    with no ``chunks`` those of ``StepCost.decode``. ``local_growth``: of a pure decode step."""

    sequences: int
    context: int
    local_context: int
    local_growth: int
    chunks: Sequence[Chunk]
    sampled: int


class LockstepCost(StepCost, Protocol):
    """Predicted duration of steps that several attention ranks take together, because their
    experts lie on all of them: attention of the slowest rank, experts on all ranks' tokens."""

    def together(self, works: Sequence[Work]) -> float:
        """One common step; one work a rank, ranks without sequences have one of zeros."""
        ...

    def decode_together(self, works: Sequence[Work]) -> tuple[float, float, int]:
        """A run of pure decode steps with fixed sets of sequences: as ``StepCost.decode``, duration
        of the first step, its growth, and for how many steps that line is exact."""
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
