"""What each device of a tensor-parallel group holds: nothing is lost, and copies are accounted."""

import pytest

from simulator.errors import UserError
from simulator.models import counting, load_model, preset_names
from simulator.models.huggingface import parse_config
from simulator.models.layout import Layout
from simulator.models.splits import check_split, tensor_parallel_sizes
from tests.test_models_counting import raw


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("dtype", ["bf16", "int4"])
def test_devices_hold_all_weights(name, dtype):
    model = load_model(name)
    total = counting.weight_bytes(model, dtype)
    last = total
    for tp in tensor_parallel_sizes(model):
        share = counting.weight_bytes_per_rank(model, dtype, Layout(tp))
        assert share * tp >= total * (1 - 1e-12)
        assert share <= last
        last = share


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_what_devices_hold_twice_in_llama(tp):
    model = load_model("llama-3.1-8b")
    copied = 2 * (2 * 32 + 1) * 4096  # norms, bf16
    share = counting.weight_bytes_per_rank(model, "bf16", Layout(tp))
    assert share * tp == counting.weight_bytes(model, "bf16") + (tp - 1) * copied


def test_kv_projections_are_copied_beyond_the_kv_heads():
    model = load_model("llama-3.1-8b")
    norms, kv = 2 * (2 * 32 + 1) * 4096, 2 * 32 * 2 * 4096 * 1024
    share = counting.weight_bytes_per_rank(model, "bf16", Layout(32))
    total = counting.weight_bytes(model, "bf16")
    assert share * 32 == total + 31 * norms + 3 * kv


def test_what_devices_hold_twice_in_deepseek():
    model, tp = load_model("deepseek-v3"), 8
    c = raw("deepseek-v3")
    h, layers, moe = c["hidden_size"], 61, 58
    down = layers * h * (c["q_lora_rank"] + c["kv_lora_rank"] + c["qk_rope_head_dim"])
    norms = (2 * layers + 1) * h + layers * (c["q_lora_rank"] + c["kv_lora_rank"])
    router = moe * (h + 1) * c["n_routed_experts"]
    share = counting.weight_bytes_per_rank(model, "bf16", Layout(tp))
    assert share * tp == counting.weight_bytes(model, "bf16") + (tp - 1) * 2 * (
        down + norms + router
    )


def test_uneven_vocabulary_rows_go_to_the_fullest_device():
    config = raw("llama-3.2-1b") | {"vocab_size": 1001}
    model = parse_config(config, "m", "m.json")
    even = parse_config(config | {"vocab_size": 1004}, "m", "m.json")
    assert counting.weight_bytes_per_rank(
        model, "bf16", Layout(4)
    ) == counting.weight_bytes_per_rank(even, "bf16", Layout(4))


@pytest.mark.parametrize(
    ("name", "tp", "size"),
    [
        ("llama-3.1-8b", 1, 131_072),
        ("llama-3.1-8b", 4, 32_768),
        ("llama-3.1-8b", 8, 16_384),
        ("llama-3.1-8b", 16, 16_384),
        ("llama-3.1-8b", 32, 16_384),
        ("deepseek-v3", 1, 70_272),
        ("deepseek-v3", 8, 70_272),
    ],
)
def test_kv_bytes_per_rank(name, tp, size):
    assert counting.kv_bytes_per_rank(load_model(name), "bf16", Layout(tp)).total == size


@pytest.mark.parametrize("name", preset_names())
def test_devices_hold_the_whole_cache(name):
    model = load_model(name)
    total = counting.kv_bytes_per_rank(model, "fp8", Layout(1))
    for tp in tensor_parallel_sizes(model):
        share = counting.kv_bytes_per_rank(model, "fp8", Layout(tp))
        assert share.full * tp >= total.full
        assert share.local * tp >= total.local
        assert share.total <= total.total


@pytest.mark.parametrize(
    ("name", "tp", "sentence"),
    [
        (
            "llama-3.1-8b",
            3,
            "llama-3.1-8b cannot be split over tp = 3: 32 attention heads do not divide evenly; "
            "tp may be 1, 2, 4, 8, 16, 32",
        ),
        (
            "qwen2.5-0.5b",
            7,
            "qwen2.5-0.5b cannot be split over tp = 7: 2 KV heads neither divide evenly nor repeat "
            "evenly; tp may be 1, 2",
        ),
        (
            "qwen2.5-0.5b",
            14,
            "qwen2.5-0.5b cannot be split over tp = 14: feed-forward width 4864 does not divide "
            "evenly; tp may be 1, 2",
        ),
        (
            "qwen2.5-7b",
            8,
            "qwen2.5-7b cannot be split over tp = 8: 28 attention heads do not divide evenly; "
            "tp may be 1, 2, 4",
        ),
        (
            "llama-3.1-8b",
            0,
            "llama-3.1-8b cannot be split over tp = 0: it must be at least 1; "
            "tp may be 1, 2, 4, 8, 16, 32",
        ),
    ],
)
def test_splits_that_do_not_work(name, tp, sentence):
    model = load_model(name)
    for split in (
        lambda: check_split(model, Layout(tp)),
        lambda: counting.weight_bytes_per_rank(model, "bf16", Layout(tp)),
        lambda: counting.kv_bytes_per_rank(model, "bf16", Layout(tp)),
    ):
        with pytest.raises(UserError) as caught:
            split()
        assert str(caught.value) == sentence
