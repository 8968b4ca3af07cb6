"""Traffic whose rate was recorded over time, instead of its requests."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat
from simulator.scenario.lengths import Variation


class RateInterval(Model):
    """From ``start_s`` until the next interval starts."""

    start_s: NonNegativeFloat = Field(description="when it starts")
    rate_per_s: NonNegativeFloat = Field(description="mean arrival rate in it")
    cv: Variation | None = Field(
        None, description="coefficient of variation of the gaps that begin in it"
    )


class RatesArrivals(Model):
    """Arrivals whose mean rate is a table over time, constant within an interval: what a monitoring
    system records. Without ``requests`` and ``duration_s`` the whole table is sent."""

    kind: Literal["rates"] = "rates"
    file: str | None = Field(
        None,
        description="CSV with ``start_s`` (or ``timestamp``), ``rate_per_s`` (or ``requests``) and "
        "perhaps ``cv``: a shipped table's name or a path (relative to the scenario file)",
    )
    intervals: Annotated[tuple[RateInterval, ...], Field(max_length=10_000)] = Field(
        (), description="the table itself, instead of a file"
    )
    end_s: PositiveFloat | None = Field(
        None,
        description="when the last interval ends, since the first; default: it is as long as the "
        "one before it",
    )
    repeat: bool = Field(False, description="the table begins anew where it ends")
    start_s: NonNegativeFloat = Field(
        0.0, description="where in the table the run begins, since its first interval"
    )
    scale: PositiveFloat = Field(1.0, description="2 sends twice as many requests in each interval")
    cv: Variation | None = Field(
        None, description="of intervals that give none; default: 1, which is Poisson"
    )

    @model_validator(mode="after")
    def _one_table(self) -> RatesArrivals:
        if (self.file is None) != bool(self.intervals):
            raise ValueError("give exactly one of file and intervals")
        starts = [interval.start_s for interval in self.intervals]
        if any(next_ <= this for this, next_ in pairwise(starts)):
            raise ValueError("start_s of the intervals must ascend")
        if len(starts) == 1 and self.end_s is None:
            raise ValueError("a single interval needs end_s: nothing else says how long it lasts")
        return self
