"""Routed experts: which ones a token goes to, and their products, grouped by expert.

A *pair* is a token and one of its experts; pair ``token · top_k + place``. Pairs are sorted by
expert, and each expert's are padded to full tiles of the grouped products. How many tiles there
are is known on the device only: grids are sized for the most that there can be, and programs
beyond the real number stop at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.api import ExpertWeights
from calibration.kernels.gpu.activation import silu_mul
from calibration.kernels.gpu.matmul import Tile, multiplied, quantize, swizzled, with_dense_rows
from calibration.kernels.gpu.specialization import Specialization

TILES = {
    1: (
        Tile(16, 64, 256, 4, 4),
        Tile(32, 64, 256, 4, 4),
        Tile(64, 128, 128, 4, 4),
        Tile(128, 128, 128, 8, 4),
    ),
    2: (
        Tile(16, 64, 128, 4, 4),
        Tile(32, 64, 128, 4, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(128, 128, 64, 8, 4),
    ),
    4: (Tile(16, 32, 32, 4, 2), Tile(32, 32, 32, 4, 2)),
}
"""By the bytes of an input, from few to many rows. float32 is for checks."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """Pairs by expert. ``order`` (most tiles · tile rows) int32: their numbers, those of padding
    are the number of pairs; ``owners`` (most tiles) int32: each tile's expert; ``used`` (1) int32:
    how many tiles there are."""

    order: Tensor
    owners: Tensor
    used: Tensor


def route(logits: Tensor, top_k: int, *, renormalize: bool) -> tuple[Tensor, Tensor]:
    """See ``Kernels.route``."""
    logits = with_dense_rows(logits)
    tokens, experts = logits.shape
    ids = torch.empty((tokens, top_k), dtype=torch.int32, device=logits.device)
    shares = torch.empty((tokens, top_k), dtype=torch.float32, device=logits.device)
    block = triton.next_power_of_2(experts)
    if tokens:
        _route[(tokens,)](
            logits, ids, shares, experts, logits.stride(0), top_k=top_k,
            places=triton.next_power_of_2(top_k), renormalize=renormalize, block=block,
            num_warps=_route_warps(block),
        )  # fmt: skip
    return ids, shares


def experts(x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
    """See ``Kernels.experts``.

    Raises:
        ValueError: fp8 on a GPU without fp8 matrix units.
    """
    tokens, hidden = x.shape
    count, top_k = len(weights.gate_up), ids.shape[1]
    out = torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    if tokens:
        fp8 = weights.gate_up.dtype == torch.float8_e4m3fn
        tile = choose(ids.numel(), count, 1 if fp8 else x.element_size())
        pairs = align(ids, count, tile.m)
        gate_up = _grouped(
            x, weights.gate_up, weights.gate_up_scale, pairs, ids.numel(), top_k, tile
        )
        inner = silu_mul(gate_up)
        parts = _grouped(inner, weights.down, weights.down_scale, pairs, ids.numel(), 1, tile)
        _add_up[(tokens, triton.cdiv(hidden, 512))](
            parts, shares, out, hidden, top_k=top_k, block=512, num_warps=4
        )
    return out


def choose(pairs: int, count: int, element_bytes: int) -> Tile:
    """The tile for ``pairs`` that go to ``count`` experts. As experts' shares differ, most have
    fewer rows than the mean: a tile may be half filled by it."""
    mean = triton.cdiv(pairs, count)
    tiles = TILES[element_bytes]
    return next((tile for tile in tiles if 3 * mean <= 2 * tile.m), tiles[-1])


def most_tiles(pairs: int, count: int, rows: int) -> int:
    """The most tiles of ``rows`` that ``pairs`` can need: ``count`` experts, or fewer if there are
    fewer pairs, have one row each, and the others come in full tiles."""
    single = min(pairs, count)
    return single + (pairs - single) // rows


def align(ids: Tensor, count: int, rows: int) -> Sorted:
    """Sorts the pairs of ``ids`` (T, top_k) by which of ``count`` experts they go to, in tiles of
    ``rows``. No order depends on which program is first, so that runs repeat."""
    ids = ids.contiguous()
    pairs = ids.numel()
    tiles = most_tiles(pairs, count, rows)
    order, owners, used, counts = (
        torch.empty(size, dtype=torch.int32, device=ids.device)
        for size in (tiles * rows, tiles, 1, count)
    )
    block = _align_block(pairs)
    warps = block // 256
    _count[(count,)](ids, counts, pairs, block=block, num_warps=warps)
    _place[(count,)](
        ids, counts, order, owners, used, pairs, count, rows=rows, block=block,
        block_e=triton.next_power_of_2(count), num_warps=warps,
    )  # fmt: skip
    return Sorted(order, owners, used)


def _align_block(pairs: int) -> int:
    return 2048 if pairs > 256 else 256


def _route_warps(block: int) -> int:
    return 1 if block <= 128 else 4


def _grouped(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    pairs: Sorted,
    count: int,
    shared_by: int,
    tile: Tile,
) -> Tensor:
    """Products (pairs, n) of rows of ``x``, each for ``shared_by`` pairs, with their experts'."""
    dtype, x_scale = x.dtype, None
    if weight.dtype == torch.float8_e4m3fn:
        x, x_scale = quantize(x)
    x = with_dense_rows(x)
    n, k = weight.shape[1:]
    out = torch.empty((count, n), dtype=dtype, device=x.device)
    programs = len(pairs.owners) * triton.cdiv(n, tile.n)
    _expert_product[(programs,)](
        x, x_scale, weight, scale, pairs.order, pairs.owners, pairs.used, out, count, n, k,
        x.stride(0), shared_by=shared_by, **tile.constants(k), num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )  # fmt: skip
    return out


