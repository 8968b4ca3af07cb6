"""Batching policies: how the steps of an engine are made up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Count, Model, NonNegativeFloat, PositiveFraction


class ContinuousPolicy(Model):
    """Continuous batching as vLLM v1 does it: running requests first, then waiting ones, under one
    token budget a step; a prompt that exceeds what is left of the budget is computed in chunks."""

    kind: Literal["continuous"] = "continuous"
    chunked_prefill: bool = Field(
        True, description="off: a prompt waits until the budget holds all of it"
    )


class PrefillFirstPolicy(Model):
    """Waiting prompts go first, in steps of their own; decoding pauses meanwhile."""

    kind: Literal["prefill_first"] = "prefill_first"


class StaticPolicy(Model):
    """Takes up to ``batch_size`` waiting requests when idle, pads prompts to the longest one, and
    keeps every slot until the last request of the batch has ended."""

    kind: Literal["static"] = "static"
    batch_size: Count = Field(description="most requests in a batch")


class DynamicPolicy(Model):
    """Static batches that start when ``batch_size`` requests wait or the oldest has waited
    ``window_ms``."""

    kind: Literal["dynamic"] = "dynamic"
    batch_size: Count = Field(description="most requests in a batch")
    window_ms: NonNegativeFloat = Field(
        description="longest time the oldest request waits for the batch to fill"
    )


class FullReservationPolicy(Model):
    """Continuous batching that reserves KV blocks for the prompt and the whole output on
    admission, so that nothing is ever preempted. Prompts may wait for more of them to come while
    others decode (TensorRT-LLM's batch_wait_timeout_iters and batch_wait_max_tokens_ratio)."""

    kind: Literal["full_reservation"] = "full_reservation"
    chunked_prefill: bool = Field(True, description="whether a prompt may be split over steps")
    wait_steps: Annotated[int, Field(ge=0, le=100_000, strict=True)] = Field(
        0, description="most steps that prompts wait, while others decode, for more to come"
    )
    wait_fill: PositiveFraction = Field(
        1.0, description="share of the token budget at which a step with them is full enough"
    )


Policy = Annotated[
    ContinuousPolicy | PrefillFirstPolicy | StaticPolicy | DynamicPolicy | FullReservationPolicy,
    Field(discriminator="kind"),
]
