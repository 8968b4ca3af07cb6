"""Layers that read the keys and values of earlier ones."""

from dataclasses import replace

import pytest

from simulator.models import counting, load_model
from simulator.models.huggingface import parse_config
from tests.rig import SHARED_KV, cost_model, decode_shape, demands, model, prompt_shape

HUNYUAN = {
    "model_type": "hunyuan_v1_dense",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}


def of(**changes):
    return parse_config(HUNYUAN | changes, "m", "m.json")


def test_every_factor_of_sharing():
    whole = of()
    for factor in (1, 2, 3, 6):
        shared = of(use_cla=True, cla_share_factor=factor)
        assert counting.kv_bytes_per_token(shared, "bf16") == (
            counting.kv_bytes_per_token(whole, "bf16") / factor
        )
        readers = 6 - 6 // factor
        gone = readers * (2 * 64 * 4 * 8 + 8)  # projections of keys and values, norm of keys
        assert counting.parameters(shared) == counting.parameters(whole) - gone
    uneven = of(use_cla=True, cla_share_factor=4)  # layers 0 and 4 store
    assert counting.kv_bytes_per_token(uneven, "bf16") * 3 == (
        counting.kv_bytes_per_token(whole, "bf16")
    )
    assert of(use_cla=False, cla_share_factor=2).groups == whole.groups


def test_hunyuan_large_as_published():
    """arXiv:2411.02265, table 1: 389 billion parameters, 52 billion a token, 64 layers, 8 KV heads
    of 80 elements, shared by pairs."""
    spec = load_model("hunyuan-large")
    assert counting.kv_bytes_per_token(spec, "bf16") == 32 * 2 * 8 * 80 * 2
    assert counting.active_parameters(spec) == pytest.approx(52e9, rel=0.02)


def test_a_pair_of_layers_stores_once_and_reads_twice():
    unshared = model(*(replace(group, attention=SHARED_KV.groups[0].attention)
                       for group in SHARED_KV.groups))  # fmt: skip
    stored = [counting.kv_bytes_per_token(spec, "bf16") for spec in (SHARED_KV, unshared)]
    assert stored[0] == stored[1] / 2
    found = [
        demands(cost_model(spec).operators, decode_shape(8, 100_000))
        for spec in (SHARED_KV, unshared)
    ]
    read = [sum(float(d.moved[0]) for d in each["decode_attention"]) for each in found]
    assert read[0] == read[1]
    prompts = [
        demands(cost_model(spec).operators, prompt_shape(512)) for spec in (SHARED_KV, unshared)
    ]
    written = [sum(float(d.moved[0]) for d in each["rope_kv_write"]) for each in prompts]
    heads = 2 * 32 * 128 * 2
    assert written[1] - written[0] == 512 * 12 * (2 * 8 * 128 * 2 + 2 * 8 * 128 * 2)
    assert written[0] > 512 * 24 * heads
    projected = [sum(float(d.flops[0]) for d in each["qkv_proj"]) for each in prompts]
    assert projected[1] - projected[0] == 2 * 512 * 12 * 4096 * 2 * 8 * 128
