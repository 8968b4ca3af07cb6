"""The kernels in plain torch: what others are compared with, and what runs on a CPU.

Attention goes sequence by sequence, so that its time follows from what each one has in the cache
and not from the longest one.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from calibration.kernels.api import Dense, ExpertWeights, Fp8, Int8, Linear

FP8_MOST = 448.0
"""Largest number in e4m3."""


class TorchKernels:
    """``Kernels`` in plain torch."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.rms_norm``."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return normed.to(x.dtype) * weight

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See ``Kernels.add_rms_norm``."""
        residual += x
        return self.rms_norm(residual, weight, eps)

    def qk_norm(
        self, qkv: Tensor, heads: int, kv_heads: int, q_weight: Tensor, k_weight: Tensor, eps: float
    ) -> None:
        """See ``Kernels.qk_norm``."""
        dim = len(q_weight)
        both = qkv.view(len(qkv), heads + 2 * kv_heads, dim)
        both[:, :heads] = self.rms_norm(both[:, :heads], q_weight, eps)
        keys = both[:, heads : heads + kv_heads]
        keys.copy_(self.rms_norm(keys, k_weight, eps))

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
        dim = cos_sin.shape[1]
        both = qkv.view(len(qkv), heads + 2 * kv_heads, dim)
        turned = both[:, : heads + kv_heads]
        cos, sin = cos_sin[positions].to(qkv.dtype).unsqueeze(1).chunk(2, dim=-1)
        first, second = turned.chunk(2, dim=-1)
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        both[:, :heads] = rotated[:, :heads]
        keys, values = rotated[:, heads:], both[:, heads + kv_heads :]
        if bool((slots < 0).any()):
            real = slots >= 0
            slots, keys, values = slots[real], keys[real], values[real]
        for cache, new in ((k_cache, keys), (v_cache, values)):
            flat = cache.view(-1, kv_heads, dim)
            flat[slots] = new.to(cache.dtype)

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
        out = q.new_zeros(len(q), q.shape[1] * q.shape[2])
        for i, length in enumerate(lengths.tolist()):
            if length:
                first = max(0, length - window) if window else 0
                keys, values = _stored(k_cache, v_cache, tables[i], first, length, q.dtype)
                # One query a KV head, with its sharing heads as rows, needs no mask.
                shared = q[i].view(1, keys.shape[1], -1, q.shape[2])
                out[i] = scaled_dot_product_attention(shared, keys, values, scale=scale).view(-1)
        return out

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
        out = q.new_empty(len(q), q.shape[1] * q.shape[2])
        bounds = starts.tolist()
        for i, length in enumerate(lengths.tolist()):
            low, high = bounds[i], bounds[i + 1]
            new = high - low
            first = max(0, length - new - window + 1) if window else 0
            keys, values = _stored(k_cache, v_cache, tables[i], first, length, q.dtype)
            mask = None
            if new < length - first or window:
                at = torch.arange(length - new, length).unsqueeze(1)
                seen = torch.arange(first, length).unsqueeze(0)
                mask = seen <= at
                if window:
                    mask &= seen > at - window
            part = scaled_dot_product_attention(
                q[low:high].transpose(0, 1).unsqueeze(0), keys, values,
                attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True,
            )  # fmt: skip
            out[low:high] = part.squeeze(0).transpose(0, 1).reshape(new, -1)
        return out

    def silu_mul(self, x: Tensor) -> Tensor:
        """See ``Kernels.silu_mul``."""
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up

    def linear(self, x: Tensor, weights: Linear) -> Tensor:
        """See ``Kernels.linear``."""
        match weights:
            case Dense(weight, bias):
                return linear(x, weight, bias)
            case Int8(weight, scale, bias):
                product = linear(x, weight.to(x.dtype)) * scale.to(x.dtype)
            case Fp8(weight, scale, bias):
                narrow, share = to_fp8(x)
                product = (linear(narrow.float(), weight.float()) * share * scale).to(x.dtype)
        return product if bias is None else product + bias

    def route(self, logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
        """See ``Kernels.route``."""
        shares, ids = logits.float().softmax(-1).topk(top_k, dim=-1)
        if renormalize:
            shares = shares / shares.sum(-1, keepdim=True)
        return ids.int(), shares

    def experts(self, x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
        """See ``Kernels.experts``."""
        out = torch.zeros_like(x, dtype=torch.float32)
        for expert in torch.unique(ids).tolist():
            token, place = torch.nonzero(ids == expert, as_tuple=True)
            gate_up = _expert(weights.gate_up, weights.gate_up_scale, expert)
            down = _expert(weights.down, weights.down_scale, expert)
            inner = self.silu_mul(self.linear(x[token], gate_up))
            part = self.linear(inner, down).float() * shares[token, place].unsqueeze(1)
            out.index_add_(0, token, part)
        return out.to(x.dtype)

    def sample(self, logits: Tensor, temperature: float, seed: int, step: Tensor) -> Tensor:
        """See ``Kernels.sample``."""
        if temperature == 0.0:
            return logits.argmax(-1)
        generator = torch.Generator(logits.device)
        # A CPU's generator hears 32 bits, so both go into them.
        generator.manual_seed(crc32(b"%d %d" % (seed, int(step))))
        # The largest of p / e with exponential e is distributed as p (the Gumbel-max trick).
        chances = (logits.float() / temperature).softmax(-1)
        noise = torch.empty_like(chances).exponential_(generator=generator)
        return (chances / noise).argmax(-1)


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3 and their scales, (T, k) and (T, 1): a row's largest magnitude becomes 448."""
    scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_MOST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def _expert(weight: Tensor, scale: Tensor | None, expert: int) -> Linear:
    if scale is None:
        return Dense(weight[expert])
    kind = Int8 if weight.dtype == torch.int8 else Fp8
    return kind(weight[expert], scale[expert])


def _stored(
    k_cache: Tensor, v_cache: Tensor, table: Tensor, first: int, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values of a sequence's tokens ``first`` to ``length``, (1, kv_heads, tokens, D)."""
    size = k_cache.shape[1]
    low = first // size
    blocks = table[low : -(-length // size)]
    inside = slice(first - low * size, length - low * size)
    parts = (
        cache[blocks].flatten(0, 1)[inside].to(dtype).transpose(0, 1).unsqueeze(0)
        for cache in (k_cache, v_cache)
    )
    keys, values = parts
    return keys, values
