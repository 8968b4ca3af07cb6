"""Traffic: when requests come and how long they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.answers import Answered, Sampled
from simulator.scenario.base import Count, Fraction, Model, NonNegativeFloat, PositiveFloat, Tokens
from simulator.scenario.lengths import Length, Lengths, LengthsOverTime, TraceFormat, Variation
from simulator.scenario.rates import RatesArrivals

# --- arrivals ------------------------------------------------------------------------------------


class PoissonArrivals(Model):
    """Independent arrivals at a constant mean rate."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: PositiveFloat = Field(description="mean arrival rate")


class GammaArrivals(Model):
    """Gamma-distributed gaps: bursty for ``cv`` above 1, regular below (1 is Poisson)."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: PositiveFloat = Field(description="mean arrival rate")
    cv: Variation = Field(description="coefficient of variation of the gaps")


class ConstantArrivals(Model):
    """Equal gaps; the first request comes at time zero."""

    kind: Literal["constant"] = "constant"
    rate_per_s: PositiveFloat = Field(description="mean arrival rate")


class RampArrivals(Model):
    """Poisson arrivals whose rate changes linearly from ``start_per_s`` to ``end_per_s`` within
    ``over_s`` and stays at ``end_per_s`` afterwards."""

    kind: Literal["ramp"] = "ramp"
    start_per_s: NonNegativeFloat = Field(description="rate at the start")
    end_per_s: PositiveFloat = Field(description="rate at the end of the ramp and after it")
    over_s: PositiveFloat = Field(description="how long the ramp takes")


class DiurnalArrivals(Model):
    """Poisson arrivals whose rate follows a sine: mean ``rate_per_s``, highest at ``peak_at_s``
    with ``peak_to_mean`` times the mean, lowest half a ``period_s`` later."""

    kind: Literal["diurnal"] = "diurnal"
    rate_per_s: PositiveFloat = Field(description="mean arrival rate")
    peak_to_mean: Annotated[float, Field(ge=1, le=2, strict=True)] = Field(
        1.5, description="highest rate / mean rate"
    )
    period_s: PositiveFloat = Field(86_400.0, description="length of a cycle")
    peak_at_s: NonNegativeFloat = Field(50_400.0, description="when the rate is highest")


class BurstArrivals(Model):
    """Everything at once at time zero (offline batch)."""

    kind: Literal["burst"] = "burst"


class ClosedLoopArrivals(Model):
    """``concurrency`` users who all send at time zero; each waits for the last token, thinks, and
    sends again."""

    kind: Literal["closed_loop"] = "closed_loop"
    concurrency: Count = Field(description="users")
    think_time_s: NonNegativeFloat = Field(0.0, description="mean pause between answer and request")
    think_distribution: Literal["fixed", "exponential"] = Field(
        "fixed", description="how pauses vary around their mean"
    )


Arrivals = Annotated[
    PoissonArrivals
    | GammaArrivals
    | ConstantArrivals
    | RampArrivals
    | DiurnalArrivals
    | RatesArrivals
    | BurstArrivals
    | ClosedLoopArrivals,
    Field(discriminator="kind"),
]

# --- kinds of traffic ----------------------------------------------------------------------------


class SharedPrefix(Model):
    """A text that many prompts begin with (system prompt, few-shot examples, a document)."""

    tokens: Tokens = Field(description="length of the text")
    groups: Count = Field(1, description="number of different such texts; each request draws one")


class _Sized(Model):
    requests: Count | None = Field(None, description="how many are sent in all")
    duration_s: PositiveFloat | None = Field(
        None, description="how long requests are sent, instead of how many"
    )

    @model_validator(mode="after")
    def _one_size(self) -> _Sized:
        arrivals = getattr(self, "arrivals", None)
        neither = self.requests is None and self.duration_s is None
        if neither and isinstance(arrivals, RatesArrivals):  # the table has an end of its own
            return self
        if (self.requests is None) == (self.duration_s is None):
            raise ValueError("give exactly one of requests and duration_s")
        return self


class SyntheticWorkload(_Sized, Sampled):
    """Arrivals and lengths drawn from distributions. ``shared_prefix.tokens`` of every prompt are
    the shared text; an input shorter than that is an error."""

    kind: Literal["synthetic"] = "synthetic"
    arrivals: Arrivals = Field(description="when requests are sent")
    lengths: Lengths = Field(description="how long prompts and outputs are")
    shared_prefix: SharedPrefix | None = Field(
        None, description="text that many prompts begin with"
    )

    @model_validator(mode="after")
    def _duration_needs_a_rate(self) -> SyntheticWorkload:
        if self.duration_s is not None and self.arrivals.kind in ("burst", "closed_loop"):
            raise ValueError(f"{self.arrivals.kind} arrivals need requests, not duration_s")
        if self.arrivals.kind == "closed_loop" and isinstance(self.lengths, LengthsOverTime):
            raise ValueError(
                "lengths over time need arrivals whose times are known, not closed_loop"
            )
        return self


class TraceSlice(Model):
    """A contiguous part of a trace: rows that arrive in [start_s, start_s + duration_s), at most
    ``requests`` of them. Times count from the first row of the file, before any rate scaling."""

    start_s: NonNegativeFloat = Field(0.0, description="where in the trace the part begins")
    duration_s: PositiveFloat | None = Field(
        None, description="how long it is; default: to the end"
    )
    requests: Count | None = Field(None, description="most requests to take; default: all")


class TraceWorkload(Sampled):
    """Requests as they were recorded: times, lengths and, where known, shared prefixes."""

    kind: Literal["trace"] = "trace"
    file: str = Field(
        description="a shipped trace's name or a path (relative to the scenario file)"
    )
    format: TraceFormat = Field(
        "auto", description="how the file is laid out; auto: by its columns"
    )
    slice: TraceSlice = Field(TraceSlice(), description="which part of the trace is replayed")
    rate_scale: PositiveFloat = Field(1.0, description="2 sends the same requests twice as fast")


class SessionsWorkload(_Sized, Answered):
    """Conversations: each turn's prompt is everything said before plus the new message.

    ``requests`` counts turns over all sessions; sessions start by ``arrivals``.
    """

    kind: Literal["sessions"] = "sessions"
    arrivals: Arrivals = Field(description="when sessions start")
    turns: Length = Field(description="user messages of a session (``tokens`` counts turns here)")
    user_tokens: Length = Field(description="new tokens that each turn adds")
    output_tokens: Length = Field(description="tokens to generate in each turn")
    system_prompt: SharedPrefix | None = Field(
        None, description="text that every session begins with"
    )
    think_time_s: NonNegativeFloat = Field(0.0, description="mean pause before the next turn")
    think_distribution: Literal["fixed", "exponential"] = Field(
        "exponential", description="how pauses vary around their mean"
    )

    @model_validator(mode="after")
    def _open_loop(self) -> SessionsWorkload:
        if self.arrivals.kind == "closed_loop":
            raise ValueError("sessions pace themselves: use think_time_s, not closed_loop arrivals")
        if self.duration_s is not None and self.arrivals.kind == "burst":
            raise ValueError("burst arrivals need requests, not duration_s")
        return self


class _Fed(Answered):
    """Requests that wait outside the server and are fed to it, a limited number at a time."""

    lengths: Lengths = Field(description="how long prompts and outputs are")
    shared_prefix: SharedPrefix | None = Field(
        None, description="text that many prompts begin with"
    )
    max_in_flight: Count = Field(
        description="requests of this class at the server at once; the others wait outside"
    )


class BatchWorkload(_Fed):
    """A job: so many requests, submitted together, and done when the last one has its answer. The
    time of a request runs from the job's submission."""

    kind: Literal["batch"] = "batch"
    requests: Count = Field(description="how many there are")
    submit_at_s: NonNegativeFloat = Field(0.0, description="when the job is submitted")
    deadline_s: PositiveFloat | None = Field(
        None, description="longest time from submission to the last answer"
    )

    @model_validator(mode="after")
    def _at_one_time(self) -> BatchWorkload:
        if isinstance(self.lengths, LengthsOverTime):
            raise ValueError("a batch job comes at one time, so its lengths cannot vary over time")
        return self


