"""How keys and values get from the replica that computed a prompt to the one that goes on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat


class KvTransfer(Model):
    """The way of the KV cache from prefill to decode replicas. Every replica has a path of its own,
    out or in, that carries one transfer after the other; a transfer takes both ends at once."""

    mode: Literal["by_layer", "whole"] = Field(
        "by_layer",
        description="by_layer: each layer's part is sent when it is computed, while the next ones "
        "are; whole: everything is sent when the prompt is done",
    )
    over: Literal["network", "link"] = Field(
        "network",
        description="network: between nodes; link: between the devices of one node",
    )
    gb_per_s: PositiveFloat | None = Field(
        None,
        description="rate of a replica's path, one direction; default: its devices' together, from "
        "the hardware profile",
    )
    shared_gb_per_s: PositiveFloat | None = Field(
        None, description="rate of a path that all transfers share; default: it limits nothing"
    )
    latency_ms: NonNegativeFloat = Field(
        0.5, description="time that a transfer takes besides its bytes: handshake, last signal"
    )
