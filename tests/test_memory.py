"""Where memory goes: the arithmetic by hand, hybrid layouts, and sentences whose advice works."""

from __future__ import annotations

import re

import pytest

from simulator.costs.memory import GIB, activation_bytes, memory_budget
from simulator.deployment import MemoryBudget, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.errors import DoesNotFitError
from simulator.models import load_model
from simulator.models.counting import (
    kv_bytes_per_token,
    weight_bytes,
    weight_bytes_per_rank,
)
from simulator.models.layout import ALONE, Layout
from simulator.models.spec import ModelSpec
from simulator.models.splits import tensor_parallel_sizes
from simulator.serving.kv_cache import KvLayout
from tests.rig import ALL_WINDOW, DENSE, LATENT, MODELS, MOE, WINDOW, engine, limits, precision


def budget(
    spec: ModelSpec = DENSE,
    profile: EngineProfile | None = None,
    numbers: ResolvedPrecision | None = None,
    tp: int = 1,
    *,
    device_gib: float = 80.0,
    fraction: float = 0.9,
    tokens: int | None = None,
    block_size: int = 16,
    node: int = 8,
    step_tokens: int = 2048,
    seqs: int = 64,
) -> tuple[MemoryBudget, KvLayout]:
    return memory_budget(
        spec,
        profile or engine(),
        numbers or precision(),
        limits(block_size=block_size, budget=step_tokens, seqs=seqs),
        Layout(tp),
        device_gib=device_gib,
        fraction=fraction,
        kv_cache_tokens=tokens,
        hardware_title="Round Device",
        node_devices=node,
    )


WEIGHTS = weight_bytes(DENSE, "bf16") / GIB
# Residual stream and its copies, gate, up and their product, in 16 bits; two logits in 32 bits.
ACTIVATIONS = (2048 * (3 * 4096 + 3 * 14_336) * 2 + 64 * 32_000 * 4 * 2) / GIB
BLOCK = 16 * 32 * 2 * 8 * 128 * 2
"""Bytes of 16 tokens: 32 layers, a key and a value of 8 heads of 128 elements of 2 bytes."""


def test_activations_by_hand() -> None:
    assert activation_bytes(DENSE, limits(), ALONE) / GIB == pytest.approx(ACTIVATIONS)
    split = (2048 * (3 * 4096 + 3 * 14_336 / 4) * 2 + 64 * 32_000 * 4 * 2) / GIB
    assert activation_bytes(DENSE, limits(), Layout(4)) / GIB == pytest.approx(split)
    more = activation_bytes(DENSE, limits(budget=4096), ALONE)
    assert more > activation_bytes(DENSE, limits(), ALONE)


