"""Compression that takes parts of a model away: pruning."""

from __future__ import annotations

from pydantic import Field, model_validator

from simulator.scenario.base import Model


class Pruned(Model):
    """What structured pruning leaves of the model, in the words of its configuration; what is not
    given stays."""

    layers: int | None = Field(None, ge=1, description="decoder layers")
    hidden: int | None = Field(None, ge=1, description="width of the residual stream")
    intermediate: int | None = Field(
        None, ge=1, description="width of feed-forward blocks, or of each routed expert"
    )
    kv_heads: int | None = Field(
        None, ge=1, description="KV heads a layer, each with the query heads that share it"
    )
    experts: int | None = Field(None, ge=1, description="routed experts a layer")

    @model_validator(mode="after")
    def _something_is_pruned(self) -> Pruned:
        if not self.model_fields_set:
            raise ValueError("give what is left, such as layers: 16")
        return self
