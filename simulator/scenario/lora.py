"""LoRA adapters: what the engine has room for, and which of them requests ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Count, Model, NonNegativeFloat, PositiveFraction

AdapterTarget = Literal["qkv", "o", "up", "down"]
Rank = Annotated[int, Field(ge=1, le=1024, strict=True)]


class Lora(Model):
    """Room for adapters beside the base model (vLLM's max_loras and max_lora_rank)."""

    max_loras: Count = Field(
        description="adapters in device memory at once, and most different ones in a step"
    )
    max_rank: Rank = Field(16, description="rank that slots and kernels are made for")
    targets: Annotated[tuple[AdapterTarget, ...], Field(min_length=1)] = Field(
        ("qkv", "o", "up", "down"), description="linear layers that adapters change"
    )


class Adapters(Model):
    """Requests for adapters of the model. Each has its own cache of prompts: texts are shared
    among requests of the same adapter only."""

    count: Count = Field(description="how many different ones there are")
    rank: Rank = Field(16, description="rank of each, which says how much has to be loaded")
    zipf: NonNegativeFloat = Field(
        0.0, description="popularity: the i-th is asked for in proportion to i^-zipf; 0: equally"
    )
    share: PositiveFraction = Field(
        1.0, description="share of requests (of sessions) that ask for one; others use the model"
    )