@pytest.mark.parametrize(
    ("rule", "room"),
    [
        ("of_total", 0.9 * 80 - WEIGHTS - ACTIVATIONS - 1),
        ("of_free", 0.9 * (80 - WEIGHTS - ACTIVATIONS - 1)),
        ("static", 0.9 * (80 - 1) - WEIGHTS),
    ],
)
def test_each_engine_s_rule_by_hand(rule: str, room: float) -> None:
    found, layout = budget(profile=engine(rule=rule))
    blocks = int(room * GIB // BLOCK)
    assert (found.block_bytes, found.kv_blocks, layout.blocks) == (BLOCK, blocks, blocks)
    assert found.kv_tokens == 16 * blocks
    assert found.kv_cache_gib == pytest.approx(blocks * BLOCK / GIB)
    assert found.weights_gib == pytest.approx(WEIGHTS)
    assert found.activations_gib == pytest.approx(ACTIVATIONS)
    parts = found.weights_gib + found.activations_gib + found.reserved_gib + found.kv_cache_gib
    assert parts + found.unused_gib == pytest.approx(80.0)
    assert found.rule.startswith(rule)
    assert layout == KvLayout(blocks, 16)


def test_a_static_share_still_leaves_room_for_activations() -> None:
    """0.99 of the memory for weights and cache would leave 0.8 GiB, less than a large step needs."""
    found, _ = budget(profile=engine(rule="static"), fraction=0.99, step_tokens=32_768)
    whole = found.weights_gib + found.activations_gib + found.reserved_gib + found.kv_cache_gib
    assert found.activations_gib > 2
    assert whole <= 80.0


def test_rules_agree_where_they_must() -> None:
    """The whole memory and no activations to speak of: one budget whatever the rule."""
    blocks = {
        rule: budget(profile=engine(rule=rule), fraction=1.0, step_tokens=1, seqs=1)[0].kv_blocks
        for rule in ("of_total", "of_free", "static")
    }
    assert max(blocks.values()) - min(blocks.values()) <= 1


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_the_cache_is_split_with_the_heads(tp: int, kv: str) -> None:
    found, _ = budget(numbers=precision(kv=kv), tp=tp)
    assert found.block_bytes == BLOCK / tp / (2 if kv == "fp8" else 1)
    assert budget(LATENT, tp=tp)[0].block_bytes == 16 * 12 * (512 + 64) * 2  # whole on each device


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("weights", ["bf16", "fp8", "int4"])
def test_devices_together_hold_all_weights(spec: ModelSpec, weights: str) -> None:
    whole = weight_bytes_per_rank(spec, weights, ALONE)  # type: ignore[arg-type]
    for tp in (2, 4, 8):
        part = weight_bytes_per_rank(spec, weights, Layout(tp))  # type: ignore[arg-type]
        assert whole <= tp * part <= whole * 1.15
        assert part < whole


# --- local attention -----------------------------------------------------------------------------


def test_a_hybrid_model_keeps_its_window_and_grows_slower() -> None:
    """20 layers of a 512 window, 4 of full attention: a block counts the 4, and a long sequence
    takes five times the window's blocks (and one block of slack) beside its own."""
    found, layout = budget(WINDOW)
    assert found.block_bytes == 16 * 4 * 2 * 8 * 128 * 2
    assert (layout.growing, layout.local_ratio, layout.local_tokens) == (True, 5.0, 512)
    window = 5 * (512 + 16) // 16
    assert layout.blocks_for(100_000) == 100_000 // 16 + window
    assert layout.blocks_for(528) == 33 + window
    assert layout.blocks_for(160) == 10 + 5 * 10  # shorter than the window: as without one
    whole, plain = budget(WINDOW, engine(hybrid_kv=False))
    assert whole.block_bytes == 6 * found.block_bytes
    assert plain.blocks_for(160) * whole.block_bytes == layout.blocks_for(160) * found.block_bytes
    assert plain.blocks_for(100_000) * whole.block_bytes > (
        4 * layout.blocks_for(100_000) * found.block_bytes
    )


@pytest.mark.parametrize(
    ("name", "full", "local", "span"),
    [("gemma-3-27b", 10, 52, 1024), ("gpt-oss-120b", 18, 18, 128), ("llama-4-scout", 12, 36, 8192)],
)
def test_layouts_of_published_hybrids(name: str, full: int, local: int, span: int) -> None:
    spec = load_model(name)
    found, layout = budget(spec, device_gib=1000.0, numbers=precision(spec.native_dtype, "bf16"))
    each = kv_bytes_per_token(spec, "bf16") / (full + local)
    assert found.block_bytes == pytest.approx(16 * full * each)
    tokens = 64 * 1024
    used = layout.blocks_for(tokens) * found.block_bytes
    assert used == pytest.approx(each * (full * tokens + local * (span + 16)), rel=0.001)


def test_a_model_with_windows_everywhere_is_bounded() -> None:
    found, layout = budget(ALL_WINDOW)
    assert not layout.growing
    assert found.block_bytes == 16 * 16 * 2 * 8 * 128 * 2
    assert layout.blocks_for(1040) == layout.blocks_for(1_000_000) == 1040 // 16
    assert layout.blocks_for(100) == 7
    assert layout.growing_blocks(10**6) == 0


# --- what does not fit ---------------------------------------------------------------------------


def test_too_large_a_model_says_the_arithmetic_and_what_fits() -> None:
    spec = load_model("llama-3.1-70b")
    with pytest.raises(DoesNotFitError) as caught:
        budget(spec)
    text = str(caught.value)
    weights = weight_bytes(spec, "bf16") / GIB
    activations = activation_bytes(spec, limits(), ALONE) / GIB
    room = 0.9 * 80 - weights - activations - 1
    assert f"0.9 × 80.0 − {weights:.1f} weights − {activations:.1f} activations" in text
    assert f"= {room:.1f} GiB for the KV cache" in text
    assert "llama-3.1-70b" in text.lower().replace(" ", "-")
    assert "1 × Round Device" in text


@pytest.mark.parametrize("rule", ["of_total", "of_free", "static"])
@pytest.mark.parametrize(
    "name", ["llama-3.1-70b", "qwen3-235b-a22b", "llama-3.1-405b", "mixtral-8x22b"]
)
@pytest.mark.parametrize("device_gib", [24.0, 80.0, 141.0])
def test_the_advice_works(name: str, rule: str, device_gib: float) -> None:
    """Where more devices are advised they fit, are in the node, and fewer would not do; where they
    are not, no number of devices in the node fits."""
    spec = load_model(name)
    profile = engine(rule=rule)

    def fits(tp: int) -> bool:
        try:
            return budget(spec, profile, tp=tp, device_gib=device_gib)[1].blocks >= 1
        except DoesNotFitError:
            return False

    sizes = [tp for tp in tensor_parallel_sizes(spec) if tp <= 8]
    working = [tp for tp in sizes if fits(tp)]
    if working[:1] == [1]:
        return
    with pytest.raises(DoesNotFitError) as caught:
        budget(spec, profile, device_gib=device_gib)
    advised = re.search(r"parallelism\.tp: (\d+)", caught.value.hint)
    if working:
        assert advised is not None
        assert int(advised.group(1)) == working[0]
    else:
        assert advised is None
        assert "narrower" in caught.value.hint


def test_memory_without_room_for_one_block_does_not_fit() -> None:
    exactly = (WEIGHTS + ACTIVATIONS + 1 + BLOCK / GIB) / 0.9
    assert budget(device_gib=exactly + 1e-9)[1].blocks == 1
    with pytest.raises(DoesNotFitError):
        budget(device_gib=exactly - 1e-6)


def test_kv_cache_tokens_override() -> None:
    found, layout = budget(tokens=1000)
    assert (layout.blocks, found.kv_blocks, found.kv_tokens) == (63, 63, 1008)
    assert found.kv_cache_gib == pytest.approx(63 * BLOCK / GIB)
    parts = found.weights_gib + found.activations_gib + found.reserved_gib + found.kv_cache_gib
    assert found.unused_gib == pytest.approx(80.0 - parts)
    most = budget()[0].kv_tokens
    assert budget(tokens=most)[0].kv_tokens == most
    with pytest.raises(DoesNotFitError) as caught:
        budget(tokens=most + 1)
    assert f"at most {most} tokens fit" in caught.value.hint
    assert f"{most + 1} tokens of KV cache take" in caught.value.what
    assert caught.value.where == "engine.kv_cache_tokens"


@pytest.mark.parametrize("spec", [WINDOW, ALL_WINDOW, MOE], ids=["window", "all-window", "moe"])
def test_a_request_of_as_many_tokens_as_asked_for_fits(spec: ModelSpec) -> None:
    for tokens in (300, 5000):
        _, layout = budget(spec, tokens=tokens)
        assert layout.blocks_for(tokens) <= layout.blocks
