"""Number formats of weights, activations and the KV cache."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.scenario.base import Model

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]
KvDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]


StateDtype = Literal["fp32", "bf16", "fp16"]


class Precision(Model):
    """Number formats. ``activations`` below 16 bits means that matrix products run in that type;
    weights narrower than the activations are widened on the fly (weight-only quantization)."""

    weights: Dtype | None = Field(None, description="default: the model's native type")
    activations: Dtype | None = Field(None, description="default: bf16, or fp8 with fp8 weights")
    kv_cache: KvDtype | None = Field(None, description="default: bf16")
    recurrent_state: StateDtype | None = Field(
        None,
        description="states of linear-attention and state-space layers; default: what the model's "
        "configuration says, else bf16",
    )
