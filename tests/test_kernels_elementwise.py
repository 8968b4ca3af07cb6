"""Norms, rotary embedding, activation and sampling against plain torch."""

from __future__ import annotations

import pytest
from scipy.stats import chisquare

from tests.triton_support import DEVICE, DTYPES, ON_GPU, assert_near, needs_gpu, normal, torch

import triton  # isort: skip
import triton.language as tl  # isort: skip

from calibration.kernels.gpu import activation, norms, rotary, sampling  # isort: skip
from calibration.kernels.reference import TorchKernels  # isort: skip

FP8 = torch.float8_e4m3fn
EPS = 1e-3  # large enough to be missed


def wide(tensor):
    return tensor.cpu().double()


def double_norm(x, weight):
    """In float64 throughout; the reference's own sums are float32."""
    x = wide(x)
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * wide(weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 96, 5120])
def test_rms_norm(dtype, width):
    x = 0.1 * normal(3, width + 16, seed=1, dtype=dtype)[:, 16:]
    weight = normal(width, seed=2, dtype=dtype)
    out = norms.rms_norm(x, weight, EPS)
    assert out.dtype == dtype
    assert out.is_contiguous()
    assert_near(out, double_norm(x, weight))


def test_rms_norm_rounds_before_the_weight_as_the_reference_does():
    x = normal(8, 256, seed=1, dtype=torch.float16)
    weight = normal(256, seed=2, dtype=torch.float16)
    expected = TorchKernels().rms_norm(x, weight, EPS)
    # The sums' order may move a number by one step, which is rare.
    assert (norms.rms_norm(x, weight, EPS) == expected).float().mean() > 0.995


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm(dtype):
    x, residual = (normal(5, 200, seed=seed, dtype=dtype) for seed in (1, 2))
    weight = normal(200, seed=3, dtype=dtype)
    total = residual + x
    out = norms.add_rms_norm(x, residual, weight, EPS)
    torch.testing.assert_close(residual, total, rtol=0, atol=0)
    assert_near(out, double_norm(total, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 32), (20, 4, 64), (3, 1, 80)])
def test_qk_norm(dtype, heads, kv_heads, dim):
    qkv = 0.1 * normal(3, (heads + 2 * kv_heads) * dim, seed=1, dtype=dtype)
    q_weight, k_weight = (normal(dim, seed=seed, dtype=dtype) for seed in (2, 3))
    before = qkv.view(3, -1, dim).clone()
    norms.qk_norm(qkv, heads, kv_heads, q_weight, k_weight, EPS)
    after = qkv.view(3, -1, dim)
    assert_near(after[:, :heads], double_norm(before[:, :heads], q_weight))
    keys = slice(heads, heads + kv_heads)
    assert_near(after[:, keys], double_norm(before[:, keys], k_weight))
    assert torch.equal(after[:, keys.stop :], before[:, keys.stop :])


def turn(dtype, *, kept=None, heads=6, kv_heads=2, dim=32, block_size=16):
    """Kernel and reference on the same numbers.

    Returns:
        For both, the products after it, and the caches that held NaN before.
    """
    tokens = 9
    blocks = 4
    qkv = normal(tokens, (heads + 2 * kv_heads) * dim, seed=1, dtype=dtype)
    positions = torch.tensor([0, 1, 7, 30, 2, 2, 3, 99, 50], device=DEVICE)
    angles = wide(positions.new_tensor(range(100))).unsqueeze(1) * torch.logspace(0, -3, dim // 2)
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1).float().to(DEVICE)
    generator = torch.Generator().manual_seed(3)
    slots = torch.randperm(blocks * block_size, generator=generator)[:tokens]
    slots[[2, 6]] = -1
    results = []
    for kernels, products in ((rotary, qkv), (TorchKernels(), wide(qkv))):
        shape = (blocks, block_size, kv_heads, dim)
        narrow = kept or products.dtype
        caches = [torch.full(shape, float("nan"), device=products.device) for _ in range(2)]
        caches = [cache.to(narrow) for cache in caches]
        here = (part.to(products.device) for part in (cos_sin, positions, slots))
        kernels.rope_kv_write(products, heads, kv_heads, *here, *caches)
        results.append((products, *caches))
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 80, 128])
def test_rotation_and_write(dtype, dim):
    actual, expected = turn(dtype, dim=dim)
    assert_near(actual[0], expected[0])
    for new, due in zip(actual[1:], expected[1:], strict=True):
        assert torch.equal(new.isnan().cpu(), due.isnan())
        assert 0 < new.isnan().sum() < new.numel()
        assert_near(new.nan_to_num(), due.nan_to_num())


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (5, 1), (14, 2), (4, 4)])
def test_rotation_of_many_heads(heads, kv_heads):
    actual, expected = turn(torch.float32, heads=heads, kv_heads=kv_heads, block_size=8)
    for new, due in zip(actual, expected, strict=True):
        assert_near(new.nan_to_num(), due.nan_to_num())


