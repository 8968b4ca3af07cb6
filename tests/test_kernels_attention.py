"""Attention kernels against plain torch in float64, on caches that hold NaN where nothing is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.triton_support import DEVICE, DTYPES, assert_near, needs_gpu, normal, torch

from calibration.kernels.gpu import decode_attention, prefill_attention  # isort: skip
from calibration.kernels.reference import TorchKernels  # isort: skip

FP8 = torch.float8_e4m3fn


@dataclass
class Cache:
    """Keys and values of sequences, and their tables, on ``DEVICE``."""

    keys: torch.Tensor
    values: torch.Tensor
    tables: torch.Tensor
    lengths: torch.Tensor


def filled(lengths, kv_heads, dim, block_size, dtype, seed, kept=None) -> Cache:
    """Blocks in no order. NaN fills the blocks of no sequence, to which a table points behind its
    sequence's last one, and the last block behind the last token."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // block_size) for length in lengths]
    stray = 3
    order = torch.randperm(sum(needed) + stray, generator=generator).int()
    tables = torch.empty(len(lengths), max(needed) + 2, dtype=torch.int32)
    shape = (len(order), block_size, kv_heads, dim)
    caches = [torch.full(shape, float("nan"), dtype=dtype) for _ in range(2)]
    taken = stray
    for i, (length, blocks) in enumerate(zip(lengths, needed, strict=True)):
        picks = torch.randint(stray, tables.shape[1:], generator=generator)
        tables[i] = order[picks]
        tables[i, :blocks] = order[taken : taken + blocks]
        taken += blocks
        for token in range(length):
            block, place = tables[i, token // block_size], token % block_size
            for cache in caches:
                cache[block, place] = torch.randn(kv_heads, dim, generator=generator)
    caches = [cache.to(kept or dtype).to(DEVICE) for cache in caches]
    on_device = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    return Cache(*caches, tables.to(DEVICE), on_device)


def queries(tokens, heads, dim, dtype, seed) -> torch.Tensor:
    """A part of a wider product, as a model has them."""
    return normal(tokens, heads + 3, dim, seed=seed, dtype=dtype)[:, :heads]


def check_decode(
    lengths, *, dtype=torch.float32, kv_heads=2, share=4, dim=32, block_size=16, splits=None,
    tile=32, window=0, kept=None, seed=1, config=None,
):  # fmt: skip
    cache = filled(lengths, kv_heads, dim, block_size, dtype, seed, kept)
    q = queries(len(lengths), kv_heads * share, dim, dtype, seed + 1)
    scale = 1.3 * dim**-0.5
    config = config or decode_attention.Config(tile, 4, 2, splits)
    actual = decode_attention.decode_attention(
        q, cache.keys, cache.values, cache.tables, cache.lengths, scale, window, config
    )
    expected = TorchKernels().decode_attention(
        q.cpu().double(), cache.keys.cpu().double(), cache.values.cpu().double(),
        cache.tables.cpu(), cache.lengths.cpu(), scale, window,
    )  # fmt: skip
    assert actual.dtype == dtype
    assert_near(actual, expected)
    return actual


def check_prefill(
    news, pasts, *, dtype=torch.float32, kv_heads=1, share=2, dim=32, block_size=16, window=0,
    kept=None, seed=1, config=None, longest=None,
):  # fmt: skip
    lengths = [new + past for new, past in zip(news, pasts, strict=True)]
    cache = filled(lengths, kv_heads, dim, block_size, dtype, seed, kept)
    q = queries(sum(news), kv_heads * share, dim, dtype, seed + 1)
    bounds = torch.tensor([0, *news]).cumsum(0).int()
    scale = 1.3 * dim**-0.5
    actual = prefill_attention.prefill_attention(
        q, cache.keys, cache.values, cache.tables, bounds.to(DEVICE), cache.lengths,
        longest or max(news), scale, window, config,
    )  # fmt: skip
    expected = TorchKernels().prefill_attention(
        q.cpu().double(), cache.keys.cpu().double(), cache.values.cpu().double(),
        cache.tables.cpu(), bounds, cache.lengths.cpu(), max(news), scale, window,
    )  # fmt: skip
    assert actual.dtype == dtype
    assert_near(actual, expected)
    return actual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("splits", [1, 3])
def test_decode_of_uneven_lengths(dtype, splits):
    check_decode([1, 70, 16, 33, 145], dtype=dtype, splits=splits)


@pytest.mark.parametrize("share", [1, 4, 5, 8])
def test_decode_of_shared_heads(share):
    check_decode([40, 23], share=share, splits=2)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64, 128])
def test_decode_over_pages_of_any_size(block_size):
    check_decode([150, 65], block_size=block_size, splits=2, kv_heads=1)


@pytest.mark.parametrize("dim", [64, 80, 128])
def test_decode_of_other_heads(dim):
    check_decode([45, 17], dim=dim, splits=2)


@pytest.mark.parametrize("splits", [1, 2, 7])
def test_decode_of_padding_is_zero(splits):
    out = check_decode([0, 37, 0], splits=splits)
    assert (out[0] == 0).all()
    assert (out[2] == 0).all()


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("window", [1, 20, 50, 1000])
def test_decode_sees_a_window(window, splits):
    check_decode([5, 50, 117], window=window, splits=splits)


def test_decode_with_more_splits_than_tiles():
    check_decode([3, 65, 200], splits=40, tile=16)


def test_decode_takes_its_own_config():
    check_decode([30, 300], block_size=16, config=None, splits=None, tile=64)
    small = decode_attention.default_config(128, 4)
    check_decode([30, 300], config=small)


