"""Structured pruning: what is left is the smaller model that publishers counted."""

import pytest

from simulator.errors import ScenarioError
from simulator.models import counting, load_model
from simulator.models.pruning import Kept, prune


def pruned(name, **kept):
    return prune(load_model(name), Kept(**kept), "precision.pruned")


def test_minitron_by_width():
    """NVIDIA pruned Llama-3.1-8B to a width of 3,072 and blocks of 9,216 (arXiv:2408.11796)."""
    made = pruned("llama-3.1-8b", hidden=3072, intermediate=9216)
    published = load_model("llama-3.1-minitron-4b-width")
    assert counting.parameters(made) == counting.parameters(published)
    assert made.groups == published.groups
    assert counting.kv_bytes_per_token(made, "bf16") == counting.kv_bytes_per_token(
        published, "bf16"
    )


def test_minitron_by_depth():
    made = pruned("llama-3.1-8b", layers=16)
    published = load_model("llama-3.1-minitron-4b-depth")
    assert counting.parameters(made) == counting.parameters(published)
    whole = counting.kv_bytes_per_token(load_model("llama-3.1-8b"), "bf16")
    assert counting.kv_bytes_per_token(made, "bf16") == whole / 2


def test_heads_go_with_their_keys():
    made = pruned("llama-3.1-8b", kv_heads=6)
    (group,) = made.groups
    assert (group.attention.heads, group.attention.kv_heads) == (24, 6)
    gone = 32 * 2 * 4096 * 128 * (8 + 2)
    whole = load_model("llama-3.1-8b")
    assert counting.parameters(whole) - counting.parameters(made) == gone


def test_experts():
    made = pruned("qwen3-30b-a3b", experts=64, intermediate=512)
    (group,) = made.groups
    assert (group.mlp.experts, group.mlp.top_k, group.mlp.intermediate) == (64, 8, 512)


def test_layers_go_in_proportion():
    """Of 52 local and 10 global layers half are left, the rest by the largest remainder."""
    half = pruned("gemma-3-27b", layers=31)
    assert [group.count for group in half.groups] == [26, 5]
    one = pruned("gemma-3-27b", layers=1)
    assert [(g.count, g.span.kind) for g in one.groups] == [(1, "window")]
    for layers in range(1, 63):
        assert pruned("gemma-3-27b", layers=layers).layers == layers


def test_what_is_published_no_longer_holds():
    made = pruned("deepseek-v3", layers=40)
    assert made.parameters_published is None
    assert made.mtp is None
    assert made.name == "deepseek-v3 (pruned)"


@pytest.mark.parametrize(
    ("name", "kept", "sentence"),
    [
        ("llama-3.1-8b", {"layers": 33}, "llama-3.1-8b has 32 layers, and 33 are to be kept"),
        ("llama-3.1-8b", {"hidden": 8192}, "has 4,096 hidden, and 8,192 are to be kept"),
        ("llama-3.1-8b", {"kv_heads": 9}, "has 8 kv_heads, and 9 are to be kept"),
        ("llama-3.1-8b", {"experts": 2}, "llama-3.1-8b has no experts"),
        ("deepseek-v3", {"intermediate": 1024}, "has several sizes of intermediate: 2,048, 18,432"),
        ("deepseek-v3", {"kv_heads": 8}, "deepseek-v3 has no kv_heads"),
        ("qwen3-30b-a3b", {"experts": 7}, "a token of qwen3-30b-a3b takes 8 experts"),
        ("lfm2-1.2b", {"hidden": 1024}, "has convolutions as wide as the model"),
    ],
)
def test_what_cannot_be_kept(name, kept, sentence):
    with pytest.raises(ScenarioError, match=sentence.replace("(", r"\(")) as caught:
        pruned(name, **kept)
    assert caught.value.where == f"precision.pruned.{next(iter(kept))}"
