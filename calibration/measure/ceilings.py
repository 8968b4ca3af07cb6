"""What the device reaches at best: copying memory, and a large matrix product in each format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from calibration.kernels.reference import to_fp8
from calibration.measure.rows import Row
from calibration.measure.stage import summary

_CPU_BYTES, _GPU_BYTES = 256 << 20, 4 << 30
_CPU_SIDE, _GPU_SIDE = 1536, 8192


def ceiling_rows(device: torch.device, formats: tuple[str, ...], rounds: int = 15) -> Iterator[Row]:
    """A copy, counting bytes read and written, and a product of square matrices of random numbers
    in each format that the device has units for."""
    yield _copy(device, rounds)
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    for name in formats:
        product = _product(name, side, device)
        if product is not None:
            kept = summary(_time(product, device, rounds), least=True)
            yield Row("ceiling", "gemm", *kept, activations=name, amount=2.0 * side**3)


def _copy(device: torch.device, rounds: int) -> Row:
    size = (_GPU_BYTES if device.type == "cuda" else _CPU_BYTES) // 2
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    seconds = _time(lambda: target.copy_(source), device, rounds)
    return Row("ceiling", "copy", *summary(seconds, least=True), amount=2.0 * size)


def _product(name: str, side: int, device: torch.device) -> Callable[[], object] | None:
    def drawn(dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(side, side, device=device).to(dtype)

    match name:
        case "bf16" | "fp16" | "fp32":
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
            a, b = drawn(dtype), drawn(dtype)
            return lambda: torch.mm(a, b)
        case "fp8" if device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 9):
            (a8, one), (b8, two) = to_fp8(drawn(torch.float32)), to_fp8(drawn(torch.float32))
            scales = one.contiguous(), two.reshape(1, -1).contiguous()
            return lambda: torch._scaled_mm(a8, b8.t(), *scales, out_dtype=torch.bfloat16)
        case _:
            return None


def _time(work: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    work()
    seconds = []
    for _ in range(rounds):
        if device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            for _ in range(3):
                work()
            ended.record()
            ended.synchronize()
            seconds.append(began.elapsed_time(ended) / 3e3)
        else:
            start = time.thread_time()
            work()
            seconds.append(time.thread_time() - start)
    return seconds
