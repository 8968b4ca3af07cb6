"""The order in which waiting requests are admitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import Model, NonNegativeFloat, Unit

RelativeError = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)]


class FcfsQueue(Model):
    """First come, first served."""

    kind: Literal["fcfs"] = "fcfs"


class PriorityQueue(Model):
    """The lowest ``priority`` of a traffic class first, and within one first come, first served.
    When KV blocks run out, the running request with the highest number loses its own (of several
    the one that came last), instead of the one that was admitted last."""

    kind: Literal["priority"] = "priority"


class ShortestFirstQueue(Model):
    """The least work first: ``input_weight`` times the prompt plus ``output_weight`` times the
    predicted output. Aging takes ``aging_tokens_per_s`` off the work for every second since the
    request was sent, so that long ones do not starve."""

    kind: Literal["shortest_first"] = "shortest_first"
    input_weight: NonNegativeFloat = Field(1.0, description="what a prompt token counts")
    output_weight: NonNegativeFloat = Field(1.0, description="what a predicted token counts")
    prediction_error: RelativeError = Field(
        0.0,
        description="standard deviation of predicted / true output, which is log-normal with "
        "mean 1; 0: outputs are known",
    )
    aging_tokens_per_s: Annotated[NonNegativeFloat, Unit("tokens/s")] = Field(
        0.0, description="work that a second of waiting makes up for"
    )

    @model_validator(mode="after")
    def _some_work(self) -> ShortestFirstQueue:
        if self.input_weight == 0 and self.output_weight == 0:
            raise ValueError("input_weight and output_weight are both 0: no request is shorter")
        if self.prediction_error > 0 and self.output_weight == 0:
            raise ValueError("prediction_error without output_weight: no output is predicted")
        return self


class DeadlineQueue(Model):
    """Earliest deadline first: the time of sending plus a limit of the SLO of the request's class.
    Classes without that limit have no deadline and go last."""

    kind: Literal["deadline"] = "deadline"
    limit: Literal["ttft", "e2e"] = Field(
        "ttft", description="the limit that makes the deadline: of the first or of the last token"
    )
    defer_hopeless: bool = Field(
        False,
        description="whether requests that cannot make it any more, even alone on the replica, go "
        "behind those that can",
    )


class FairQueue(Model):
    """Fair between traffic classes: the class that has been served least, in weighted tokens over
    its ``weight``, goes first (virtual token counter); within a class first come, first served."""

    kind: Literal["fair"] = "fair"
    input_weight: NonNegativeFloat = Field(1.0, description="what a prompt token counts")
    output_weight: NonNegativeFloat = Field(2.0, description="what an output token counts")

    @model_validator(mode="after")
    def _some_service(self) -> FairQueue:
        if self.input_weight == 0 and self.output_weight == 0:
            raise ValueError("input_weight and output_weight are both 0: nothing is service")
        return self


Queue = Annotated[
    FcfsQueue | PriorityQueue | ShortestFirstQueue | DeadlineQueue | FairQueue,
    Field(discriminator="kind"),
]

FCFS = FcfsQueue()
"""The order of every engine, unless another one is asked for."""
