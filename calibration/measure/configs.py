"""Times every configuration of the attention kernels worth trying, for whoever sets their tables.

``python -m calibration.measure.configs`` prints them, the fastest first; it needs a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from calibration.measure.gpu import GraphTimer, Timer

_BLOCK = 16


class Timed(NamedTuple):
    """A kernel at a size with a configuration: seconds, and bytes or FLOPs a second."""

    kernel: str
    size: str
    config: str
    seconds: float
    rate: float


class Paged(NamedTuple):
    """Random keys and values of ``batch`` sequences of ``tokens``, in blocks dealt at random."""

    keys: Tensor
    values: Tensor
    tables: Tensor
    lengths: Tensor


def paged(batch: int, tokens: int, kv_heads: int, dim: int, device: torch.device) -> Paged:
    """A cache in bf16 (on a CPU, where it is for tests alone, in fp16)."""
    width = -(-tokens // _BLOCK)
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16
    shape = (batch * width, _BLOCK, kv_heads, dim)
    keys, values = (
        torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(2)
    )
    dealt = torch.randperm(batch * width, generator=generator, device=device)
    lengths = torch.full((batch,), tokens, dtype=torch.int32, device=device)
    return Paged(keys, values, dealt.view(batch, width).int(), lengths)


def decode_configs(
    timer: Timer, device: torch.device, batch: int, tokens: int, heads: int, kv_heads: int, dim: int
) -> Iterator[Timed]:
    """Decode attention with each configuration, as bytes of keys and values a second."""
    from calibration.kernels.gpu.decode_attention import CANDIDATES, decode_attention

    cache = paged(batch, tokens, kv_heads, dim, device)
    q = torch.randn(batch, heads, dim, device=device).to(cache.keys.dtype)
    moved = 2 * 2 * batch * tokens * kv_heads * dim
    for config in CANDIDATES:

        def work(config: object = config) -> Tensor:
            return decode_attention(
                q, *cache[:2], cache.tables, cache.lengths, dim**-0.5, 0, config
            )

        seconds = _median(timer, work)
        size = f"{batch} × {tokens}, {heads}/{kv_heads} heads of {dim}"
        yield Timed("decode", size, str(config), seconds, moved / seconds)


def prefill_configs(
    timer: Timer, device: torch.device, tokens: int, heads: int, kv_heads: int, dim: int
) -> Iterator[Timed]:
    """Prefill attention of one prompt with each configuration, as FLOPs a second."""
    from calibration.kernels.gpu.prefill_attention import CANDIDATES, prefill_attention

    cache = paged(1, tokens, kv_heads, dim, device)
    q = torch.randn(tokens, heads, dim, device=device).to(cache.keys.dtype)
    starts = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    flops = 4.0 * heads * dim * tokens * (tokens + 1) / 2
    for config in CANDIDATES:

        def work(config: object = config) -> Tensor:
            return prefill_attention(
                q, *cache[:2], cache.tables, starts, cache.lengths, tokens, dim**-0.5, 0, config
            )

        seconds = _median(timer, work)
        size = f"{tokens}, {heads}/{kv_heads} heads of {dim}"
        yield Timed("prefill", size, str(config), seconds, flops / seconds)


def _median(timer: Timer, work: Callable[[], Tensor]) -> float:
    """Seconds; infinitely many where a configuration does not fit the chip."""
    from triton.runtime.errors import OutOfResources

    try:
        return statistics.median(timer.seconds(work))
    except OutOfResources:
        return math.inf


def main() -> None:
    """Prints a table for the head shapes of Llama-3.1-8B and Qwen3-14B."""
    device, timer = torch.device("cuda"), GraphTimer()
    for heads, kv_heads in ((32, 8), (40, 8)):
        for batch, tokens in ((8, 4096), (32, 2048), (64, 4096), (1, 16384)):
            _show(decode_configs(timer, device, batch, tokens, heads, kv_heads, 128), 1e9, "GB/s")
        for tokens in (512, 4096, 8192):
            _show(prefill_configs(timer, device, tokens, heads, kv_heads, 128), 1e12, "TFLOP/s")


def _show(found: Iterator[Timed], unit: float, name: str) -> None:
    for each in sorted(found, key=lambda timed: timed.seconds):
        print(  # noqa: T201
            f"{each.kernel:8s}{each.size:34s}{each.seconds * 1e6:>10.1f} µs"
            f"{each.rate / unit:>9.1f} {name}  {each.config}"
        )


if __name__ == "__main__":
    main()
