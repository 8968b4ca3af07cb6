"""What a deployment must hold: a limit on any figure of a run's summary."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from simulator.planner.report.words import bound, title, unit
from simulator.results.definitions import DEFINITIONS, value_at
from simulator.scenario.base import Model
from simulator.sentences import closest

_OF_REQUESTS = "latency."
"""Figures of requests; their metrics may be named without it."""

_OF_CLASSES = (
    "queueing_ms", "ttft_ms", "ttfat_ms", "tpot_ms", "e2e_ms", "requests_per_s",
    "total_tokens_per_s", "goodput_requests_per_s", "goodput_share", "prefix_hit_rate",
)  # fmt: skip
"""What a summary says of each traffic class."""


LEAST_SHARE = 0.001
"""Smallest share of misses that others are compared with."""

_NO_NUMBERS = (
    "slo.held", "slo.classes", "fleet.pools", "kv_cache.prefix_hit_rate_by_tier", "kv_cache.moved",
    "kv_cache.link_busy_share", "utilization.steps_with_prompts", "utilization.decode_only_steps",
)  # fmt: skip


def metric_paths() -> list[str]:
    """Every figure of a summary that has a definition and is a number, by its path."""
    return [
        f"{definition.key}.{statistic}" if statistic else definition.key
        for definition in DEFINITIONS
        if definition.key not in _NO_NUMBERS
        for statistic in definition.statistics or ("",)
    ]


Limit = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Constraint(Model):
    """A limit on one figure, of all traffic or of one class of it."""

    metric: str = Field(
        description="path of a figure in the summary, such as ttft_ms.p99 or energy.power_w_mean"
    )
    max: Limit | None = Field(None, description="highest value that is good enough")
    min: Limit | None = Field(None, description="lowest value that is good enough")
    traffic_class: str | None = Field(
        None, description="name of a traffic class; default: all traffic"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Constraint:
        if (self.max is None) == (self.min is None):
            raise ValueError("give exactly one of max and min")
        return self

    @model_validator(mode="after")
    def _known(self) -> Constraint:
        if self.traffic_class is not None:
            name = self.metric.removeprefix(_OF_REQUESTS).partition(".")[0]
            if name not in _OF_CLASSES:
                raise ValueError(
                    f"metric {self.metric!r} is not kept for each class; "
                    f"these are: {', '.join(_OF_CLASSES)}"
                )
            return self._share()
        known = metric_paths()
        if self._full() not in known:
            near = closest(self.metric, [path.removeprefix(_OF_REQUESTS) for path in known])
            hint = f"did you mean '{near}'?" if near else "`simulate plan --metrics` lists them"
            raise ValueError(f"there is no metric {self.metric!r}; {hint}")
        return self._share()

    def _share(self) -> Constraint:
        if unit(self.path) == "%" and not 0.0 <= self.limit <= 1.0:
            raise ValueError(
                f"{self.metric} is a share from 0 to 1, and its limit is {self.limit:g}; "
                f"for {self.limit:g}% write {self.limit / 100:g}"
                if 1.0 < self.limit <= 100.0
                else f"{self.metric} is a share from 0 to 1, and its limit is {self.limit:g}"
            )
        return self

    def _full(self) -> str:
        known = metric_paths()
        return self.metric if self.metric in known else f"{_OF_REQUESTS}{self.metric}"

    @property
    def path(self) -> str:
        """Where the figure stands in a summary."""
        if self.traffic_class is None:
            return self._full()
        return f"classes.{self.traffic_class}.{self.metric.removeprefix(_OF_REQUESTS)}"

    @property
    def limit(self) -> float:
        """The highest or lowest value."""
        limit = self.max if self.max is not None else self.min
        assert limit is not None
        return limit

    def value(self, summary: dict[str, Any]) -> float | None:
        """The figure; None where it is undefined, and then the constraint does not hold."""
        if self.traffic_class is None:
            value = value_at(summary, self._full())
        else:
            of_class = summary.get("classes", {}).get(self.traffic_class, {})
            value = value_at(of_class, self.metric.removeprefix(_OF_REQUESTS))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number else None

    def excess(self, value: float | None) -> float:
        """By what share of the limit the value misses it; 0 or below: it holds.

        Shares that must be reached are compared by what is missing to all: 98.5% where 99% are
        wanted miss by half of the 1% that may fail.
        """
        if value is None:
            return float("inf")
        if self.max is not None:
            return (value - self.max) / abs(self.max) if self.max else value
        assert self.min is not None
        if self.of_share:
            may_fail = max(1.0 - self.min, LEAST_SHARE)
            return ((1.0 - value) - (1.0 - self.min)) / may_fail
        return (self.min - value) / abs(self.min) if self.min else -value

    def loosened(self, share: float) -> Constraint:
        """The limit moved so that whatever misses it, misses this one by more than ``share``."""
        if self.max is not None:
            return self.model_copy(update={"max": self.max + share * abs(self.max)})
        assert self.min is not None
        step = max(1.0 - self.min, LEAST_SHARE) if self.of_share else abs(self.min)
        return self.model_copy(update={"min": self.min - share * step})

    @property
    def of_share(self) -> bool:
        """Whether it is a share that must be reached."""
        return self.metric.endswith("_share") and self.min is not None and self.min <= 1.0

    def holds(self, value: float | None) -> bool:
        """Whether the value is good enough."""
        return self.excess(value) <= 0.0

    def __str__(self) -> str:
        """As reports say it: ``TTFT p99 ≤ 1,000 ms (chat)``."""
        sign = "≤" if self.max is not None else "≥"
        of = f" ({self.traffic_class})" if self.traffic_class else ""
        return f"{title(self.path)} {sign} {bound(self.limit, self.path)}{of}"