def test_write_to_an_fp8_cache():
    actual, expected = turn(torch.float16, kept=FP8)
    for new, due in zip(actual[1:], expected[1:], strict=True):
        new, due = new.cpu().float(), due.float()
        assert torch.equal(new.isnan(), due.isnan())
        new, due = new.nan_to_num(), due.nan_to_num()
        # Rounding to 16 bits first may move a number to the next one of 8; and the interpreter
        # halves those that are rounded up to a power of two.
        assert (new == due).float().mean() > 0.99
        near = torch.isclose(new, due, rtol=0.13, atol=0.002)
        assert (near if ON_GPU else near | (new == due / 2)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 1024, 1500])
def test_silu_mul(dtype, width):
    x = 3 * normal(4, 2 * width, seed=1, dtype=dtype)
    out = activation.silu_mul(x)
    assert out.dtype == dtype
    gate, up = wide(x).chunk(2, dim=-1)
    assert_near(out, gate / (1 + (-gate).exp()) * up)


DRAWS = 100_000 if ON_GPU else 250
"""Interpreted, a draw takes 10 ms."""


def at(step):
    return torch.tensor([step], device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [5, 4096, 9001])
def test_greedy_takes_the_largest(dtype, vocabulary):
    logits = normal(6, vocabulary + 7, seed=1, dtype=dtype)[:, :vocabulary] - 5
    chosen = sampling.sample(logits, 0.0, 3, at(0))
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen.cpu(), logits.cpu().argmax(-1))


@pytest.mark.parametrize("columns", [(8000, 3), (4095, 4096), (1023, 1025), (2, 1, 7000, 1000)])
def test_greedy_takes_the_first_of_equals(columns):
    logits = torch.full((2, 8192), -1.0, device=DEVICE)
    logits[:, list(columns)] = 2.0
    assert sampling.sample(logits, 0.0, 3, at(0)).tolist() == [min(columns)] * 2


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_logits_that_are_no_numbers_give_a_token():
    logits = torch.full((1, 5000), float("nan"), device=DEVICE)
    for temperature in (0.0, 1.0):
        assert 0 <= sampling.sample(logits, temperature, 3, at(0)).item() < 5000


def misfit(draws, logits, temperature):
    """Probability of counts as far off as those of ``draws``, by a chi-square test."""
    counts = torch.bincount(draws.cpu(), minlength=len(logits)).double()
    expected = len(draws) * (logits.double() / temperature).softmax(-1)
    return chisquare(counts.numpy(), expected.numpy()).pvalue


def test_draws_follow_the_softmax(monkeypatch):
    # Two tiles of 8.
    monkeypatch.setattr(sampling, "_PART", 2)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    logits = torch.linspace(0, 4, 14)[order]
    draws = sampling.sample(logits.to(DEVICE).expand(DRAWS, 14), 2.0, 5, at(0))
    assert misfit(draws, logits, 2.0) > 1e-3
    # So many draws tell another temperature.
    assert misfit(draws, logits, 1.0) < 1e-6


@triton.jit
def exponentials(words, out, count: tl.constexpr):
    index = tl.arange(0, count)
    word = tl.load(words + index).to(tl.uint32, bitcast=True)
    tl.store(out + index, sampling._exponential(word))


