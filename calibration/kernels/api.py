"""What a decoder step needs of a set of kernels.

Sizes: T tokens of a step, B sequences that decode one token each, S prompt chunks, H hidden width,
``heads`` query heads and ``kv_heads`` key-value heads of width D, E experts. A KV cache of one
layer is two tensors (blocks, block_size, kv_heads, D); a *slot* is ``block · block_size + offset``.

Every method may be captured in a CUDA graph: none looks at a tensor's values on the host, and what
changes from step to step comes in tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dense:
    """Weights as they are: ``weight`` (n, k) in the type of the inputs, ``bias`` (n) or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Int8:
    """Weight-only int8: ``weight`` (n, k) int8, to be multiplied with ``scale`` (n) float32, one a
    row; inputs stay in 16 or 32 bits and sums in float32."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Fp8:
    """fp8 (e4m3) products: ``weight`` (n, k) with ``scale`` (n) float32, one a row; inputs are
    brought to fp8 with a scale of their own for each token (its largest magnitude over 448)."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None = None


Linear = Dense | Int8 | Fp8


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Routed experts of one layer, gated with SiLU.

    ``gate_up`` (E, 2·width, H), gate rows before up rows; ``down`` (E, H, width). Both in the type
    of the inputs, or int8 or fp8 with ``gate_up_scale`` (E, 2·width) and ``down_scale`` (E, H) in
    float32, used as in ``Int8`` and ``Fp8``.
    """

    gate_up: Tensor
    down: Tensor
    gate_up_scale: Tensor | None = None
    down_scale: Tensor | None = None


class Kernels(Protocol):
    """A set of kernels. Activations are float16, bfloat16 or float32; sums are float32."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """``x / sqrt(mean(x²) + eps) · weight`` over the last axis of ``x`` (T, H)."""
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Adds ``x`` to ``residual`` in place and returns the norm of the sum; all (T, H). The norm
        is of the sum as it is stored, in the type of ``residual``."""
        ...

    def qk_norm(
        self, qkv: Tensor, heads: int, kv_heads: int, q_weight: Tensor, k_weight: Tensor, eps: float
    ) -> None:
        """Norms every query and key head in place: ``qkv`` (T, (heads + 2·kv_heads)·D), weights
        (D)."""
        ...

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
        """Rotates queries in place, and writes rotated keys and the values to the cache.

        ``cos_sin`` (positions, D) float32 holds the cosines of D/2 angles, then their sines; the
        first half of a head is rotated against its second half (as Hugging Face's Llama). The
        caches may have another type. ``positions``, ``slots`` (T) int64; a slot of -1 is padding
        and is not written.
        """
        ...

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
        """Attention of one new token a sequence, whose key and value are in the cache already.

        ``q`` (B, heads, D), contiguous within a token only; ``tables`` (B, width) int32, block
        numbers; ``lengths`` (B) int32, tokens in the cache with the new one, 0 for padding (its
        output is 0). ``window``: a token sees so many, itself included; 0 for all.

        Returns:
            (B, heads·D).
        """
        ...

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
        """Causal attention of S prompt chunks, whose keys and values are in the cache already.

        ``q`` (T, heads, D), contiguous within a token only; chunk i has tokens ``starts[i]`` to
        ``starts[i+1]`` of it, which are the last ones of the ``lengths[i]`` tokens that its
        sequence has in the cache; ``starts`` (S + 1), ``lengths`` (S) int32 on the device;
        ``longest``: tokens of the longest chunk; ``tables``, ``window`` as above.

        Returns:
            (T, heads·D).
        """
        ...

    def silu_mul(self, x: Tensor) -> Tensor:
        """``silu(x[:, :width]) · x[:, width:]`` of ``x`` (T, 2·width)."""
        ...

    def linear(self, x: Tensor, weights: Linear) -> Tensor:
        """``x · weightᵀ + bias`` in the type of ``x`` (T, k); returns (T, n)."""
        ...

    def route(self, logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
        """Softmax over the experts in float32, then the ``top_k`` largest of a token; with
        ``renormalize`` they are scaled to sum to 1.

        Returns:
            Expert numbers (T, top_k) int32, and their shares (T, top_k) float32.
        """
        ...

    def experts(self, x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
        """Each token's experts, summed by their shares; (T, H)."""
        ...

    def sample(self, logits: Tensor, temperature: float, seed: int, step: Tensor) -> Tensor:
        """One token for each row of ``logits`` (S, vocabulary): the largest at temperature 0 (the
        first of equal ones), else drawn from the softmax of ``logits / temperature``. ``step`` (1)
        int64 on the device makes the draws of one step differ from another's.

        Returns:
            (S) int64.
        """
        ...
