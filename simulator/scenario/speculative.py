"""Speculative decoding: who drafts tokens, how many, and how often they are accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import Count, Fraction, Model, NonNegativeFloat, Unit
from simulator.scenario.precision import Dtype, Precision


class _Drafts(Model):
    """What every kind says."""

    tokens: Annotated[int, Field(ge=1, le=64, strict=True), Unit("tokens")] = Field(
        description="drafted for every decoding sequence in a step"
    )
    acceptance: Fraction | Annotated[tuple[Fraction, ...], Field(min_length=1)] = Field(
        description="probability that a drafted token is accepted, given that all before it were: "
        "one for all positions, or a list of one for each"
    )
    max_batch: Count | None = Field(
        None,
        description="with more decoding sequences than this a step drafts nothing; default: it "
        "always does",
    )

    @model_validator(mode="after")
    def _one_probability_a_position(self) -> _Drafts:
        given = self.acceptance
        if isinstance(given, tuple) and len(given) != self.tokens:
            raise ValueError(
                f"acceptance lists {len(given)} probabilities for {self.tokens} drafted tokens; "
                "give one for each, or a single number"
            )
        return self

    @property
    def by_position(self) -> tuple[float, ...]:
        """Probability of each position."""
        given = self.acceptance
        return given if isinstance(given, tuple) else (given,) * self.tokens


class DraftModelSpeculative(_Drafts):
    """A small model of the same vocabulary drafts, token by token (arXiv:2211.17192,
    arXiv:2302.01318)."""

    kind: Literal["draft_model"] = "draft_model"
    model: str = Field(
        min_length=1, description="the draft: a preset, or the path of a config.json or its folder"
    )
    precision: Precision = Field(
        Precision(), description="number formats of the draft; default: those of the target"
    )
    draft_tp: Literal[1] | None = Field(
        None, description="1: one device runs the draft; default: as many as share the target"
    )


class EagleSpeculative(_Drafts):
    """One decoder layer of the target's shape drafts from the target's hidden states (EAGLE,
    arXiv:2401.15077 and 2503.01840)."""

    kind: Literal["eagle"] = "eagle"
    vocab: Annotated[int, Field(ge=2, le=10_000_000, strict=True)] | None = Field(
        None,
        description="size of a reduced vocabulary with an LM head of its own; default: the "
        "target's head",
    )
    weights: Dtype = Field("bf16", description="number format of the layer's weights")


class MtpSpeculative(_Drafts):
    """The model's own modules for further tokens draft (DeepSeek-V3, arXiv:2412.19437, section
    2.2); a module drafts several tokens one after another."""

    kind: Literal["mtp"] = "mtp"


class NgramSpeculative(_Drafts):
    """Drafts are looked up in what the sequence has said so far (prompt lookup); the processor does
    that while the devices wait."""

    kind: Literal["ngram"] = "ngram"
    lookup_us: NonNegativeFloat = Field(
        20.0, description="time on the host to look up the drafts of one sequence; assumed"
    )


Speculative = Annotated[
    DraftModelSpeculative | EagleSpeculative | MtpSpeculative | NgramSpeculative,
    Field(discriminator="kind"),
]
