"""Which requests a deployment takes in, and what clients do whose request it refuses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Count, Fraction, Model, PositiveFloat, PositiveFraction


class QueueLengthRule(Model):
    """Refuses a request if ``max_waiting`` others wait on the replica that it was routed to (those
    included that the next step will take)."""

    kind: Literal["queue_length"] = "queue_length"
    max_waiting: Count = Field(description="most requests that wait on a replica")


class KvUseRule(Model):
    """Refuses a request if more than ``max_use`` of the KV blocks of its replica are in use."""

    kind: Literal["kv_use"] = "kv_use"
    max_use: PositiveFraction = Field(description="share of the KV blocks")


class PredictedTtftRule(Model):
    """Refuses a request whose predicted TTFT exceeds the TTFT limit of its class times ``factor``.
    The wait is predicted as the requests ahead times the mean gap between the last starts of
    requests that had to wait; classes without a limit are let in."""

    kind: Literal["predicted_ttft"] = "predicted_ttft"
    factor: PositiveFloat = Field(1.0, description="predicted TTFT allowed / TTFT limit")


class RateLimitRule(Model):
    """Lets requests of a class in at ``requests_per_s``, and up to ``burst`` at once after a pause
    (token bucket); each class has a bucket of its own."""

    kind: Literal["rate_limit"] = "rate_limit"
    requests_per_s: PositiveFloat = Field(description="rate at which a class's bucket fills")
    burst: Count = Field(1, description="requests that a full bucket lets in at once")
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="names of the classes that are limited; default: all"
    )


Rule = Annotated[
    QueueLengthRule | KvUseRule | PredictedTtftRule | RateLimitRule, Field(discriminator="kind")
]


class Admission(Model):
    """A request is taken in if no rule refuses it. Its client hears of the refusal after the
    network's delay; then it gives up, or sends again after ``backoff_s``, twice that the next time,
    and so on."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = Field(description="who is refused")
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = Field(
        0, description="how often a client sends a refused request again"
    )
    backoff_s: PositiveFloat = Field(1.0, description="mean pause before the first retry")
    jitter: Fraction = Field(
        0.5, description="pauses are drawn evenly from 1 - jitter to 1 + jitter times their mean"
    )