@triton.jit
def _route(
    logits,
    ids,
    shares,
    experts,
    stride,
    top_k: tl.constexpr,
    places: tl.constexpr,
    renormalize: tl.constexpr,
    block: tl.constexpr,
):
    """One token a program."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    place = tl.arange(0, places)
    values = tl.load(logits + token * stride + at, mask=at < experts, other=float("-inf"))
    values = values.to(tl.float32)
    chances = tl.exp(values - tl.max(values, axis=0))
    chances = chances / tl.sum(chances, axis=0)
    left = tl.where(at < experts, chances, -1.0)
    best_ids = tl.zeros((places,), dtype=tl.int32)
    best = tl.zeros((places,), dtype=tl.float32)
    for i in range(top_k):
        # Logits that are no numbers must not lead beyond the experts.
        chosen = tl.minimum(tl.argmax(left, axis=0), experts - 1)
        best = tl.where(place == i, tl.max(left, axis=0), best)
        best_ids = tl.where(place == i, chosen, best_ids)
        left = tl.where(at == chosen, -1.0, left)
    if renormalize:
        best = best / tl.sum(best, axis=0)
    tl.store(ids + token * top_k + place, best_ids, mask=place < top_k)
    tl.store(shares + token * top_k + place, best, mask=place < top_k)


@triton.jit(do_not_specialize=["pairs"])
def _count(ids, counts, pairs, block: tl.constexpr):
    """How many pairs go to the program's expert."""
    expert = tl.program_id(0)
    at = tl.arange(0, block)
    found = tl.zeros((block,), dtype=tl.int32)
    for start in range(0, pairs, block):
        id = tl.load(ids + start + at, mask=start + at < pairs, other=-1)
        found += (id == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(found, axis=0))


@triton.jit(do_not_specialize=["pairs"])
def _place(
    ids,
    counts,
    order,
    owners,
    used,
    pairs,
    count,
    rows: tl.constexpr,
    block: tl.constexpr,
    block_e: tl.constexpr,
):
    """Writes the tiles of the program's expert, which follow those of the experts before it."""
    expert = tl.program_id(0)
    others = tl.arange(0, block_e)
    tiles = tl.cdiv(tl.load(counts + others, mask=others < count, other=0), rows)
    before = tl.sum(tl.where(others < expert, tiles, 0), axis=0)
    if expert == 0:
        tl.store(used, tl.sum(tiles, axis=0))
    own = tl.load(counts + expert)
    if own > 0:
        own_tiles = tl.cdiv(own, rows)
        own_order = order + before * rows
        at = tl.arange(0, block)
        seen = 0
        for start in range(0, pairs, block):
            pair = start + at
            here = (tl.load(ids + pair, mask=pair < pairs, other=-1) == expert).to(tl.int32)
            tl.store(own_order + seen + tl.cumsum(here, axis=0) - 1, pair, mask=here != 0)
            seen += tl.sum(here, axis=0)
        padding = own + tl.arange(0, rows)
        tl.store(own_order + padding, padding * 0 + pairs, mask=padding < own_tiles * rows)
        for start in range(0, own_tiles, block):
            tile = start + at
            tl.store(owners + before + tile, tile * 0 + expert, mask=tile < own_tiles)