def test_noise_is_exact_where_it_is_small():
    edges = torch.tensor([0, 1, 2, 3, 1000, 42_949_671, 42_949_673, 2**32 - 1])
    words = torch.cat((edges, 2 ** torch.linspace(1, 32, 120).double())).long().clamp_max(2**32 - 1)
    out = torch.empty(128, device=DEVICE)
    exponentials[(1,)](words.to(torch.int32).to(DEVICE), out, 128)
    uniform = ((words >> 1).double() + 0.5) / 2**31
    expected = -torch.log1p(-uniform)
    common = uniform < 0.999
    torch.testing.assert_close(wide(out)[common], expected[common], rtol=1e-4, atol=0)
    assert (wide(out)[~common] > 6.9).all()
    assert out.isfinite().all()


def test_draws_of_steps_and_rows_differ_and_repeat():
    rows = torch.zeros(12, 3000, device=DEVICE)
    seen = {
        (seed, step): tuple(sampling.sample(rows, 1.0, seed, at(step)).tolist())
        for seed in (1, 2, 2**40)
        for step in (0, 1, 2**31, 2**40)
    }
    assert len(set(seen.values())) == len(seen)
    assert all(len(set(draws)) > 9 for draws in seen.values())
    again = sampling.sample(rows, 1.0, 2, at(2**31))
    assert tuple(again.tolist()) == seen[2, 2**31]


def test_draws_of_steps_are_independent(monkeypatch):
    monkeypatch.setattr(sampling, "_PART", 1)
    rows = torch.zeros(DRAWS, 4, device=DEVICE)
    now, then = (sampling.sample(rows, 1.0, 7, at(step)) for step in (10, 11))
    assert misfit(4 * now + then, torch.zeros(16), 1.0) > 1e-3


def test_empty_steps():
    nothing = torch.empty(0, 64, device=DEVICE)
    weight = torch.ones(64, device=DEVICE)
    assert norms.rms_norm(nothing, weight, EPS).shape == (0, 64)
    assert norms.add_rms_norm(nothing, nothing, weight, EPS).shape == (0, 64)
    assert activation.silu_mul(nothing).shape == (0, 32)
    assert sampling.sample(nothing, 0.0, 1, at(0)).shape == (0,)


@needs_gpu
class TestOnGpu:
    def test_draws_of_a_whole_vocabulary(self):
        logits = torch.full((2048, 150_000), -float("inf"), device=DEVICE)
        places = [0, 1, 1024, 4095, 4096, 77_777, 149_999]
        some = normal(len(places), seed=1)
        logits[:, places] = some
        draws = torch.cat([sampling.sample(logits, 0.8, 5, at(step)) for step in range(50)])
        index = torch.searchsorted(torch.tensor(places, device=DEVICE), draws)
        assert misfit(index, some.cpu(), 0.8) > 1e-3

    def test_captured_draws_follow_the_step(self):
        rows = torch.zeros(64, 3000, device=DEVICE)
        step = at(0)
        sampling.sample(rows, 1.0, 1, step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = sampling.sample(rows, 1.0, 1, step)
        for number in (3, 4):
            step.fill_(number)
            graph.replay()
            assert torch.equal(out, sampling.sample(rows, 1.0, 1, at(number)))

    @pytest.mark.parametrize("width", [4096, 8192, 16384])
    def test_large_norms(self, width):
        x = normal(300, width, seed=1, dtype=torch.bfloat16)
        weight = normal(width, seed=2, dtype=torch.bfloat16)
        assert_near(norms.rms_norm(x, weight, EPS), double_norm(x, weight))

    def test_writes_behind_2_to_the_31_numbers(self):
        shape = (2**17 + 1, 16, 8, 128)
        cache = torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
        qkv = normal(1, 24 * 128, seed=1, dtype=torch.bfloat16)
        cos_sin = torch.ones(1, 128, device=DEVICE)
        slot = at(shape[0] * 16 - 1)
        rotary.rope_kv_write(qkv, 8, 8, cos_sin, at(0), slot, cache, cache)
        assert (cache[-1, -1] != 0).any()
        assert (cache[0] == 0).all()
