"""How long prompts and answers are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat, Tokens, Unit

TraceFormat = Literal["auto", "azure", "burstgpt", "mooncake", "sharegpt", "csv", "jsonl"]

Variation = Annotated[float, Field(ge=0.001, le=100, allow_inf_nan=False)]
"""A coefficient of variation; beyond these limits distributions are little but round-off."""


class FixedLength(Model):
    """Always the same number."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens = Field(description="the length")


class UniformLength(Model):
    """Every whole number from ``low`` to ``high``, both included, equally often."""

    kind: Literal["uniform"] = "uniform"
    low: Tokens = Field(description="shortest length")
    high: Tokens = Field(description="longest length")

    @model_validator(mode="after")
    def _ordered(self) -> UniformLength:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class NormalLength(Model):
    """Normal distribution, rounded; draws outside ``low`` .. ``high`` are drawn again."""

    kind: Literal["normal"] = "normal"
    mean: Annotated[PositiveFloat, Unit("tokens")] = Field(
        description="mean before the cut to low .. high"
    )
    std: Annotated[NonNegativeFloat, Unit("tokens")] = Field(description="standard deviation")
    low: Tokens = Field(1, description="shortest length")
    high: Tokens = Field(1_000_000, description="longest length")

    @model_validator(mode="after")
    def _mean_inside(self) -> NormalLength:
        if not self.low <= self.mean <= self.high:
            raise ValueError(
                f"mean ({self.mean:g}) lies outside low..high ({self.low}..{self.high})"
            )
        return self


class LogNormalLength(Model):
    """Log-normal distribution given by its own mean and coefficient of variation (std / mean),
    rounded; draws outside ``low`` .. ``high`` are drawn again."""

    kind: Literal["lognormal"] = "lognormal"
    mean: Annotated[PositiveFloat, Unit("tokens")] = Field(
        description="mean before the cut to low .. high"
    )
    cv: Variation = Field(description="standard deviation / mean")
    low: Tokens = Field(1, description="shortest length")
    high: Tokens = Field(1_000_000, description="longest length")

    @model_validator(mode="after")
    def _mean_inside(self) -> LogNormalLength:
        if not self.low <= self.mean <= self.high:
            raise ValueError(
                f"mean ({self.mean:g}) lies outside low..high ({self.low}..{self.high})"
            )
        return self


class EmpiricalLength(Model):
    """One of the given numbers, drawn with the given weights (equal ones by default)."""

    kind: Literal["empirical"] = "empirical"
    tokens: Annotated[tuple[Tokens, ...], Field(min_length=1)] = Field(
        description="the lengths that occur"
    )
    weights: tuple[NonNegativeFloat, ...] | None = Field(
        None, description="how often each occurs, in any unit; default: equally often"
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> EmpiricalLength:
        if self.weights is not None:
            if len(self.weights) != len(self.tokens):
                raise ValueError(f"{len(self.weights)} weights for {len(self.tokens)} lengths")
            if sum(self.weights) <= 0:
                raise ValueError("all weights are zero")
        return self


Length = Annotated[
    FixedLength | UniformLength | NormalLength | LogNormalLength | EmpiricalLength,
    Field(discriminator="kind"),
]


class IndependentLengths(Model):
    """Input and output lengths drawn independently of each other."""

    kind: Literal["independent"] = "independent"
    input: Length = Field(description="prompt tokens")
    output: Length = Field(description="tokens to generate")


class TraceLengths(Model):
    """Pairs of input and output length drawn, with replacement, from the rows of a trace file."""

    kind: Literal["from_trace"] = "from_trace"
    file: str = Field(
        description="a shipped trace's name or a path (relative to the scenario file)"
    )
    format: TraceFormat = Field(
        "auto", description="how the file is laid out; auto: by its columns"
    )


class LengthsOverTime(Model):
    """Input and output lengths whose distributions change over time, drawn independently of each
    other. Times are those of the table that ``arrivals`` of the kind ``rates`` follow."""

    kind: Literal["over_time"] = "over_time"
    file: str = Field(
        description="CSV with ``start_s`` and, for ``input`` and ``output``, quantiles "
        "(``input_p50``) or means (``input_mean``): a shipped table's name or a path (relative to "
        "the scenario file)"
    )
    end_s: PositiveFloat | None = Field(
        None,
        description="when the table begins anew, since its first row; default: its last row "
        "holds on",
    )
    cv: Variation | None = Field(
        None, description="standard deviation / mean, where the table has means alone (log-normal)"
    )


Lengths = Annotated[
    IndependentLengths | TraceLengths | LengthsOverTime, Field(discriminator="kind")
]
