"""Whose kernels run: attention of a certain generation, and whether small operators are fused."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.scenario.base import Model

AttentionKernel = Literal["fitted", "flash_3", "flash_2", "flash_1", "unfused"]


class Kernels(Model):
    """Kernels to compare with those that the hardware profile was fitted to."""

    attention: AttentionKernel = Field(
        "fitted",
        description="attention of prompts: the profile's own kernels, FlashAttention of a "
        "generation at its published rate, or products and softmax by themselves, which write "
        "and read the scores (that one for decoding as well)",
    )
    fusion: bool = Field(
        True,
        description="whether norms, rotation and activations are one kernel each; off: as PyTorch "
        "runs them, operation by operation",
    )


FITTED = Kernels()
