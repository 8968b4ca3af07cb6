"""Replicas that come and go: how they start, how many there are, and what ends them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import (
    Model,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    Unit,
)

Replicas = Annotated[int, Field(ge=1, le=4096, strict=True)]
MaybeNone = Annotated[int, Field(ge=0, le=4096, strict=True)]

# --- starting ------------------------------------------------------------------------------------


class WeightsFromDisk(Model):
    """A drive in every node; replicas that start on the same node read one after the other."""

    kind: Literal["disk"] = "disk"
    gb_per_s: PositiveFloat = Field(description="what the drive of one node reads")


class WeightsFromNetwork(Model):
    """A store in the network; replicas of a node share its port, all nodes share the store."""

    kind: Literal["network"] = "network"
    gb_per_s: PositiveFloat = Field(description="what the port of one node receives")
    store_gb_per_s: PositiveFloat | None = Field(
        None, description="what the store sends to all nodes together; default: no limit"
    )


class WeightsFromHostMemory(Model):
    """Memory of the node, where the weights already lie; every device has a link of its own."""

    kind: Literal["host_memory"] = "host_memory"
    gb_per_s: PositiveFloat | None = Field(
        None, description="what the link of one device carries; default: the hardware profile's"
    )


WeightsFrom = Annotated[
    WeightsFromDisk | WeightsFromNetwork | WeightsFromHostMemory, Field(discriminator="kind")
]


class ColdStart(Model):
    """What lies between the decision to start a replica and its first request, one part after the
    other. Devices are held, and paid, from the beginning of ``provisioning_s``."""

    provisioning_s: NonNegativeFloat = Field(
        0.0, description="until the devices are there and their machine runs"
    )
    boot_s: NonNegativeFloat = Field(
        0.0, description="until the image is pulled and the engine's process runs"
    )
    weights_from: WeightsFrom | None = Field(
        None,
        description="where the weights come from: their bytes over its rate is the time to load "
        "them; default: loading takes no time of its own",
    )
    warmup_s: NonNegativeFloat = Field(
        0.0, description="compiling, profiling and capturing CUDA graphs"
    )


# --- how many there are --------------------------------------------------------------------------


class _Scaling(Model):
    min: MaybeNone = Field(
        1, description="fewest replicas; with 0 requests wait until one has started"
    )
    max: Replicas = Field(description="most replicas, not counting those that drain")
    initial: MaybeNone | None = Field(
        None, description="replicas that are up at the start; default: min"
    )
    interval_s: Annotated[float, Field(ge=0.01, allow_inf_nan=False, strict=True)] = Field(
        15.0, description="time between decisions; metrics are averaged over it"
    )
    tolerance: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.1, description="nothing changes while metric / target is that close to 1"
    )
    up_window_s: NonNegativeFloat = Field(
        0.0, description="more replicas only if all decisions of this time wanted more"
    )
    down_window_s: NonNegativeFloat = Field(
        300.0, description="fewer replicas only if all decisions of this time wanted fewer"
    )
    cooldown_s: NonNegativeFloat = Field(
        0.0, description="no change within this time after the last one"
    )
    idle_s: NonNegativeFloat = Field(
        300.0, description="with min: 0, the last replica goes after this time without a request"
    )

    @model_validator(mode="after")
    def _ordered(self) -> _Scaling:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        if self.initial is not None and not self.min <= self.initial <= self.max:
            raise ValueError(
                f"initial ({self.initial}) lies outside min..max ({self.min}..{self.max})"
            )
        return self

    @property
    def at_start(self) -> int:
        """Replicas that are up at the start."""
        return self.min if self.initial is None else self.initial

    @property
    def fewest(self) -> int:
        """Fewest replicas wanted at once."""
        return self.min

    @property
    def most(self) -> int:
        """Most replicas wanted at once."""
        return self.max


class ConcurrencyScaling(_Scaling):
    """So many that each has ``target`` requests, queued or running, on average."""

    kind: Literal["concurrency"] = "concurrency"
    target: Annotated[PositiveFloat, Unit("requests")] = Field(
        description="requests queued or running for each replica"
    )


class QueueScaling(_Scaling):
    """So many that ``target`` requests wait for each, at the time of the decision."""

    kind: Literal["queue"] = "queue"
    target: Annotated[PositiveFloat, Unit("requests")] = Field(
        description="requests that no step has worked on yet, for each replica"
    )


class UtilizationScaling(_Scaling):
    """So many that each has something to do for the share ``target`` of the time. An engine that
    works on one request counts as busy as one that works on a hundred."""

    kind: Literal["utilization"] = "utilization"
    target: PositiveFraction = Field(description="share of the time in which a replica has work")


class HoltForecast(Model):
    """Level and trend of the arrival rate, smoothed exponentially (Holt)."""

    kind: Literal["holt"] = "holt"
    level: PositiveFraction = Field(0.5, description="weight of the last interval's rate")
    trend: PositiveFraction = Field(0.3, description="weight of the last change of the level")


class SeasonalForecast(Model):
    """What came one period earlier; until a period is over, the last interval's rate."""

    kind: Literal["seasonal"] = "seasonal"
    period_s: PositiveFloat = Field(86_400.0, description="length of a period")


class PerfectForecast(Model):
    """What will come: a bound of what any forecast can do. Only for requests that wait for no
    other one."""

    kind: Literal["perfect"] = "perfect"


Forecast = Annotated[HoltForecast | SeasonalForecast | PerfectForecast, Field(discriminator="kind")]


