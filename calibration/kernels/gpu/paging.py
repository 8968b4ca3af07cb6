"""What decode and prefill attention share: tiles of keys from pages, and the running softmax.

A tile of tokens may span several pages or lie within one; each token's block number is read from
the table, one tile ahead of its keys, so that the keys' loads do not wait for it.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

LOG2_E = math.log2(math.e)
"""Scores are multiplied by it, so that powers of two replace those of e."""


def cache_strides(k_cache: Tensor, v_cache: Tensor) -> tuple[int, int, int]:
    """Numbers between blocks, tokens and heads, the same ones in both caches."""
    assert k_cache.stride() == v_cache.stride()
    assert k_cache.stride(3) == 1
    return k_cache.stride(0), k_cache.stride(1), k_cache.stride(2)


@triton.jit
def block_numbers(
    table,
    tokens,
    end,
    block_size: tl.constexpr,
):
    """Blocks that hold ``tokens``; 0 from ``end`` on, where the table may hold anything."""
    return tl.load(table + tokens // block_size, mask=tokens < end, other=0)


@triton.jit
def row_offsets(
    blocks,
    tokens,
    block_stride,
    token_stride,
    block_size: tl.constexpr,
):
    """Where tokens' rows begin in a cache; a cache may have more than 2³¹ numbers."""
    return blocks.to(tl.int64) * block_stride + tokens % block_size * token_stride


@triton.jit
def load_rows(
    start,
    offsets,
    inside,
    dim: tl.constexpr,
    block: tl.constexpr,
    masked: tl.constexpr,
):
    """Rows of ``dim`` numbers, filled up to ``block`` with zeros; ``masked``: rows that are not
    ``inside`` are zeros too."""
    columns = tl.arange(0, block)
    at = start + offsets[:, None] + columns[None, :]
    if masked:
        return tl.load(at, mask=inside[:, None] & (columns < dim)[None, :], other=0.0)
    elif dim < block:  # noqa: RET505
        return tl.load(at, mask=(columns < dim)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def softmax_step(
    scores,
    top,
    total,
    scale,
    guarded: tl.constexpr,
):
    """One tile of scores (rows, tokens) into the running softmax of their rows.

    ``scale`` is positive. ``guarded``: a row may have seen nothing yet, all -inf.

    Returns:
        Powers of two of the scaled scores over their new maximum; the new maxima and sums; and what
        earlier sums are multiplied with.
    """
    above = tl.maximum(top, tl.max(scores, axis=1) * scale)
    base = above
    if guarded:
        base = tl.where(above == -float("inf"), 0.0, above)
    powers = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(top - base)
    return powers, above, total * shrink + tl.sum(powers, axis=1), shrink
