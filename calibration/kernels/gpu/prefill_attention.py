"""Causal attention of prompt chunks over a paged cache, tile by tile (FlashAttention-2).

A program has a tile of one chunk's queries of one head, and walks over the keys that they see:
tiles that all of them see in full without masks, the others, at the diagonal and at the lower end
of a window, with masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.chip import architecture
from calibration.kernels.gpu.paging import (
    LOG2_E,
    block_numbers,
    cache_strides,
    load_rows,
    row_offsets,
    softmax_step,
)
from calibration.kernels.gpu.specialization import Specialization


@dataclass(frozen=True, slots=True)
class Config:
    """Tiles of ``queries`` times ``keys``."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


CANDIDATES = [
    Config(queries, keys, warps, stages)
    for queries, keys, warps, stages in (
        (128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (128, 64, 8, 2),
        (128, 32, 8, 4), (64, 64, 4, 3), (64, 128, 4, 2),
    )
]  # fmt: skip
"""Worth timing for 16-bit heads of 64 and 128."""

_LONG = {
    (80, 64): Config(128, 64, 8, 3),
    (80, 128): Config(128, 64, 8, 3),
    (90, 64): Config(128, 64, 8, 3),
    (90, 128): Config(128, 128, 8, 3),
    (100, 64): Config(128, 128, 8, 3),
    (100, 128): Config(128, 128, 8, 3),
}
"""By architecture and width of a head, for chunks of more than 64 tokens. Fewer queries a program
would read keys from the L2 cache faster than it gives them; fewer stages would wait for them."""
_ROOMY = Config(128, 64, 8, 3)
"""Instead, for heads of more than 64 where a window's masks or the conversion of a narrower cache
need registers too."""


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    scale: float,
    window: int,
    config: Config | None = None,
) -> Tensor:
    """See ``Kernels.prefill_attention``; ``config`` replaces the one that is taken by itself."""
    tokens, heads, dim = q.shape
    _, block_size, kv_heads, _ = k_cache.shape
    out = torch.empty((tokens, heads * dim), dtype=q.dtype, device=q.device)
    chunks = lengths.shape[0]
    if not tokens or not chunks or not longest:
        return out
    config = config or default_config(
        dim, q.element_size(), longest, architecture(q.device),
        plain=not window and k_cache.dtype == q.dtype,
    )  # fmt: skip
    _prefill[(heads, chunks, triton.cdiv(longest, config.queries))](
        q, k_cache, v_cache, tables, starts, lengths, out,
        scale * LOG2_E, window, q.stride(0), tables.stride(0), *cache_strides(k_cache, v_cache),
        share=heads // kv_heads, dim=dim, block=triton.next_power_of_2(dim), block_size=block_size,
        m=config.queries, n=config.keys, windowed=window > 0,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out


def default_config(dim: int, element_size: int, longest: int, arch: int, *, plain: bool) -> Config:
    """For heads of ``dim`` numbers of ``element_size`` bytes; ``plain``: without a window, and with
    a cache of the queries' type."""
    if element_size == 4:
        return Config(32, 32, 4, 1)
    if dim > 128:
        return Config(64, 32, 4, 2)
    if longest <= 64:
        return Config(64, 64, 4, 3)
    if dim > 64 and not plain:
        return _ROOMY
    # Other chips, such as workstations', have the least shared memory.
    return _LONG[arch if arch in (90, 100) else 80, 64 if dim <= 64 else 128]


def specializations() -> Iterator[Specialization]:
    """Heads of 128 and 64; with and without a window; bf16 and fp8 caches, and all the
    candidates."""
    for dim in (128, 64):
        for config in CANDIDATES:
            yield _specialization(dim, "*bf16", False, config)
        special = (default_config(dim, 2, 1000, arch, plain=False) for arch in (90, 100))
        for config in dict.fromkeys(special):
            yield _specialization(dim, "*bf16", True, config)
            yield _specialization(dim, "*fp8e4nv", False, config)


def _specialization(dim: int, cache: str, windowed: bool, config: Config) -> Specialization:
    pointers = {"q": "*bf16", "k_cache": cache, "v_cache": cache, "tables": "*i32"}
    others = {"starts": "*i32", "lengths": "*i32", "out": "*bf16"}
    strides = ("q_stride", "table_stride", "block_stride", "token_stride", "head_stride")
    sizes = f"{config.queries}x{config.keys} w{config.num_warps} s{config.num_stages}"
    return Specialization(
        f"prefill {dim} {cache[1:]}{' window' if windowed else ''} {sizes}",
        _prefill,
        pointers | others | {"scale": "fp32", "window": "i32"} | dict.fromkeys(strides, "i32"),
        {"share": 4, "dim": dim, "block": dim, "block_size": 16}
        | {"m": config.queries, "n": config.keys, "windowed": windowed},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        uses_matrix_units=True,
        multiples_of_16=strides,
    )


@triton.jit
def _span(
    sums,
    top,
    total,
    queries,
    k_start,
    v_start,
    table,
    positions,
    low,
    high,
    end,
    scale,
    window,
    block_stride,
    token_stride,
    dim: tl.constexpr,
    block: tl.constexpr,
    block_size: tl.constexpr,
    n: tl.constexpr,
    masked: tl.constexpr,
    windowed: tl.constexpr,
):
    """Keys ``low`` to ``high``, whole tiles, into the running sums; keys from ``end`` on do not
    exist."""
    lane = tl.arange(0, n)
    blocks = block_numbers(table, low + lane, end, block_size)
    for begin in range(low, high, n):
        tokens = begin + lane
        inside = tokens < end
        offsets = row_offsets(blocks, tokens, block_stride, token_stride, block_size)
        blocks = block_numbers(table, tokens + n, end, block_size)
        keys = load_rows(k_start, offsets, inside, dim, block, masked).to(queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        if masked:
            seen = tokens[None, :] <= positions[:, None]
            if windowed:
                seen = seen & (tokens[None, :] > positions[:, None] - window)
            scores = tl.where(seen, scores, -float("inf"))
        powers, top, total, shrink = softmax_step(scores, top, total, scale, windowed)
        values = load_rows(v_start, offsets, inside, dim, block, masked).to(queries.dtype)
        sums = tl.dot(
            powers.to(queries.dtype), values, sums * shrink[:, None], input_precision="ieee"
        )
    return sums, top, total


@triton.jit
def _prefill(
    q,
    k_cache,
    v_cache,
    tables,
    starts,
    lengths,
    out,
    scale,
    window,
    q_stride,
    table_stride,
    block_stride,
    token_stride,
    head_stride,
    share: tl.constexpr,
    dim: tl.constexpr,
    block: tl.constexpr,
    block_size: tl.constexpr,
    m: tl.constexpr,
    n: tl.constexpr,
    windowed: tl.constexpr,
):
    """A tile of one chunk and head a program. Heads vary fastest: those that share a key-value head
    find it in the L2 cache. The last tiles of all chunks, which see the most, come first."""
    head = tl.program_id(0)
    chunk = tl.program_id(1)
    start = tl.load(starts + chunk)
    new = tl.load(starts + chunk + 1) - start
    tile = tl.cdiv(new, m) - 1 - tl.program_id(2)
    if tile < 0:
        return
    past = tl.load(lengths + chunk) - new

    row = tile * m + tl.arange(0, m)
    positions = past + row
    columns = tl.arange(0, block)
    real = (row < new)[:, None] & (columns < dim)[None, :]
    line = (start + row).to(tl.int64)[:, None]
    at = q + line * q_stride + head * dim + columns[None, :]
    queries = tl.load(at, mask=real, other=0.0)
    table = tables + chunk.to(tl.int64) * table_stride
    k_start = k_cache + head // share * head_stride
    v_start = v_cache + head // share * head_stride
    top = tl.full([m], -float("inf"), tl.float32)
    total = tl.zeros([m], tl.float32)
    sums = tl.zeros([m, block], tl.float32)

    nearest = past + tile * m
    end = tl.minimum(nearest + m, past + new)
    low = 0
    full = (nearest + 1) // n * n
    if windowed:
        low = tl.maximum(nearest - window + 1, 0) // n * n
        # From here on, the window of the tile's last query holds the keys too.
        whole = tl.cdiv(tl.maximum(nearest + m - window, 0), n) * n
        whole = tl.minimum(whole, tl.cdiv(end, n) * n)
        sums, top, total = _span(
            sums, top, total, queries, k_start, v_start, table, positions, low, whole, end,
            scale, window, block_stride, token_stride, dim, block, block_size, n, True, windowed,
        )  # fmt: skip
        low = whole
        full = tl.maximum(full, low)
    sums, top, total = _span(
        sums, top, total, queries, k_start, v_start, table, positions, low, full, end,
        scale, window, block_stride, token_stride, dim, block, block_size, n, False, windowed,
    )  # fmt: skip
    sums, top, total = _span(
        sums, top, total, queries, k_start, v_start, table, positions, full, end, end,
        scale, window, block_stride, token_stride, dim, block, block_size, n, True, windowed,
    )  # fmt: skip
    # Rows behind the chunk may have seen nothing; they are not stored.
    result = (sums / tl.where(total > 0, total, 1.0)[:, None]).to(out.dtype.element_ty)
    tl.store(out + line * (tl.num_programs(0) * dim) + head * dim + columns[None, :], result, real)
