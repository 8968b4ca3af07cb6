"""RMS norms: of hidden states, with a residual, and of query and key heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.specialization import Specialization

_HEADS = 16
"""Heads of one token that a program norms together."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``Kernels.rms_norm``."""
    tokens, width = x.shape
    out = torch.empty((tokens, width), dtype=x.dtype, device=x.device)
    if tokens:
        block = triton.next_power_of_2(width)
        _rms_norm[(tokens,)](
            x, weight, out, x.stride(0), eps, width=width, block=block, num_warps=_warps(block)
        )
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``Kernels.add_rms_norm``."""
    tokens, width = x.shape
    out = torch.empty((tokens, width), dtype=residual.dtype, device=x.device)
    if tokens:
        block = triton.next_power_of_2(width)
        _add_rms_norm[(tokens,)](
            x, residual, weight, out, x.stride(0), residual.stride(0), eps,
            width=width, block=block, num_warps=_warps(block),
        )  # fmt: skip
    return out


def qk_norm(
    qkv: Tensor, heads: int, kv_heads: int, q_weight: Tensor, k_weight: Tensor, eps: float
) -> None:
    """See ``Kernels.qk_norm``."""
    dim = q_weight.shape[0]
    if len(qkv):
        _qk_norm[(len(qkv), triton.cdiv(heads + kv_heads, _HEADS))](
            qkv, q_weight, k_weight, qkv.stride(0), heads, heads + kv_heads, eps,
            dim=dim, block=triton.next_power_of_2(dim), rows=_HEADS, num_warps=4,
        )  # fmt: skip


def specializations() -> Iterator[Specialization]:
    """Hidden widths of a power of two and not, heads of 128 and 64."""
    for width in (4096, 5120):
        block = triton.next_power_of_2(width)
        constants = {"width": width, "block": block}
        signature = {"x": "*bf16", "weight": "*bf16", "out": "*bf16", "x_stride": "i32"}
        yield Specialization(
            f"rms_norm {width}",
            _rms_norm,
            signature | {"eps": "fp32"},
            constants,
            num_warps=_warps(block),
            multiples_of_16=("x_stride",),
        )
        yield Specialization(
            f"add_rms_norm {width}",
            _add_rms_norm,
            signature | {"residual": "*bf16", "residual_stride": "i32", "eps": "fp32"},
            constants,
            num_warps=_warps(block),
            multiples_of_16=("x_stride", "residual_stride"),
        )
    for dim in (64, 128):
        pointers = dict.fromkeys(("qkv", "q_weight", "k_weight"), "*bf16")
        integers = dict.fromkeys(("stride", "heads", "normed"), "i32")
        yield Specialization(
            f"qk_norm {dim}",
            _qk_norm,
            pointers | integers | {"eps": "fp32"},
            {"dim": dim, "block": dim, "rows": _HEADS},
            multiples_of_16=("stride",),
        )


def _warps(block: int) -> int:
    # Sixteen numbers a thread, which are two loads of 16 bytes.
    return min(16, max(1, block // 512))


@triton.jit
def _rms_norm(
    x,
    weight,
    out,
    x_stride,
    eps,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """One token a program."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    row = tl.load(x + token * x_stride + columns, mask=inside, other=0.0)
    wide = row.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    normed = (wide * factor).to(row.dtype)
    scaled = normed * tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + token * width + columns, scaled, mask=inside)


@triton.jit
def _add_rms_norm(
    x,
    residual,
    weight,
    out,
    x_stride,
    residual_stride,
    eps,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """One token a program."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    place = residual + token * residual_stride + columns
    old = tl.load(place, mask=inside, other=0.0)
    new = tl.load(x + token * x_stride + columns, mask=inside, other=0.0)
    row = (old.to(tl.float32) + new.to(tl.float32)).to(old.dtype)
    tl.store(place, row, mask=inside)
    wide = row.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    normed = (wide * factor).to(row.dtype)
    scaled = normed * tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + token * width + columns, scaled, mask=inside)


@triton.jit
def _qk_norm(
    qkv,
    q_weight,
    k_weight,
    stride,
    heads,
    normed,
    eps,
    dim: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """``rows`` of the first ``normed`` heads of one token a program."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * rows + tl.arange(0, rows)
    columns = tl.arange(0, block)
    inside = (head < normed)[:, None] & (columns < dim)[None, :]
    place = qkv + token * stride + head[:, None] * dim + columns[None, :]
    row = tl.load(place, mask=inside, other=0.0)
    wide = row.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=1) / dim + eps)
    result = (wide * factor[:, None]).to(row.dtype)
    of_queries = tl.load(q_weight + columns, mask=columns < dim, other=0.0)
    of_keys = tl.load(k_weight + columns, mask=columns < dim, other=0.0)
    weight = tl.where((head < heads)[:, None], of_queries[None, :], of_keys[None, :])
    tl.store(place, result * weight, mask=inside)
