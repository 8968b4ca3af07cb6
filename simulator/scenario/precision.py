"""Number formats of weights, activations and the KV cache, and what is left out of the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.scenario.base import Model
from simulator.scenario.compression import Pruned

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]
KvDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]


StateDtype = Literal["fp32", "bf16", "fp16"]


class Precision(Model):
    """Number formats. ``activations`` below 16 bits means that matrix products run in that type;
    weights narrower than the activations are widened on the fly (weight-only quantization).
    ``sparsity`` and ``pruned`` leave weights out."""

    weights: Dtype | None = Field(None, description="default: the model's native type")
    activations: Dtype | None = Field(None, description="default: bf16, or fp8 with fp8 weights")
    kv_cache: KvDtype | None = Field(None, description="default: bf16")
    recurrent_state: StateDtype | None = Field(
        None,
        description="states of linear-attention and state-space layers; default: what the model's "
        "configuration says, else bf16",
    )
    sparsity: Literal["none", "2:4"] | None = Field(
        None,
        description="linear layers of which two in four weights are zero, on devices with units "
        "for them; default: as the model's configuration says, else dense",
    )
    pruned: Pruned | None = Field(None, description="what structured pruning leaves of the model")
