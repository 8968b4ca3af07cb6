"""What the times of steps are made of, apart from any one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.costs.operators import Operator
from simulator.costs.stretches import DecodeTable, PromptAttention


@dataclass(frozen=True, slots=True)
class CostParts:
    """What the times of steps are made of, for whoever bounds them (simulator.costs.least).

    Args:
        tokens_s, sampled_s: device seconds by tokens of one rank and by sampled sequences.
        token_ops, sampled_ops: the operators behind them.
        full, local: what decoding sequences do each for itself, in layers of each kind.
        full_prompts, local_prompts: attention of prompt chunks.
        host_s: seconds of the host a step, a sequence and a token.
        overlap: share of these that hides behind the device's work.
        emit_s: least time of a step for each token that comes out.
        launch_s, piece_s: least time of steps outside graphs, and of those in pieces of graphs.
        largest_graph: tokens, 0 without graphs.
        mixed_graphs, whole_graphs: whether steps with prompts run in graphs, and whether those
            without do so as a whole.
        drafts: drafted tokens that a decoding sequence verifies.
        ranks: groups of devices that each have an equal part of a step's tokens.
        least_s: least time of any step's device work.
    """

    tokens_s: list[float]
    sampled_s: list[float]
    token_ops: Sequence[Operator]
    sampled_ops: Sequence[Operator]
    full: DecodeTable | None
    local: DecodeTable | None
    full_prompts: PromptAttention | None
    local_prompts: PromptAttention | None
    host_s: tuple[float, float, float]
    overlap: float
    emit_s: float
    launch_s: float
    piece_s: float
    largest_graph: int
    mixed_graphs: bool
    whole_graphs: bool
    drafts: int
    ranks: int = 1
    least_s: float = 0.0
