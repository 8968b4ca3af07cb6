"""How one replica spreads over devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.base import Count, Model


class Parallelism(Model):
    """How one replica spreads over devices."""

    tp: Count = Field(1, description="tensor parallelism: devices that share every layer")
    pp: Count = Field(
        1,
        description="pipeline parallelism: stages of layers, each on devices of its own, with up "
        "to as many micro-batches in flight",
    )
    dp: Count = Field(
        1,
        description="data-parallel attention: ranks with sequences and KV cache of their own that "
        "share the experts and step together",
    )
    ep: Count = Field(
        1,
        description="expert parallelism: groups of devices that hold different experts; the "
        "devices of a group share every expert of theirs",
    )
    cp: Count = Field(
        1,
        description="context parallelism: groups of devices that share the tokens of prompts and "
        "the KV cache; each holds all weights",
    )
    fsdp: Count = Field(
        1,
        description="fully sharded weights: so many replicas have a part of each layer's weights "
        "each, and gather a layer before they use it",
    )
    redundant_experts: Annotated[int, Field(ge=0, le=100_000, strict=True)] | None = Field(
        None,
        description="further copies of popular experts in every layer, all placed so that ranks "
        "are evenly loaded; default: experts lie as they are numbered",
    )
