"""Rotary embedding of queries and keys, and the write of keys and values to the cache."""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.specialization import Specialization

_HEADS = 16
"""Heads of one token that a program moves."""


def rope_kv_write(
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
    half = cos_sin.shape[1] // 2
    assert k_cache.stride() == v_cache.stride()
    block_stride, token_stride, head_stride, _ = k_cache.stride()
    if len(qkv):
        _rope_kv_write[(len(qkv), triton.cdiv(heads + 2 * kv_heads, _HEADS))](
            qkv, cos_sin, positions, slots, k_cache, v_cache,
            qkv.stride(0), block_stride, token_stride, head_stride, heads, kv_heads,
            half=half, block=triton.next_power_of_2(half), rows=_HEADS,
            block_size=k_cache.shape[1], num_warps=4,
        )  # fmt: skip


def specializations() -> Iterator[Specialization]:
    """Heads of 128 and 64, caches in the type of the heads and in fp8."""
    for dim in (64, 128):
        for cache in ("*bf16", "*fp8e4nv"):
            pointers = {"qkv": "*bf16", "cos_sin": "*fp32", "positions": "*i64", "slots": "*i64"}
            strides = ("stride", "block_stride", "token_stride", "head_stride")
            yield Specialization(
                f"rope_kv_write {dim} {cache}",
                _rope_kv_write,
                pointers
                | {"k_cache": cache, "v_cache": cache}
                | dict.fromkeys((*strides, "heads", "kv_heads"), "i32"),
                {"half": dim // 2, "block": dim // 2, "rows": _HEADS, "block_size": 16},
                multiples_of_16=strides,
            )


@triton.jit
def _rope_kv_write(
    qkv,
    cos_sin,
    positions,
    slots,
    k_cache,
    v_cache,
    stride,
    block_stride,
    token_stride,
    head_stride,
    heads,
    kv_heads,
    half: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
    block_size: tl.constexpr,
):
    """``rows`` heads of one token a program; they may be queries, keys and values together."""
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + token)
    slot = tl.load(slots + token)
    head = tl.program_id(1) * rows + tl.arange(0, rows)
    columns = tl.arange(0, block)
    real = (columns < half)[None, :]
    place = qkv + token * stride + head[:, None] * (2 * half) + columns[None, :]
    known = (head < heads + 2 * kv_heads)[:, None] & real
    first = tl.load(place, mask=known, other=0.0)
    second = tl.load(place + half, mask=known, other=0.0)
    angle = cos_sin + position * (2 * half) + columns
    cos = tl.load(angle, mask=columns < half, other=0.0)[None, :]
    sin = tl.load(angle + half, mask=columns < half, other=0.0)[None, :]
    low = (first.to(tl.float32) * cos - second.to(tl.float32) * sin).to(first.dtype)
    high = (second.to(tl.float32) * cos + first.to(tl.float32) * sin).to(first.dtype)

    query = (head < heads)[:, None] & real
    tl.store(place, low, mask=query)
    tl.store(place + half, high, mask=query)

    cached = slot // block_size * block_stride + slot % block_size * token_stride
    written = tl.where(slot >= 0, kv_heads, 0)
    key = head - heads
    to_key = ((key >= 0) & (key < written))[:, None] & real
    at = k_cache + cached + key[:, None] * head_stride + columns[None, :]
    tl.store(at, low.to(k_cache.dtype.element_ty), mask=to_key)
    tl.store(at + half, high.to(k_cache.dtype.element_ty), mask=to_key)

    value = key - kv_heads
    to_value = ((value >= 0) & (value < written))[:, None] & real
    at = v_cache + cached + value[:, None] * head_stride + columns[None, :]
    tl.store(at, first.to(v_cache.dtype.element_ty), mask=to_value)
    tl.store(at + half, second.to(v_cache.dtype.element_ty), mask=to_value)
