"""Triton kernels in tests: on a GPU as they are, else interpreted on the CPU.

To be imported before any module with kernels: Triton looks at its environment when it sees them.
The interpreter's bfloat16 is not to be trusted; there the tests are of float16 and float32.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
pytest.importorskip("triton")

DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")

_MARGIN = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, margin: float | None = None) -> None:
    """As near as the type of ``actual`` allows; ``expected`` may be in a wider one."""
    margin = margin or _MARGIN[actual.dtype]
    assert actual.shape == expected.shape
    torch.testing.assert_close(
        actual.cpu().double(), expected.cpu().double(), atol=margin, rtol=margin
    )
