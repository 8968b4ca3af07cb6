"""The KV cache beyond blocks of device memory: tiers below it, swapping, contiguous allocation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat, Tokens, Unit


class HostTier(Model):
    """Memory of the host. Every device reaches its share of it over a link of its own."""

    kind: Literal["host"] = "host"
    gib: Annotated[NonNegativeFloat, Unit("GiB")] = Field(
        description="room of one replica for KV blocks; 0: no tier"
    )


class SsdTier(Model):
    """Drives of the node, shared by all replicas in it; blocks reach a device through the host."""

    kind: Literal["ssd"] = "ssd"
    gib: Annotated[NonNegativeFloat, Unit("GiB")] = Field(
        description="room of one replica for KV blocks; 0: no tier"
    )
    read_gb_per_s: PositiveFloat = Field(description="reading rate of the node's drives together")
    write_gb_per_s: PositiveFloat = Field(description="writing rate of the node's drives together")


KvTier = Annotated[HostTier | SsdTier, Field(discriminator="kind")]


class KvLoading(Model):
    """How blocks that a prompt finds below device memory come back."""

    overlap: bool = Field(
        True,
        description="layer by layer while the step computes, so that it lasts as long as the "
        "longer of both; off: the step begins when everything is there",
    )
    min_tokens: Tokens = Field(
        1, description="fewest tokens found below device memory for which they are loaded; "
        "fewer are computed anew",
    )  # fmt: skip


class RecomputePreemption(Model):
    """A preempted sequence loses its blocks and computes its tokens again."""

    kind: Literal["recompute"] = "recompute"


class SwapPreemption(Model):
    """A preempted sequence's blocks go to host memory and come back when there is room; where the
    host has none, it computes its tokens again."""

    kind: Literal["swap"] = "swap"
    host_gib: NonNegativeFloat = Field(description="host memory of one replica for it")


Preemption = Annotated[RecomputePreemption | SwapPreemption, Field(discriminator="kind")]


class PagedAllocation(Model):
    """Blocks anywhere, taken as tokens come (PagedAttention)."""

    kind: Literal["paged"] = "paged"


class ContiguousAllocation(Model):
    """One contiguous run for each sequence, taken with its admission where it first fits, for the
    length that the engine reserves."""

    kind: Literal["contiguous"] = "contiguous"
    reserve: Literal["max_model_len", "power_of_two", "exact"] = Field(
        "max_model_len",
        description="max_model_len: the longest sequence allowed; power_of_two: the prompt and the "
        "next power of two of the output; exact: what it will store, as if that were known",
    )


KvAllocation = Annotated[PagedAllocation | ContiguousAllocation, Field(discriminator="kind")]