class PredictiveScaling(_Scaling):
    """So many that each gets ``requests_per_s`` of the highest rate expected within ``lead_s``."""

    kind: Literal["predictive"] = "predictive"
    requests_per_s: PositiveFloat = Field(description="what one replica is meant to serve")
    forecast: Forecast = Field(HoltForecast(), description="how the rate is foreseen")
    lead_s: PositiveFloat | None = Field(
        None, description="how far it looks ahead; default: a cold start and one interval"
    )


class ScheduledCount(Model):
    """So many replicas from a time on."""

    at_s: NonNegativeFloat = Field(description="since the beginning of the period")
    replicas: MaybeNone = Field(description="how many from then on")


class ScheduleScaling(Model):
    """So many as a timetable says; it repeats every ``period_s``."""

    kind: Literal["schedule"] = "schedule"
    steps: Annotated[tuple[ScheduledCount, ...], Field(min_length=1, max_length=1000)] = Field(
        description="the timetable; before its first time the last count holds"
    )
    period_s: PositiveFloat = Field(86_400.0, description="length of a period")

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleScaling:
        times = [step.at_s for step in self.steps]
        if times != sorted(set(times)) or times[-1] >= self.period_s:
            raise ValueError("at_s must ascend and stay below period_s")
        if not self.most:
            raise ValueError("the timetable has no replica at any time")
        return self

    @property
    def at_start(self) -> int:
        """Replicas that are up at the start."""
        return self.steps[0].replicas if self.steps[0].at_s == 0 else self.steps[-1].replicas

    @property
    def fewest(self) -> int:
        """Fewest replicas wanted at once."""
        return min(step.replicas for step in self.steps)

    @property
    def most(self) -> int:
        """Most replicas wanted at once."""
        return max(step.replicas for step in self.steps)


Autoscaling = Annotated[
    ConcurrencyScaling | QueueScaling | UtilizationScaling | PredictiveScaling | ScheduleScaling,
    Field(discriminator="kind"),
]

# --- what ends them ------------------------------------------------------------------------------


class Outage(Model):
    """One replica is away for a while."""

    replica: MaybeNone = Field(description="its number within the pool, from 0")
    at_s: NonNegativeFloat = Field(description="when it crashes; nothing if it is not up then")
    for_s: PositiveFloat = Field(description="when it is up again, after the crash")


SLOWEST = 1000
"""Times as long as it would that a step takes at most."""


class Slowdown(Model):
    """One replica is slow for a while, as a device that is too hot, or capped in power."""

    replica: MaybeNone = Field(description="its number within the pool, from 0")
    at_s: NonNegativeFloat = Field(description="since when; nothing if it is not up then")
    for_s: PositiveFloat = Field(
        description="steps that begin within this time are slow, unless the replica goes before"
    )
    factor: Annotated[float, Field(gt=1, le=SLOWEST, allow_inf_nan=False, strict=True)] = Field(
        description="so many times as long as they would, steps take; of several at the same time, "
        "the product"
    )


class Failures(Model):
    """Crashes of replicas that are up, at random, by a script, or both; and slow replicas."""

    mtbf_h: PositiveFloat | None = Field(
        None, description="mean time of a replica between start and crash, exponential"
    )
    repair_s: NonNegativeFloat = Field(
        0.0,
        description="until a crashed replica's devices work again; then its cold start follows, "
        "without provisioning",
    )
    outages: Annotated[tuple[Outage, ...], Field(max_length=10_000)] = Field(
        (), description="crashes at given times"
    )
    slowdowns: Annotated[tuple[Slowdown, ...], Field(max_length=10_000)] = Field(
        (), description="replicas that are slow at given times"
    )
    detection_s: NonNegativeFloat = Field(
        0.0,
        description="until a crash is noticed; requests still go there, and none is retried before",
    )

    @model_validator(mode="after")
    def _some(self) -> Failures:
        if not (self.crash or self.slowdowns):
            raise ValueError("give mtbf_h, outages or slowdowns, or several of them")
        if self.mtbf_h is None and self.repair_s:
            raise ValueError("repair_s belongs to mtbf_h; an outage has its own for_s")
        if self.detection_s and not self.crash:
            raise ValueError("detection_s belongs to crashes, by mtbf_h or outages")
        return self

    @property
    def crash(self) -> bool:
        """Whether replicas ever crash."""
        return self.mtbf_h is not None or bool(self.outages)


class Spot(Model):
    """Devices that their owner may take back; ``cost.plan`` is then spot unless it is given."""

    interruptions_per_hour: PositiveFloat = Field(
        description="mean number for each hour in which a replica is up, exponential"
    )
    notice_s: NonNegativeFloat = Field(
        0.0, description="warning: no new requests from then on; the rest is lost at its end"
    )
    replacement_s: NonNegativeFloat = Field(
        0.0, description="from the warning until other devices are found; then a cold start"
    )


# --- requests that were there --------------------------------------------------------------------


class Retry(Model):
    """What becomes of requests whose replica crashed; without it they fail."""

    limit: Annotated[int, Field(ge=1, le=1000, strict=True)] = Field(
        3, description="how often one request is sent elsewhere; then it fails"
    )
    mode: Literal["restart", "resume"] = Field(
        "restart",
        description="restart: the answer begins anew, what was generated is thrown away; resume: "
        "prompt and answer so far are computed again, and the answer goes on",
    )


class Gateway(Model):
    """Where requests wait when no replica takes them."""

    max_queue: Annotated[int, Field(ge=0, strict=True)] | None = Field(
        None, description="most requests that wait; more are rejected; default: no limit"
    )
    max_concurrency: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None,
        description="most requests that a replica is given at a time, queued or running; "
        "default: no limit",
    )