class QueueWorkload(_Sized, _Fed):
    """Asynchronous requests: they come at any time, wait in a queue outside the server, and workers
    take them in order. The time of a request runs from its arrival at the queue."""

    kind: Literal["queue"] = "queue"
    arrivals: Arrivals = Field(description="when requests come to the queue")
    deadline_s: PositiveFloat | None = Field(
        None, description="longest time from arrival to answer, of each request"
    )

    @model_validator(mode="after")
    def _open_loop(self) -> QueueWorkload:
        if self.arrivals.kind == "closed_loop":
            raise ValueError("nobody waits for asynchronous answers: use another kind of arrivals")
        if self.duration_s is not None and self.arrivals.kind == "burst":
            raise ValueError("burst arrivals need requests, not duration_s")
        return self


class Slo(Model):
    """What a request must reach to count towards goodput; each limit holds for the request itself.

    ``attainment`` is the share of requests that must hold all limits for the SLO to count as held.
    """

    ttft_ms: PositiveFloat | None = Field(None, description="longest time to the first token")
    tpot_ms: PositiveFloat | None = Field(
        None, description="longest time per output token after the first, a request's mean"
    )
    e2e_ms: PositiveFloat | None = Field(None, description="longest time to the last token")
    attainment: Fraction = Field(0.99, description="share of requests that must hold all limits")


class TrafficClass(Model):
    """One of several kinds of traffic that share the deployment, with its own SLO."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = Field(
        description="how reports call the class"
    )
    workload: Annotated[
        SyntheticWorkload | TraceWorkload | SessionsWorkload | BatchWorkload | QueueWorkload,
        Field(discriminator="kind"),
    ] = Field(description="the class's own traffic")
    slo: Slo | None = Field(None, description="overrides the scenario's SLO for this class")
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000, strict=True)] = Field(
        0, description="lower goes first, with engine.queue: priority"
    )
    weight: PositiveFloat = Field(
        1.0, description="share of the service, with engine.queue: fair, and of the fairness index"
    )


class MixWorkload(Model):
    """Several classes of traffic at once."""

    kind: Literal["mix"] = "mix"
    classes: Annotated[tuple[TrafficClass, ...], Field(min_length=1)] = Field(
        description="the kinds of traffic"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> MixWorkload:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError("two traffic classes have the same name")
        return self


Workload = Annotated[
    SyntheticWorkload
    | TraceWorkload
    | SessionsWorkload
    | BatchWorkload
    | QueueWorkload
    | MixWorkload,
    Field(discriminator="kind"),
]
