"""Seed, and which part of a run counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.base import Model


class Measurement(Model):
    """Which part of the run counts. Requests sent before ``warmup_fraction`` of all requests were
    sent are cut; so is, for rates and utilization, all that happens after the last one was sent
    (the drain), unless ``include_drain``."""

    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = Field(
        0, description="of everything that is drawn; the same seed gives the same result"
    )
    warmup_fraction: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.05, description="share of the requests, the first ones sent, that do not count"
    )
    include_drain: bool = Field(
        False, description="whether the time after the last request was sent counts"
    )
