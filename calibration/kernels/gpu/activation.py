"""The gated activation of a feed-forward block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.specialization import Specialization

_BLOCK = 1024


def silu_mul(x: Tensor) -> Tensor:
    """See ``Kernels.silu_mul``."""
    tokens, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((tokens, width), dtype=x.dtype, device=x.device)
    if tokens:
        _silu_mul[(tokens, triton.cdiv(width, _BLOCK))](
            x, out, x.stride(0), width, block=_BLOCK, num_warps=4
        )
    return out


def specializations() -> Iterator[Specialization]:
    """One: the width is no constant."""
    yield Specialization(
        "silu_mul",
        _silu_mul,
        {"x": "*bf16", "out": "*bf16", "stride": "i32", "width": "i32"},
        {"block": _BLOCK},
        multiples_of_16=("stride", "width"),
    )


@triton.jit
def _silu_mul(
    x,
    out,
    stride,
    width,
    block: tl.constexpr,
):
    """A piece of one token a program."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gate = tl.load(x + token * stride + columns, mask=inside, other=0.0)
    up = tl.load(x + token * stride + width + columns, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    gated = (wide * tl.sigmoid(wide)).to(gate.dtype)
    tl.store(out + token * width + columns, gated * up, mask=inside)