@pytest.mark.parametrize("splits", [1, 2])
def test_decode_of_an_fp8_cache(splits):
    check_decode([30, 75], dtype=torch.float16, kept=FP8, splits=splits)


def test_splits_follow_shapes():
    assert decode_attention.choose_splits(8, 256, 132) == 1
    assert decode_attention.choose_splits(8, 8192, 132) == 32
    assert decode_attention.choose_splits(256, 8192, 132) == 4
    assert decode_attention.choose_splits(8192, 8192, 132) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill_of_uneven_chunks(dtype):
    check_prefill([70, 1, 33, 64], [0, 40, 15, 0], dtype=dtype)


@pytest.mark.parametrize("block_size", [8, 32, 64, 128])
def test_prefill_over_pages_of_any_size(block_size):
    check_prefill([50, 33], [100, 0], block_size=block_size)


@pytest.mark.parametrize("share", [1, 5])
def test_prefill_of_shared_heads(share):
    check_prefill([33, 5], [0, 10], share=share, kv_heads=2)


@pytest.mark.parametrize("dim", [64, 80, 128])
def test_prefill_of_other_heads(dim):
    check_prefill([40], [9], dim=dim)


@pytest.mark.parametrize("window", [1, 7, 40, 64, 1000])
def test_prefill_sees_a_window(window):
    check_prefill([75, 33], [90, 0], window=window)


@pytest.mark.parametrize("window", [0, 31, 33, 34])
def test_prefill_at_the_edges_of_tiles(window):
    pasts = range(28, 36)  # a tile has 32 tokens
    check_prefill([4] * len(pasts), pasts, window=window, share=1)


@pytest.mark.parametrize("window", [0, 37])
def test_prefill_in_uneven_tiles(window):
    for sizes in ((16, 64), (64, 16)):
        config = prefill_attention.Config(*sizes, 4, 1)
        check_prefill([75, 20], [60, 3], window=window, config=config)


def test_prefill_leaves_room_for_longer_chunks():
    check_prefill([20, 3], [0, 60], longest=200)


def test_prefill_of_an_fp8_cache():
    check_prefill([40, 9], [20, 0], dtype=torch.float16, kept=FP8)


def test_a_table_of_configs_for_every_chip():
    for arch in (70, 80, 90, 100, 120):
        for dim in (32, 64, 80, 96, 128, 256):
            for longest in (1, 64, 65, 5000):
                for plain in (True, False):
                    config = prefill_attention.default_config(dim, 2, longest, arch, plain=plain)
                    assert config.queries == (128 if longest > 64 and dim <= 128 else 64)


@needs_gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES[1:])
    @pytest.mark.parametrize("share", [4, 5])
    @pytest.mark.parametrize("dim", [64, 128])
    def test_decode(self, dtype, share, dim):
        check_decode(
            [2000, 1, 0, 513, 64, 700], dtype=dtype, share=share, dim=dim, kv_heads=8,
            config=decode_attention.default_config(dim, 2),
        )  # fmt: skip

    @pytest.mark.parametrize("config", decode_attention.CANDIDATES)
    def test_decode_candidates(self, config):
        check_decode([900, 31, 0], dtype=torch.bfloat16, dim=128, config=config)

    def test_decode_of_fp8(self):
        config = decode_attention.default_config(128, 2)
        check_decode([900, 31], dtype=torch.bfloat16, dim=128, kept=FP8, config=config)

    @pytest.mark.parametrize("dtype", DTYPES[1:])
    @pytest.mark.parametrize("dim", [64, 96, 128, 256])
    @pytest.mark.parametrize("window", [0, 300])
    def test_prefill(self, dtype, dim, window):
        check_prefill(
            [600, 1, 257, 128], [0, 900, 130, 77], dtype=dtype, dim=dim, window=window,
            kv_heads=2, share=5,
        )  # fmt: skip

    @pytest.mark.parametrize("config", prefill_attention.CANDIDATES)
    @pytest.mark.parametrize("dim", [64, 128])
    def test_prefill_candidates(self, config, dim):
        check_prefill([400, 129], [33, 900], dtype=torch.bfloat16, dim=dim, config=config)

    def test_prefill_of_fp8(self):
        check_prefill([300, 70], [33, 0], dtype=torch.bfloat16, dim=128, kept=FP8)

    def test_captured(self):
        lengths = [300, 40, 0]
        cache = filled(lengths, 2, 128, 16, torch.bfloat16, 1)
        q = queries(3, 8, 128, torch.bfloat16, 2)

        def attend():
            return decode_attention.decode_attention(
                q, cache.keys, cache.values, cache.tables, cache.lengths, 0.1, 0
            )

        attend()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = attend()
        cache.lengths.copy_(torch.tensor([250, 7, 0]))
        graph.replay()
        assert_near(out, attend())

    def test_caches_of_more_than_2_to_the_31_numbers(self):
        shape = (2**17 + 1, 16, 8, 128)
        cache = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
        cache[-1] = normal(*shape[1:], seed=1)
        last = torch.full((1, 1), shape[0] - 1, dtype=torch.int32, device=DEVICE)
        zero = torch.zeros_like(last)
        lengths = torch.full((1,), 13, dtype=torch.int32, device=DEVICE)
        starts = torch.tensor([0, 13], dtype=torch.int32, device=DEVICE)
        q = queries(13, 32, 128, torch.bfloat16, 2)
        results = [
            (
                decode_attention.decode_attention(q[:1], kv, kv, table, lengths, 0.1, 0),
                prefill_attention.prefill_attention(q, kv, kv, table, starts, lengths, 13, 0.1, 0),
            )
            for kv, table in ((cache, last), (cache[-1:].clone(), zero))
        ]
        for far, near in zip(*results, strict=True):
            assert torch.equal(far, near)