@triton.jit(do_not_specialize=["pairs"])
def _expert_product(
    x,
    x_scale,
    weight,
    scale,
    order,
    owners,
    used,
    out,
    pairs,
    n,
    k,
    x_stride,
    shared_by: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    even_k: tl.constexpr,
):
    """A tile of ``out`` (pairs, n), whose rows belong to one expert."""
    tiles_n = tl.cdiv(n, block_n)
    tiles = tl.load(used)
    if tl.program_id(0) >= tiles * tiles_n:
        return
    tile, tile_n = swizzled(tl.program_id(0), tiles, tiles_n, 8)
    expert = tl.load(owners + tile).to(tl.int64)
    pair = tl.load(order + tile * block_m + tl.arange(0, block_m)).to(tl.int64)
    real = pair < pairs
    row = pair // shared_by
    columns = (tile_n * block_n + tl.arange(0, block_n)).to(tl.int64)
    inside = columns < n
    total = multiplied(
        x + row[:, None] * x_stride, real[:, None],
        weight + (expert * n + columns[None, :]) * k, inside[None, :],
        0, k, block_m, block_n, block_k, even_k,
    )  # fmt: skip
    if scale is not None:
        total *= tl.load(scale + expert * n + columns, mask=inside, other=0.0)[None, :]
    if x_scale is not None:
        total *= tl.load(x_scale + row, mask=real, other=0.0)[:, None]
    at = out + pair[:, None] * n + columns[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def _add_up(parts, shares, out, hidden, top_k: tl.constexpr, block: tl.constexpr):
    """A piece of a token: its ``parts`` (T, top_k, hidden) by their shares."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < hidden
    total = tl.zeros((block,), dtype=tl.float32)
    for i in range(top_k):
        pair = token * top_k + i
        part = tl.load(parts + pair * hidden + columns, mask=inside, other=0.0).to(tl.float32)
        total += part * tl.load(shares + pair)
    tl.store(out + token * hidden + columns, total.to(out.dtype.element_ty), mask=inside)


def specializations() -> Iterator[Specialization]:
    """What the kernels here are compiled for, with bfloat16 activations."""
    sizes = {"pairs": "i32", "n": "i32", "k": "i32", "x_stride": "i32", "out": "*bf16"}
    numbers = dict.fromkeys(("order", "owners", "used"), "*i32")
    dense = sizes | numbers | {"x": "*bf16", "weight": "*bf16"}
    int8 = sizes | numbers | {"x": "*bf16", "weight": "*i8", "scale": "*fp32"}
    fp8 = sizes | numbers | {"x": "*fp8e4nv", "weight": "*fp8e4nv", "scale": "*fp32"}
    fp8["x_scale"] = "*fp32"
    for weight, signature, size in (("dense", dense, 2), ("int8", int8, 2), ("fp8", fp8, 1)):
        absent = dict.fromkeys({"scale", "x_scale"} - signature.keys())
        for tile in TILES[size]:
            yield Specialization(
                f"experts {weight} {tile.m}x{tile.n}x{tile.k}", _expert_product, signature,
                absent | {"shared_by": 8} | tile.constants(tile.k), tile.num_warps,
                tile.num_stages, True, ("n", "k", "x_stride"),
            )  # fmt: skip
    yield from _small()


def _small() -> Iterator[Specialization]:
    """Those without matrix products, for 8 of 128 experts."""
    signature = {"ids": "*i32", "counts": "*i32", "pairs": "i32"}
    for pairs in (256, 4096):
        block = _align_block(pairs)
        warps = block // 256
        yield Specialization(f"count {block}", _count, signature, {"block": block}, warps)
        yield Specialization(
            f"place {block}", _place,
            signature | {"count": "i32"} | dict.fromkeys(("order", "owners", "used"), "*i32"),
            {"rows": 16, "block": block, "block_e": 128}, warps, multiples_of_16=("count",),
        )  # fmt: skip
    constants = {"top_k": 8, "places": 8, "renormalize": True}
    for block in (128, 512):
        yield Specialization(
            f"route {block}", _route, {"logits": "*bf16", "ids": "*i32", "shares": "*fp32",
            "experts": "i32", "stride": "i32"}, constants | {"block": block},
            _route_warps(block), multiples_of_16=("experts", "stride"),
        )  # fmt: skip
    yield Specialization(
        "add_up", _add_up, {"parts": "*bf16", "shares": "*fp32", "out": "*bf16",
        "hidden": "i32"}, {"top_k": 8, "block": 512}, multiples_of_16=("hidden",),
    )  # fmt: skip
