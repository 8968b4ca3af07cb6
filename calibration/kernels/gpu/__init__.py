"""Kernels for NVIDIA GPUs, in Triton; dense matrix products are cuBLAS'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.kernels.gpu import (
    activation,
    decode_attention,
    experts,
    matmul,
    norms,
    prefill_attention,
    rotary,
    sampling,
)

if TYPE_CHECKING:
    from torch import Tensor

    from calibration.kernels.api import ExpertWeights, Linear


class TritonKernels:
    """``Kernels`` in Triton."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.rms_norm``."""
        return norms.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.add_rms_norm``."""
        return norms.add_rms_norm(x, residual, weight, eps)

    def qk_norm(
        self, qkv: Tensor, heads: int, kv_heads: int, q_weight: Tensor, k_weight: Tensor, eps: float
    ) -> None:
        """See ``Kernels.qk_norm``."""
        norms.qk_norm(qkv, heads, kv_heads, q_weight, k_weight, eps)

    def rope_kv_write(
        self,
        qkv: Tensor,
        heads: int,
        kv_heads: int,
        cos_sin: Tensor,
        positions: Tensor,
        slots: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
    ) -> None:
        """See ``Kernels.rope_kv_write``."""
        rotary.rope_kv_write(qkv, heads, kv_heads, cos_sin, positions, slots, k_cache, v_cache)

    def decode_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        tables: Tensor,
        lengths: Tensor,
        scale: float,
        window: int,
    ) -> Tensor:
        """See ``Kernels.decode_attention``."""
        return decode_attention.decode_attention(
            q, k_cache, v_cache, tables, lengths, scale, window
        )

    def prefill_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        tables: Tensor,
        starts: Tensor,
        lengths: Tensor,
        longest: int,
        scale: float,
        window: int,
    ) -> Tensor:
        """See ``Kernels.prefill_attention``."""
        return prefill_attention.prefill_attention(
            q, k_cache, v_cache, tables, starts, lengths, longest, scale, window
        )

    def silu_mul(self, x: Tensor) -> Tensor:
        """See ``Kernels.silu_mul``."""
        return activation.silu_mul(x)

    def linear(self, x: Tensor, weights: Linear) -> Tensor:
        """See ``Kernels.linear``."""
        return matmul.linear(x, weights)

    def route(self, logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
        """See ``Kernels.route``."""
        return experts.route(logits, top_k, renormalize=renormalize)

    def experts(self, x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
        """See ``Kernels.experts``."""
        return experts.experts(x, ids, shares, weights)

    def sample(self, logits: Tensor, temperature: float, seed: int, step: Tensor) -> Tensor:
        """See ``Kernels.sample``."""
        return sampling.sample(logits, temperature, seed, step)
