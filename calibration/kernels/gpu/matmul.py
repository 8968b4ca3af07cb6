"""Matrix products: dense ones are cuBLAS', those with int8 and fp8 weights are ours.

A program computes one tile of the output. Tiles come from a table by the number of tokens: with few
of them the time is that of reading the weights, which wants many narrow tiles; with many it is that
of the matrix units, which wants large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.api import Dense, Fp8, Int8, Linear
from calibration.kernels.gpu.specialization import Specialization

SMS = 128
"""Programs that keep a large GPU busy. A constant, so that sums do not depend on the device."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows, columns and depth of a program's tile, and how it is compiled."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int

    def constants(self, k: int) -> dict[str, object]:
        """What kernels are compiled for, with inputs ``k`` wide."""
        return {
            "block_m": self.m,
            "block_n": self.n,
            "block_k": self.k,
            "even_k": k % self.k == 0,
        }


FEW = {
    1: (Tile(16, 32, 256, 4, 5), Tile(32, 32, 256, 4, 5), Tile(64, 64, 128, 4, 5)),
    2: (Tile(16, 32, 256, 4, 5), Tile(32, 32, 256, 4, 4), Tile(64, 64, 128, 4, 4)),
    4: (),
}
"""Tiles for no more tokens than they have rows, by the bytes of an input."""
MANY = {
    1: (Tile(128, 128, 128, 8, 4), Tile(64, 128, 128, 4, 4), Tile(64, 64, 128, 4, 5)),
    2: (Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 4), Tile(64, 64, 128, 4, 4)),
    4: (Tile(32, 32, 32, 4, 2),),
}
"""For more tokens: the first of which there are enough, else the last. float32 is for checks, as
matrix units would round it."""
MIN_STEPS = 4
"""Fewest steps of block_k that a part of a product's depth is worth."""


def linear(x: Tensor, weights: Linear) -> Tensor:
    """See ``Kernels.linear``.

    Raises:
        ValueError: fp8 on a GPU without fp8 matrix units.
    """
    match weights:
        case Dense(weight, bias):
            return torch.nn.functional.linear(x, weight, bias)
        case Int8(weight, scale, bias):
            return _linear(x, None, weight, scale, bias, x.dtype)
        case Fp8(weight, scale, bias):
            narrow, share = quantize(x)
            return _linear(narrow, share, weight, scale, bias, x.dtype)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of ``x`` (T, k) in e4m3, contiguous, and their scales (T) float32.

    Raises:
        ValueError: on a GPU without fp8 matrix units.
    """
    check_fp8(x.device)
    x = with_dense_rows(x)
    rows, width = x.shape
    narrow = torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    if rows:
        _quantize[(rows,)](
            x, narrow, scales, width, x.stride(0), block=block, num_warps=_row_warps(block)
        )
    return narrow, scales


def check_fp8(device: torch.device) -> None:
    """Raises ValueError on a GPU without fp8 matrix units."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError("fp8 products need a GPU of compute capability 8.9 or higher")


