"""Attention of one new token a sequence, over a paged cache that is split along its length.

The query heads of one key-value head are the rows of one matrix product, so that each key is read
once. A sequence's tokens are split evenly among a number of programs that follows from shapes only
(flash-decoding); a second launch merges their parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.chip import processors
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
    """``tile`` tokens at a time; ``splits`` of a sequence, None: as many as fill the chip."""

    tile: int
    num_warps: int
    num_stages: int
    splits: int | None = None


CANDIDATES = [
    Config(tile, warps, stages)
    for tile, warps, stages in (
        (64, 4, 3), (64, 4, 2), (64, 4, 4), (32, 4, 4), (32, 2, 4), (128, 4, 2), (128, 8, 2),
    )
]  # fmt: skip
"""Worth timing for 16-bit heads of up to 128."""

_PROGRAMS = 6
"""Programs a processor when a sequence is split: two or three run at a time, and as many follow, so
that sequences of uneven lengths end together."""
_LEAST = 256
"""Tokens below which a split of the widest context is not worth its merge."""
_MOST = 128


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
    config: Config | None = None,
) -> Tensor:
    """See ``Kernels.decode_attention``; ``config`` replaces the one that is taken by itself."""
    batch, heads, dim = q.shape
    _, block_size, kv_heads, _ = k_cache.shape
    out = torch.empty((batch, heads * dim), dtype=q.dtype, device=q.device)
    if not batch:
        return out
    config = config or default_config(dim, q.element_size())
    context = tables.shape[1] * block_size
    splits = config.splits or choose_splits(batch * kv_heads, context, processors(q.device))
    share = heads // kv_heads
    parts, weights = out, out
    if splits > 1:
        parts = torch.empty((batch, heads, splits, dim), dtype=torch.float32, device=q.device)
        weights = torch.empty((batch, heads, splits), dtype=torch.float32, device=q.device)
    _decode[(kv_heads, splits, batch)](
        q, k_cache, v_cache, tables, lengths, parts, weights,
        scale * LOG2_E, window, q.stride(0), tables.stride(0), *cache_strides(k_cache, v_cache),
        share=share, rows=max(16, triton.next_power_of_2(share)),
        dim=dim, block=triton.next_power_of_2(dim), block_size=block_size,
        tile=config.tile, windowed=window > 0, split=splits > 1,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if splits > 1:
        _merge[(heads, batch)](
            parts, weights, lengths, out, window, splits,
            dim=dim, block=triton.next_power_of_2(dim), tile=config.tile, windowed=window > 0,
            most=triton.next_power_of_2(splits), chunk=8, num_warps=4, num_stages=2,
        )  # fmt: skip
    return out


def default_config(dim: int, element_size: int) -> Config:
    """For heads of ``dim`` numbers of ``element_size`` bytes."""
    if element_size == 4:
        return Config(32, 4, 2)
    return Config(64, 4, 3) if dim <= 128 else Config(32, 4, 2)


def choose_splits(rows: int, context: int, chip: int) -> int:
    """Splits of each sequence.

    Args:
        rows: sequences times key-value heads.
        context: tokens of the widest sequence that the table can hold.
        chip: processors.
    """
    enough = triton.cdiv(_PROGRAMS * chip, rows)
    return max(1, min(enough, context // _LEAST, _MOST))


def specializations() -> Iterator[Specialization]:
    """Heads of 128 and 64; 4 and 5 queries a key; whole, split and windowed; bf16 and fp8 caches,
    and all the candidates."""
    for dim in (128, 64):
        for share in (4, 5):
            for split, windowed in ((True, False), (False, False), (True, True)):
                config = default_config(dim, 2)
                yield _specialization(dim, share, "*bf16", split, windowed, config)
        yield _specialization(dim, 4, "*fp8e4nv", True, False, default_config(dim, 2))
    for config in CANDIDATES:
        yield _specialization(128, 4, "*bf16", True, False, config)
    for dim in (128, 64):
        yield Specialization(
            f"decode merge {dim}",
            _merge,
            {"parts": "*fp32", "weights": "*fp32", "lengths": "*i32", "out": "*bf16"}
            | {"window": "i32", "splits": "i32"},
            {"dim": dim, "block": dim, "tile": 64, "windowed": False, "most": 32, "chunk": 8},
            num_stages=2,
        )


def _specialization(
    dim: int, share: int, cache: str, split: bool, windowed: bool, config: Config
) -> Specialization:
    part = "*fp32" if split else "*bf16"
    pointers = {"q": "*bf16", "k_cache": cache, "v_cache": cache, "tables": "*i32"}
    results = {"lengths": "*i32", "parts": part, "weights": part}
    strides = ("q_stride", "table_stride", "block_stride", "token_stride", "head_stride")
    kind = f"{cache[1:]}{' split' if split else ''}{' window' if windowed else ''}"
    return Specialization(
        f"decode {dim}/{share} {kind} {config.tile} w{config.num_warps} s{config.num_stages}",
        _decode,
        pointers | results | {"scale": "fp32", "window": "i32"} | dict.fromkeys(strides, "i32"),
        {"share": share, "rows": 16, "dim": dim, "block": dim, "block_size": 16}
        | {"tile": config.tile, "windowed": windowed, "split": split},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        uses_matrix_units=True,
        multiples_of_16=strides,
    )


@triton.jit
def _tokens_a_split(
    length,
    window,
    splits,
    tile: tl.constexpr,
    windowed: tl.constexpr,
):
    """The first token that is seen, and tokens of each split, whole tiles."""
    first = 0
    if windowed:
        first = tl.maximum(length - window, 0)
    return first, tl.cdiv(tl.cdiv(length - first, splits), tile) * tile


@triton.jit
def _decode(
    q,
    k_cache,
    v_cache,
    tables,
    lengths,
    parts,
    weights,
    scale,
    window,
    q_stride,
    table_stride,
    block_stride,
    token_stride,
    head_stride,
    share: tl.constexpr,
    rows: tl.constexpr,
    dim: tl.constexpr,
    block: tl.constexpr,
    block_size: tl.constexpr,
    tile: tl.constexpr,
    windowed: tl.constexpr,
    split: tl.constexpr,
):
    """One split of one sequence and key-value head a program. Heads vary fastest: those of a token
    lie side by side in memory and are read at about the same time."""
    kv_head = tl.program_id(0)
    place = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    splits = tl.num_programs(1)
    length = tl.load(lengths + sequence)
    first, each = _tokens_a_split(length, window, splits, tile, windowed)
    begin = first + place * each
    end = tl.minimum(begin + each, length)
    if split:  # noqa: SIM102 - known when it is compiled
        if begin >= end:
            return

    row = tl.arange(0, rows)
    columns = tl.arange(0, block)
    head = kv_head * share + row
    real = (row < share)[:, None] & (columns < dim)[None, :]
    at = q + sequence * q_stride + head[:, None] * dim + columns[None, :]
    queries = tl.load(at, mask=real, other=0.0)
    table = tables + sequence * table_stride
    k_start = k_cache + kv_head * head_stride
    v_start = v_cache + kv_head * head_stride
    top = tl.full([rows], -float("inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    sums = tl.zeros([rows, block], tl.float32)
    lane = tl.arange(0, tile)
    blocks = block_numbers(table, begin + lane, end, block_size)
    for low in range(begin, end, tile):
        # The masks cost nothing here: memory is what takes the time.
        tokens = low + lane
        inside = tokens < end
        offsets = row_offsets(blocks, tokens, block_stride, token_stride, block_size)
        blocks = block_numbers(table, tokens + tile, end, block_size)
        keys = load_rows(k_start, offsets, inside, dim, block, True).to(queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        scores = tl.where(inside[None, :], scores, -float("inf"))
        powers, top, total, shrink = softmax_step(scores, top, total, scale, False)
        values = load_rows(v_start, offsets, inside, dim, block, True).to(queries.dtype)
        sums = tl.dot(
            powers.to(queries.dtype), values, sums * shrink[:, None], input_precision="ieee"
        )

    # A length of 0 has no sum, and its output is 0.
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    line = (sequence * tl.num_programs(0) * share + head) * splits + place
    tl.store(parts + line[:, None] * dim + columns[None, :], result, mask=real)
    if split:
        tl.store(weights + line, top + tl.log2(total), mask=row < share)


@triton.jit
def _merge(
    parts,
    weights,
    lengths,
    out,
    window,
    splits,
    dim: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    windowed: tl.constexpr,
    most: tl.constexpr,
    chunk: tl.constexpr,
):
    """One head of one sequence a program."""
    sequence = tl.program_id(1).to(tl.int64)
    line = sequence * tl.num_programs(0) + tl.program_id(0)
    length = tl.load(lengths + sequence)
    first, each = _tokens_a_split(length, window, splits, tile, windowed)
    used = tl.cdiv(length - first, tl.maximum(each, 1))
    every = tl.arange(0, most)
    logs = tl.load(weights + line * splits + every, mask=every < used, other=-float("inf"))
    # Without splits, at a length of 0, there is no largest one.
    top = tl.where(used > 0, tl.max(logs, axis=0), 0.0)
    total = tl.sum(tl.exp2(logs - top), axis=0)
    columns = tl.arange(0, block)
    sums = tl.zeros([block], tl.float32)
    for low in range(0, used, chunk):
        place = low + tl.arange(0, chunk)
        inside = place < used
        weight = tl.load(weights + line * splits + place, mask=inside, other=-float("inf"))
        at = parts + (line * splits + place)[:, None] * dim + columns[None, :]
        part = tl.load(at, mask=inside[:, None] & (columns < dim)[None, :], other=0.0)
        sums += tl.sum(part * (tl.exp2(weight - top) / total)[:, None], axis=0)
    tl.store(out + line * dim + columns, sums.to(out.dtype.element_ty), mask=columns < dim)
