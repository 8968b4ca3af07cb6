"""Matrix products with int8 and fp8 weights, against the same sums in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.triton_support import DEVICE, DTYPES, ON_GPU, needs_gpu, normal, torch

from calibration.kernels.api import Dense, Fp8, Int8  # isort: skip
from calibration.kernels.gpu import matmul  # isort: skip
from calibration.kernels.reference import to_fp8  # isort: skip

SHAPES = [(1, 64, 256), (3, 70, 100), (17, 130, 300), (33, 96, 136), (70, 200, 515), (5, 40, 2100)]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is no number."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> torch.Tensor:
        out = empty(*args, **options)
        return out.fill_(float("nan")) if out.is_floating_point() and out.itemsize > 1 else out

    monkeypatch.setattr(torch, "empty", poisoned)


def int8(n: int, k: int, seed: int, bias: torch.Tensor | None = None) -> Int8:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (n, k), generator=generator, dtype=torch.int8)
    scale = torch.rand(n, generator=generator) / 64 + 1e-3
    return Int8(weight.to(DEVICE), scale.to(DEVICE), bias)


def fp8(n: int, k: int, seed: int, bias: torch.Tensor | None = None) -> Fp8:
    weight, scale = to_fp8(normal(n, k, seed=seed))
    return Fp8(weight, scale.squeeze(1), bias)


def on_grid(m: int, k: int, seed: int) -> torch.Tensor:
    """Numbers that are e4m3 with a scale that is a power of two, float32: bringing them to fp8
    rounds nothing, which the interpreter does wrong."""
    generator = torch.Generator().manual_seed(seed)
    narrow = torch.randn(m, k, generator=generator).mul(40).to(torch.float8_e4m3fn).float()
    narrow[:, 0] = 448.0
    shift = torch.randint(-10, -4, (m, 1), generator=generator)
    return (narrow * torch.exp2(shift)).to(DEVICE)


def product(x: torch.Tensor, weights: Int8 | Fp8) -> torch.Tensor:
    """In float64."""
    wide = x.double() @ weights.weight.double().T * weights.scale.double()
    return wide if weights.bias is None else wide + weights.bias.double()


def assert_close(actual: torch.Tensor, x: torch.Tensor, weights: Int8 | Fp8) -> None:
    """Within the rounding of the result and of sums: in float32, which the fp8 matrix units of a
    GPU fall short of."""
    part = 5e-3 if ON_GPU and isinstance(weights, Fp8) else 4e-6
    expected = product(x, weights)
    sizes = x.double().abs() @ weights.weight.double().abs().T * weights.scale.double()
    margin = torch.finfo(actual.dtype).eps * expected.abs() + part * sizes
    assert actual.shape == expected.shape
    wrong = ~((actual.double() - expected).abs() <= margin)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_int8(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x = normal(m, k, seed=m, dtype=dtype)
    for bias in (None, normal(n, seed=3, dtype=dtype)):
        weights = int8(n, k, m + n, bias)
        out = matmul.linear(x, weights)
        assert out.dtype == dtype
        assert_close(out, x, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_fp8_of_inputs_that_are_fp8(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x = on_grid(m, k, seed=m).to(dtype)
    for bias in (None, normal(n, seed=3, dtype=dtype)):
        weights = fp8(n, k, m + n, bias)
        out = matmul.linear(x, weights)
        assert out.dtype == dtype
        assert_close(out, x, weights)


@pytest.mark.parametrize("make", [int8, fp8])
def test_every_tile(make: Callable[..., Int8 | Fp8], monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float16 if ON_GPU else torch.float32
    size = 1 if make is fp8 else 2
    weights = make(135, 140, 5, normal(135, seed=4, dtype=dtype))
    for tile in dict.fromkeys(matmul.FEW[size] + matmul.MANY[size]):
        monkeypatch.setattr(matmul, "plan", lambda *_, plan=(tile, 1): plan)
        x = on_grid(tile.m + 7, 140, seed=3).to(dtype)
        assert_close(matmul.linear(x, weights), x, weights)


@pytest.mark.parametrize("splits", [2, 3, 5])
def test_parts_of_the_depth(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = matmul.FEW[2][0]
    monkeypatch.setattr(matmul, "plan", lambda *_: (tile, splits))
    for k in (tile.k - 6, 2 * tile.k, 4 * tile.k + 2):
        x = normal(9, k, seed=3, dtype=torch.float16)
        weights = int8(70, k, 5, normal(70, seed=4, dtype=torch.float16))
        assert_close(matmul.linear(x, weights), x, weights)


def test_the_rows_of_inputs_may_be_apart() -> None:
    weights = int8(48, 80, 1)
    wide = normal(9, 200, seed=2)
    part = wide[:, 16:96]
    assert_close(matmul.linear(part, weights), part, weights)
    turned = normal(80, 9, seed=3).T
    assert_close(matmul.linear(turned, weights), turned, weights)
    parts = on_grid(9, 200, 4)[:, :80]
    narrow, scales = matmul.quantize(parts)
    assert narrow.is_contiguous()
    assert torch.equal(narrow.double() * scales.double().unsqueeze(1), parts.double())


def test_no_tokens() -> None:
    for weights in (int8(48, 80, 1), fp8(48, 80, 1)):
        assert matmul.linear(normal(0, 80, seed=1), weights).shape == (0, 48)


def test_dense_products_are_torchs() -> None:
    x, weight, bias = normal(3, 5, seed=1), normal(7, 5, seed=2), normal(7, seed=3)
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(matmul.linear(x, Dense(weight, bias)), expected)
    assert torch.equal(matmul.linear(x, Dense(weight)), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("width", [1, 100, 4096])
def test_quantize(width: int) -> None:
    x = normal(5, width, seed=width) if ON_GPU else on_grid(5, width, seed=width)
    x[2] = 0.0
    narrow, scales = matmul.quantize(x)
    # A GPU's torch divides by a number as it multiplies with its inverse, which rounds twice.
    expected, expected_scales = to_fp8(x.cpu())
    assert torch.equal(scales.cpu(), expected_scales.squeeze(1))
    assert torch.equal(narrow.cpu().float(), expected.float())


def test_fp8_is_refused_without_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = (8, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    said = "fp8 products need a GPU of compute capability 8.9 or higher"
    with pytest.raises(ValueError, match=said):
        matmul.check_fp8(torch.device("cuda"))
    matmul.check_fp8(torch.device("cpu"))
    capability = (8, 9)
    matmul.check_fp8(torch.device("cuda"))


@pytest.mark.parametrize("size", [1, 2])
def test_tiles_fit_the_number_of_tokens(size: int) -> None:
    for m in range(1, 65):
        tile, _ = matmul.plan(m, 4096, 4096, size)
        assert m <= tile.m < max(2 * m, 17)
    assert matmul.plan(65, 1024, 4096, size)[0].m == 64
    assert matmul.plan(8192, 4096, 4096, size)[0].m == 128
    for m in (1, 8, 64, 65, 8192):
        tile, splits = matmul.plan(m, 16384, 4096, size)
        assert splits == 1
        tile, splits = matmul.plan(m, 256, 8192, size)
        assert (splits > 1) == (m <= 64)
        assert splits * -(-256 // tile.n) <= matmul.SMS
        assert 8192 // splits >= matmul.MIN_STEPS * tile.k
    assert matmul.plan(3, 256, 8192, 4)[1] == 1


@needs_gpu
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("m", [1, 16, 31, 64, 65, 512, 2049])
    @pytest.mark.parametrize(("n", "k"), [(4096, 4096), (768, 8192), (6144, 1040)])
    def test_large(self, m: int, n: int, k: int, dtype: torch.dtype) -> None:
        x = normal(m, k, seed=m, dtype=dtype)
        weights = int8(n, k, 1, normal(n, seed=2, dtype=dtype))
        assert_close(matmul.linear(x, weights), x, weights)
        weights = fp8(n, k, 1, normal(n, seed=2, dtype=dtype))
        narrow, scales = to_fp8(x)
        expected = product(narrow.double() * scales.double(), weights)
        off = (matmul.linear(x, weights).double() - expected).abs()
        assert off.mean() < 5e-3 * expected.abs().mean()
        assert off.max() < 1e-2 * expected.abs().max()

    @pytest.mark.parametrize("make", [int8, fp8])
    @pytest.mark.parametrize("m", [4, 200])
    def test_captured(self, m: int, make: Callable[..., Int8 | Fp8]) -> None:
        weights = make(256, 4096, 1)
        x = normal(m, 4096, seed=1, dtype=torch.bfloat16)
        matmul.linear(x, weights)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = matmul.linear(x, weights)
        x.copy_(normal(m, 4096, seed=2, dtype=torch.bfloat16))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, matmul.linear(x, weights))