def with_dense_rows(x: Tensor) -> Tensor:
    """``x``, or a copy of it if a row's elements are apart."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _row_warps(block: int) -> int:
    return min(16, max(1, block // 512))


def _linear(
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    x = with_dense_rows(x)
    m, k = x.shape
    n = len(weight)
    if not m:
        return torch.empty((m, n), dtype=dtype, device=x.device)
    tile, splits = plan(m, n, k, x.element_size())
    programs = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    out = torch.empty((m, n), dtype=dtype, device=x.device)
    parts = out
    if splits > 1:
        parts = torch.empty((splits, m, n), dtype=torch.float32, device=x.device)
    _product[(programs, splits)](
        x, x_scale, weight, scale, bias if splits == 1 else None, parts, m, n, k, x.stride(0),
        **tile.constants(k), num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if splits > 1:
        _combine[(m, triton.cdiv(n, 512))](parts, bias, out, m, n, splits, block=512, num_warps=4)
    return out


def plan(m: int, n: int, k: int, element_bytes: int) -> tuple[Tile, int]:
    """The tile, and over how many programs the depth is split, of a product with inputs of
    ``element_bytes``. Only products of few tokens are split, where the weights are most of what is
    moved, and only such that have too few columns to keep the GPU busy."""
    for tile in FEW[element_bytes]:
        if m <= tile.m:
            programs, splits = triton.cdiv(n, tile.n), 1
            while programs * splits * 2 <= SMS and k >= splits * 2 * MIN_STEPS * tile.k:
                splits *= 2
            return tile, splits
    choices = MANY[element_bytes]
    for tile in choices:
        if triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n) >= SMS:
            return tile, 1
    return choices[-1], 1


@triton.jit
def swizzled(program, tiles_m, tiles_n, group_rows: tl.constexpr):
    """Row and column of a program's tile. Programs that run at a time share ``group_rows`` rows of
    tiles, so that the inputs and weights they read stay in the L2 cache."""
    group = program // (group_rows * tiles_n)
    first = group * group_rows
    rows = tl.minimum(tiles_m - first, group_rows)
    inside = program - group * group_rows * tiles_n
    return first + inside % rows, inside // rows


@triton.jit
def multiplied(
    x_at,
    x_mask,
    weight_at,
    weight_mask,
    first,
    last,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    even_k: tl.constexpr,
):
    """The product of a tile over the depth from ``first`` to ``last``, float32 (block_m, block_n).

    ``x_at`` (block_m, 1) and ``weight_at`` (1, block_n) point to the starts of rows, where the
    masks, of the same shapes, are true. int8 weights take the type of the inputs.
    """
    # The matrix units of sm_90 keep fp8 sums in fewer bits than float32: they are added up in
    # registers after each block_k.
    precise: tl.constexpr = block_k if x_at.dtype.element_ty.is_fp8() else 0
    depth = tl.arange(0, block_k)
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(first, last, block_k):
        at = start + depth
        if even_k:
            a = tl.load(x_at + at[None, :], mask=x_mask, other=0.0)
            b = tl.load(weight_at + at[:, None], mask=weight_mask, other=0.0)
        else:
            inside = at < last
            a = tl.load(x_at + at[None, :], mask=x_mask & inside[None, :], other=0.0)
            b = tl.load(weight_at + at[:, None], mask=weight_mask & inside[:, None], other=0.0)
        total = tl.dot(
            a, b.to(a.dtype), total, input_precision="ieee", max_num_imprecise_acc=precise
        )
    return total


@triton.jit(do_not_specialize=["m"])
def _product(
    x,
    x_scale,
    weight,
    scale,
    bias,
    out,
    m,
    n,
    k,
    x_stride,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    even_k: tl.constexpr,
):
    """A tile of ``out`` (splits, m, n), from the second axis of the grid's share of the depth."""
    tile_m, tile_n = swizzled(tl.program_id(0), tl.cdiv(m, block_m), tl.cdiv(n, block_n), 8)
    rows = (tile_m * block_m + tl.arange(0, block_m)).to(tl.int64)
    columns = (tile_n * block_n + tl.arange(0, block_n)).to(tl.int64)
    split = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(k, block_k), tl.num_programs(1)) * block_k
    first = split * share
    total = multiplied(
        x + rows[:, None] * x_stride, rows[:, None] < m,
        weight + columns[None, :] * k, columns[None, :] < n,
        first, tl.minimum(first + share, k),
        block_m, block_n, block_k, even_k,
    )  # fmt: skip
    total *= tl.load(scale + columns, mask=columns < n, other=0.0)[None, :]
    if x_scale is not None:
        total *= tl.load(x_scale + rows, mask=rows < m, other=0.0)[:, None]
    if bias is not None:
        total += tl.load(bias + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
    at = out + (split.to(tl.int64) * m + rows[:, None]) * n + columns[None, :]
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["m", "splits"])
def _combine(parts, bias, out, m, n, splits, block: tl.constexpr):
    """A part of a row of ``out`` (m, n): the sum of ``parts`` (splits, m, n)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < n
    total = tl.zeros((block,), dtype=tl.float32)
    for split in range(splits):
        total += tl.load(parts + (split * m + row) * n + columns, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * n + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _quantize(x, narrow, scales, width, x_stride, block: tl.constexpr):
    """A row of ``narrow`` (rows, width) in e4m3, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(values), axis=0), 1e-12), 448.0)
    tl.store(scales + row, scale)
    stored = tl.div_rn(values, scale).to(narrow.dtype.element_ty)
    tl.store(narrow + row * width + columns, stored, mask=inside)


def specializations() -> Iterator[Specialization]:
    """What the kernels here are compiled for, with bfloat16 activations."""
    sizes = {"m": "i32", "n": "i32", "k": "i32", "x_stride": "i32"}
    pointers = {"scale": "*fp32", "out": "*bf16"}
    int8 = sizes | pointers | {"x": "*bf16", "weight": "*i8"}
    fp8 = sizes | pointers | {"x": "*fp8e4nv", "weight": "*fp8e4nv", "x_scale": "*fp32"}
    none = {"bias": None, "x_scale": None}
    for weight, signature, size in (("int8", int8, 2), ("fp8", fp8, 1)):
        constants = {name: value for name, value in none.items() if name not in signature}
        for tile in dict.fromkeys(FEW[size] + MANY[size][::-1]):
            yield Specialization(
                f"product {weight} {tile.m}x{tile.n}x{tile.k}", _product, signature,
                constants | tile.constants(tile.k), tile.num_warps, tile.num_stages, True,
                ("n", "k", "x_stride"),
            )  # fmt: skip
    signature = {"parts": "*fp32", "bias": "*bf16", "out": "*bf16"}
    signature |= dict.fromkeys(("m", "n", "splits"), "i32")
    yield Specialization("combine", _combine, signature, {"block": 512}, multiples_of_16=("n",))
    signature = {"x": "*bf16", "narrow": "*fp8e4nv", "scales": "*fp32"}
    signature |= dict.fromkeys(("width", "x_stride"), "i32")
    for block in (4096, 16384):
        yield Specialization(
            f"quantize {block}", _quantize, signature, {"block": block}, _row_warps(block),
            multiples_of_16=("width", "x_stride"),
        )  # fmt: skip
