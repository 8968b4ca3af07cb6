"""What is asked of the answers: several to a prompt, thinking before them, and where they end."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from simulator.scenario.base import Model, Tokens
from simulator.scenario.lengths import Length
from simulator.scenario.lora import Adapters

_Several = Annotated[int, Field(ge=1, le=256, strict=True)]
_Chance = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, strict=True)]


class Samples(Model):
    """Several answers to each prompt, which they share: ``n`` are delivered, of ``best_of``."""

    n: _Several = Field(1, description="answers to each prompt that the client gets")
    best_of: _Several | None = Field(
        None,
        description="answers computed, of which the n best are delivered when the last one has "
        "ended; default: n, each delivered as it comes",
    )

    @model_validator(mode="after")
    def _best_of_enough(self) -> Samples:
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) is below n ({self.n})")
        return self

    @property
    def computed(self) -> int:
        """Answers that the engine computes for a prompt."""
        return self.n if self.best_of is None else self.best_of


class Reasoning(Model):
    """Tokens of thinking that come before each answer, on top of the answer's own length."""

    tokens: Length = Field(description="tokens of thinking")
    max_tokens: Tokens | None = Field(
        None, description="budget of thinking: where it is used up, the answer begins"
    )
    hidden: bool = Field(
        False, description="whether the client gets the answer alone, and no token before it"
    )


class Answered(Model):
    """How answers come about and where they end."""

    reasoning: Reasoning | None = Field(None, description="thinking before each answer")
    max_tokens: Tokens | None = Field(
        None, description="most tokens of an answer, its thinking included; what is left is cut"
    )
    stop_per_token: _Chance | None = Field(
        None,
        description="probability that a token of the answer completes a stop sequence, which ends "
        "it there",
    )
    ignore_eos: bool = Field(
        False,
        description="whether answers go on to max_tokens whatever their length, as load generators "
        "make them (stop_per_token still ends them)",
    )

    adapters: Adapters | None = Field(
        None, description="LoRA adapters that requests ask for; the engine needs lora"
    )

    @model_validator(mode="after")
    def _ends_somewhere(self) -> Answered:
        if self.ignore_eos and self.max_tokens is None:
            raise ValueError("ignore_eos needs max_tokens, or answers would never end")
        return self


class Sampled(Answered):
    """The same where a prompt may have several answers."""

    samples: Samples | None = Field(None, description="several answers to each prompt")
