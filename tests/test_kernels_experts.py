"""Routed experts: the choice, the sorting, and the products, against plain torch."""

from __future__ import annotations

import itertools

import pytest

from tests.triton_support import DEVICE, DTYPES, ON_GPU, assert_near, needs_gpu, normal, torch

from calibration.kernels.api import ExpertWeights  # isort: skip
from calibration.kernels.gpu import experts  # isort: skip
from calibration.kernels.reference import TorchKernels, to_fp8  # isort: skip

REFERENCE = TorchKernels()
NAN = float("nan")


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is no number, or one beyond all tiles."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> torch.Tensor:
        out = empty(*args, **options)
        if out.is_floating_point():
            return out.fill_(NAN) if out.itemsize > 1 else out
        return out.fill_(torch.iinfo(out.dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)


def distinct(tokens: int, count: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits of which no two of a token are equal, in any type."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(count, generator=generator) for _ in range(tokens)])
    return ((order - count // 2) / 32).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("count", [1, 5, 8, 60, 128, 256])
def test_route(count: int, renormalize: bool, dtype: torch.dtype) -> None:
    logits = distinct(7, count, count, dtype)
    for top_k in {1, 2, 3, 8}:
        if top_k > count:
            continue
        ids, shares = experts.route(logits, top_k, renormalize=renormalize)
        expected_ids, expected = REFERENCE.route(logits, top_k, renormalize=renormalize)
        assert ids.dtype == torch.int32
        assert torch.equal(ids, expected_ids)
        assert_near(shares, expected, 2e-6)


def test_route_of_the_most_experts() -> None:
    logits = distinct(3, 512, 1, torch.float32)
    ids, shares = experts.route(logits, 8, renormalize=False)
    expected_ids, expected = REFERENCE.route(logits, 8, renormalize=False)
    assert torch.equal(ids, expected_ids)
    assert_near(shares, expected, 2e-6)


def test_equal_logits_and_rows_apart() -> None:
    logits = torch.zeros(4, 20, device=DEVICE)[:, :6]
    ids, shares = experts.route(logits, 3, renormalize=False)
    assert ids.tolist() == [[0, 1, 2]] * 4
    assert_near(shares, torch.full((4, 3), 1 / 6))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_logits_that_are_no_numbers_lead_to_an_expert() -> None:
    for bad in (NAN, float("inf"), float("-inf")):
        ids, _ = experts.route(torch.full((2, 6), bad, device=DEVICE), 2, renormalize=True)
        assert ((ids >= 0) & (ids < 6)).all()


def choices(tokens: int, count: int, top_k: int, seed: int, skew: float = 1.0) -> torch.Tensor:
    """Experts of tokens, different ones for each; the first ones are popular if ``skew`` > 1."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.arange(1, count + 1, dtype=torch.float32).pow(-skew)
    return torch.multinomial(chances.expand(tokens, -1), top_k, generator=generator).int()


ROUTINGS = {
    "one token": choices(1, 8, 2, 1),
    "even": choices(40, 8, 2, 2, 0.0),
    "skewed": choices(70, 10, 3, 3, 2.0),
    "all experts": choices(17, 8, 8, 4),
    "to one": torch.full((37, 1), 5, dtype=torch.int32),
    "to the last and the first": torch.tensor([[7, 0]] * 33, dtype=torch.int32),
    "more experts than pairs": choices(3, 64, 2, 5, 0.0),
    "several blocks": choices(140, 3, 2, 6),
}


@pytest.mark.parametrize("rows", [16, 64, 128])
@pytest.mark.parametrize("name", ROUTINGS)
def test_align(name: str, rows: int) -> None:
    ids = ROUTINGS[name]
    count = max(8, int(ids.max()) + 1)
    pairs = ids.numel()
    found = experts.align(ids.to(DEVICE), count, rows)
    used = int(found.used)
    of = torch.bincount(ids.flatten(), minlength=count)
    assert used == int((-(-of // rows)).sum()) <= len(found.owners)
    order = found.order.view(-1, rows)[:used].cpu()
    real = order < pairs
    assert (order[~real] == pairs).all()
    assert order[real].sort().values.tolist() == list(range(pairs))
    owners = found.owners[:used].cpu()
    assert owners.tolist() == sorted(owners.tolist())
    assert (ids.flatten()[order.clamp_max(pairs - 1)] == owners.unsqueeze(1))[real].all()
    again = experts.align(ids.to(DEVICE), count, rows)
    assert torch.equal(again.order[: used * rows], found.order[: used * rows])


def test_the_number_of_pairs_that_fill_a_block() -> None:
    for pairs in (255, 256, 257, 2048, 2049):
        ids = (torch.arange(pairs, dtype=torch.int32) % 3).view(-1, 1).to(DEVICE)
        found = experts.align(ids, 4, 16)
        order = found.order[: int(found.used) * 16].cpu()
        expected = [list(range(first, pairs, 3)) for first in range(3)]
        padded = [part + [pairs] * (-len(part) % 16) for part in expected]
        assert order.tolist() == [pair for part in padded for pair in part]


def test_most_tiles_is_the_most() -> None:
    for count in range(1, 5):
        worst = [0] * 13
        for of in itertools.product(range(13), repeat=count):
            if sum(of) < 13:
                worst[sum(of)] = max(worst[sum(of)], sum(-(-pairs // 4) for pairs in of))
        assert [experts.most_tiles(pairs, count, 4) for pairs in range(13)] == worst
    assert experts.most_tiles(2, 128, 16) == 2
    assert experts.most_tiles(16, 128, 16) == 16


def weights(
    count: int, hidden: int, width: int, dtype: torch.dtype, kind: str = "dense"
) -> ExpertWeights:
    gate_up = normal(count, 2 * width, hidden, seed=1) / hidden**0.5
    down = normal(count, hidden, width, seed=2) / width**0.5
    if kind == "dense":
        return ExpertWeights(gate_up.to(dtype), down.to(dtype))
    if kind == "fp8":
        (gate_up, gate_up_scale), (down, down_scale) = to_fp8(gate_up), to_fp8(down)
        return ExpertWeights(gate_up, down, gate_up_scale.squeeze(2), down_scale.squeeze(2))
    scales = [part.abs().amax(-1, keepdim=True) / 127 for part in (gate_up, down)]
    gate_up, down = (
        (part / scale).round().to(torch.int8)
        for part, scale in zip((gate_up, down), scales, strict=True)
    )
    return ExpertWeights(gate_up, down, *(scale.squeeze(2) for scale in scales))


def shares_of(ids: torch.Tensor) -> torch.Tensor:
    return normal(*ids.shape, seed=9).softmax(-1)


def wide(given: ExpertWeights) -> ExpertWeights:
    """The weights as the reference takes them for float32 inputs."""
    if given.gate_up_scale is None:
        return ExpertWeights(given.gate_up.float(), given.down.float())
    return given


def exact_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted kernels do not round to fp8 as they should: plain torch does it for them."""
    if not ON_GPU:

        def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            narrow, scale = to_fp8(x)
            return narrow, scale.squeeze(1)

        monkeypatch.setattr(experts, "quantize", quantize)


def assert_near_fp8(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """A last bit of the first product turns some numbers to their neighbours in fp8."""
    size = expected.float().abs()
    off = (actual.float() - expected.float()).abs()
    assert off.mean() < 1e-2 * size.mean()
    assert off.max() < 0.2 * size.max()


MARGINS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["dense", "int8"])
@pytest.mark.parametrize("name", ROUTINGS)
def test_experts(name: str, kind: str, dtype: torch.dtype) -> None:
    ids = ROUTINGS[name].to(DEVICE)
    count = max(8, int(ids.max()) + 1)
    x = normal(len(ids), 40, seed=3, dtype=dtype)
    given = weights(count, 40, 36, dtype, kind)
    out = experts.experts(x, ids, shares_of(ids), given)
    assert out.dtype == dtype
    assert_near(out, REFERENCE.experts(x.float(), ids, shares_of(ids), wide(given)), MARGINS[dtype])


@pytest.mark.parametrize("name", ROUTINGS)
def test_fp8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact_fp8(monkeypatch)
    ids = ROUTINGS[name].to(DEVICE)
    count = max(8, int(ids.max()) + 1)
    x = normal(len(ids), 40, seed=3)
    given = weights(count, 40, 36, torch.float32, "fp8")
    out = experts.experts(x, ids, shares_of(ids), given)
    assert_near_fp8(out, REFERENCE.experts(x, ids, shares_of(ids), given))


@pytest.mark.parametrize("kind", ["dense", "int8", "fp8"])
def test_every_tile(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact_fp8(monkeypatch)
    dtype = torch.float16 if ON_GPU else torch.float32
    ids = choices(155, 3, 1, 1, 3.0).to(DEVICE)
    assert int((ids == 0).sum()) > 128
    x = normal(155, 140, seed=2, dtype=dtype)
    given = weights(3, 140, 70, dtype, kind)
    if kind == "fp8":
        expected = REFERENCE.experts(x, ids, shares_of(ids), given)
    else:
        expected = REFERENCE.experts(x.float(), ids, shares_of(ids), wide(given))
    for tile in experts.TILES[1 if kind == "fp8" else 2]:
        monkeypatch.setattr(experts, "choose", lambda *_, tile=tile: tile)
        out = experts.experts(x, ids, shares_of(ids), given)
        if kind == "fp8":
            assert_near_fp8(out, expected)
        else:
            assert_near(out, expected, 5e-3)


def test_experts_of_no_token_are_not_read() -> None:
    ids = torch.tensor([[1, 4], [4, 2]], dtype=torch.int32, device=DEVICE)
    given = weights(6, 64, 32, torch.float32)
    x = normal(2, 64, seed=1)
    expected = REFERENCE.experts(x, ids, shares_of(ids), given)
    for expert in (0, 3, 5):
        given.gate_up[expert] = NAN
        given.down[expert] = NAN
    assert_near(experts.experts(x, ids, shares_of(ids), given), expected)


def test_rows_apart_and_no_tokens() -> None:
    given = weights(4, 64, 32, torch.float32)
    part = normal(5, 100, seed=1)[:, 20:84]
    ids = choices(5, 4, 2, 1).to(DEVICE)
    expected = REFERENCE.experts(part, ids, shares_of(ids), given)
    assert_near(experts.experts(part, ids, shares_of(ids), given), expected)
    assert experts.experts(part[:0], ids[:0], shares_of(ids)[:0], given).shape == (0, 64)
    assert experts.route(normal(0, 4, seed=1), 2, renormalize=True)[0].shape == (0, 2)


def test_tiles_grow_with_the_tokens_of_an_expert() -> None:
    for size in (1, 2):
        assert [experts.choose(8 * mean, 8, size).m for mean in (1, 10, 11, 21, 22, 42, 43)] == [
            16, 16, 32, 32, 64, 64, 128,
        ]  # fmt: skip
        assert experts.choose(8, 128, size).m == 16
        assert experts.choose(10**6, 8, size).m == 128


@needs_gpu
class TestOnAGpu:
    @pytest.mark.parametrize("kind", ["dense", "int8", "fp8"])
    @pytest.mark.parametrize("tokens", [1, 16, 100, 1000, 8192])
    def test_large(self, tokens: int, kind: str) -> None:
        ids = choices(tokens, 32, 8, tokens, 0.5).to(DEVICE)
        x = normal(tokens, 1024, seed=1, dtype=torch.bfloat16)
        given = weights(32, 1024, 512, torch.bfloat16, kind)
        out = experts.experts(x, ids, shares_of(ids), given)
        if kind == "fp8":
            assert_near_fp8(out, REFERENCE.experts(x, ids, shares_of(ids), given))
        else:
            expected = REFERENCE.experts(x.float(), ids, shares_of(ids), wide(given))
            assert_near(out, expected, 2e-2)

    def test_route_of_many(self) -> None:
        logits = normal(4096, 512, seed=1)
        ids, shares = experts.route(logits, 8, renormalize=True)
        expected_ids, expected = REFERENCE.route(logits, 8, renormalize=True)
        assert (ids == expected_ids).float().mean() > 0.9999
        assert_near(shares, expected)

    @pytest.mark.parametrize("kind", ["dense", "int8", "fp8"])
    @pytest.mark.parametrize("tokens", [4, 300])
    def test_captured(self, tokens: int, kind: str) -> None:
        x = normal(tokens, 256, seed=1, dtype=torch.bfloat16)
        logits = normal(tokens, 16, seed=2)
        given = weights(16, 256, 128, torch.bfloat16, kind)

        def step() -> torch.Tensor:
            ids, shares = experts.route(logits, 2, renormalize=True)
            return experts.experts(x, ids, shares, given)

        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        for skewed in (False, True):
            logits.copy_(normal(tokens, 16, seed=3))
            logits[:, 5] += 20.0 * skewed
            x.copy_(normal(tokens, 256, seed=4 + skewed, dtype=torch.bfloat16))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(out, step())
