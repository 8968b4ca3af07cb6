"""Narrow weights, narrow caches and sparse weights: what they save, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.costs.build import WIDENING_OPS
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware, profile_names
from simulator.models import load_model
from simulator.models.counting import element_bytes, weight_bytes
from simulator.resolve import resolve
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from tests.rig import (
    BANDWIDTH,
    DENSE,
    IDEAL,
    PEAK,
    cost_model,
    decode_shape,
    demands,
    device,
    precision,
    prompt_shape,
    total,
)

WORK = {
    "kind": "synthetic",
    "requests": 30,
    "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
    "lengths": {
        "kind": "independent",
        "input": {"kind": "fixed", "tokens": 400},
        "output": {"kind": "fixed", "tokens": 50},
    },
}
LINEAR = ("qkv_proj", "o_proj", "up_proj", "down_proj")


def scenario(model: str = "llama-3.1-8b", hardware: str = "h100-sxm", **numbers: Any) -> Scenario:
    return Scenario.model_validate(
        {"model": model, "hardware": hardware, "precision": numbers, "workload": WORK}
    )


def seconds(operators: Any, step: Any, *names: str) -> float:
    return sum(float(d.seconds[0]) for name in names for d in demands(operators, step)[name])


# --- weights alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["fp8", "int8", "int4", "fp4"])
def test_narrow_weights_make_decoding_faster_by_their_bytes(weights: str) -> None:
    """On kernels that reach the roofline a token takes as long as its weights take to be read."""
    step = decode_shape(1, 1)
    wide, narrow = (
        seconds(cost_model(hardware=device(IDEAL), numbers=numbers).operators, step, *LINEAR)
        for numbers in (precision(), precision(weights, "bf16"))
    )
    ratio = element_bytes(weights) / 2.0  # type: ignore[arg-type]
    assert narrow / wide == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8", "fp4"])
@pytest.mark.parametrize(
    "hardware", ["h100-sxm", "a100-sxm-80gb", "l40s", "mi300x", "xeon-6980p-2s"]
)
def test_narrow_weights_do_not_make_prompts_faster(hardware: str, weights: str) -> None:
    """Every weight is widened on the way to units that multiply 16 bits."""
    profile, spec = load_hardware(hardware), load_model("llama-3.1-8b")
    step = prompt_shape(8192)
    wide, narrow = (
        seconds(cost_model(spec, hardware=profile, numbers=numbers).operators, step, *LINEAR)
        for numbers in (precision(), precision(weights, "bf16"))
    )
    assert 1.0 < narrow / wide < 1.12


def test_measured_products_keep_what_was_measured() -> None:
    """A100 has tables of weight-only products; elsewhere 16 bits' compute share is cut."""
    a100, h100 = (load_hardware(name).efficiency for name in ("a100-sxm-80gb", "h100-sxm"))
    assert a100.matmul_for("int4", "bf16") is a100.matmul["bf16-int4"]
    guessed = h100.matmul_for("int4", "bf16")
    assert guessed.compute == pytest.approx(0.93 * h100.matmul["bf16"].compute)
    assert h100.residual_range(guessed) is None
    assert h100.matmul_for("bf16", "bf16") is h100.matmul["bf16"]


# --- the cache -----------------------------------------------------------------------------------


def decode_s(hardware: str, kv: str, context: int = 400_000) -> float:
    numbers = precision(kv=kv)
    operators = cost_model(
        load_model("llama-3.1-8b"), hardware=load_hardware(hardware), numbers=numbers
    ).operators
    return seconds(operators, decode_shape(16, context), "decode_attention")


def test_a_narrow_cache_that_is_measured_costs_what_was_measured() -> None:
    efficiency = load_hardware("h100-sxm").efficiency
    assert efficiency.decode_for("fp8") is efficiency.decode_attention["fp8"]
    assert 0.4 < decode_s("h100-sxm", "fp8") / decode_s("h100-sxm", "bf16") < 0.7


def test_a_narrow_cache_saves_bytes_where_vector_units_keep_up() -> None:
    """H100 widens 33.5e12 / 5 elements a second and reads 3.35e12 / 0.52."""
    assert 0.25 < decode_s("h100-sxm", "int4") / decode_s("h100-sxm", "bf16") < 0.4
    assert 0.45 < decode_s("h100-sxm", "int8") / decode_s("h100-sxm", "bf16") < 0.6


def test_widening_binds_where_they_do_not() -> None:
    """A100: 9.75e12 instructions a second, five for each of 4 bits, 2,048 elements a token: as
    QServe found, a 4-bit cache is hardly faster than one of 8 bits there."""
    tokens = 400_000
    least = 32 * tokens * 2 * 8 * 128 * 5 / (19.5e12 / 2)
    took = decode_s("a100-sxm-80gb", "int4", tokens)
    assert least < took < 1.15 * least
    assert took > 0.75 * decode_s("a100-sxm-80gb", "int8", tokens)


@pytest.mark.parametrize("kv", ["int8", "int4", "fp4"])
def test_a_cache_that_nobody_measured_says_so(kv: str) -> None:
    efficiency = load_hardware("h100-sxm").efficiency
    assert efficiency.residual_range(efficiency.decode_for(kv)) is None
    assert efficiency.residual_range(efficiency.prefill_for(kv)) is None
    result = simulate(scenario(kv_cache=kv)).summary()
    assert any(f"KV cache in {kv} was measured" in note for note in result["notes"])
    plain = simulate(scenario()).summary()
    assert not any("was measured" in note for note in plain["notes"])
    spread = [r["uncertainty"]["step_time_factor"]["decode_only"] for r in (plain, result)]
    assert spread[1][1] >= spread[0][1]


def test_the_past_is_widened_once_a_chunk() -> None:
    operators = cost_model(DENSE, numbers=precision(kv="int4")).operators
    new, past = 256, 8192
    found = [
        demands(operators, prompt_shape(new, past=before))["prefill_attention"][0]
        for before in (0, past)
    ]
    pairs = 32 * 4 * 32 * 128 * new * past
    work = float(found[1].flops[0] - found[0].flops[0]) - pairs
    rate = device().vector_ops_per_s
    assert rate is not None
    e = device().efficiency.prefill_attention["bf16"]
    share = 1 + e.half_head_dim / 128
    widening = 32 * past * 2 * 8 * 128 * WIDENING_OPS["int4"] / rate
    assert work / (e.compute * PEAK) * share == pytest.approx(widening * share)


# --- two of four ---------------------------------------------------------------------------------


def test_bytes_of_sparse_weights() -> None:
    """Half of the values, and two bits for each of those."""
    sizes = {w: element_bytes(w, sparse=True) for w in ("bf16", "fp8", "int4")}  # type: ignore[arg-type]
    assert sizes == {"bf16": 1.125, "fp8": 0.625, "int4": 0.25 + 0.125 + 2.5 / 128}
    spec = load_model("llama-3.1-8b")
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    saved = weight_bytes(spec, "bf16") - weight_bytes(replace(spec, sparse=True), "bf16")
    assert saved == linear * (2 - 1.125)


def test_sparse_products_on_the_roofline() -> None:
    """Twice the rate at most, of which three quarters are reached; decode by the bytes; the LM head
    and routers stay dense."""
    spec = replace(DENSE, sparse=True)
    units = device(IDEAL).model_copy(
        update={"structured_sparsity": load_hardware("h100-sxm").structured_sparsity}
    )
    assert units.structured_sparsity is not None
    dense, sparse = (cost_model(s, hardware=units).operators for s in (DENSE, spec))
    prompt, token = prompt_shape(16_384), decode_shape(1, 1)
    for name in LINEAR:
        assert seconds(dense, prompt, name) / seconds(sparse, prompt, name) == pytest.approx(
            1.5, rel=0.02
        )
        assert seconds(sparse, token, name) / seconds(dense, token, name) == pytest.approx(
            1.125 / 2, rel=0.01
        )
    assert seconds(dense, token, "lm_head") == seconds(sparse, token, "lm_head")
    flops = [total(ops, prompt, "flops") for ops in (dense, sparse)]
    products = sum(float(demands(dense, prompt)[name][0].flops[0]) for name in LINEAR)
    assert flops[0] - flops[1] == pytest.approx(products / 2)
    slower = units.model_copy(
        update={"structured_sparsity": units.structured_sparsity.model_copy(update={"value": 1.4})}
    )
    less = cost_model(spec, hardware=slower).operators
    assert seconds(dense, prompt, *LINEAR) / seconds(less, prompt, *LINEAR) == pytest.approx(
        0.75 * 1.4, rel=0.02
    )
    moved = sum(float(d.moved[0]) for name in LINEAR for d in demands(sparse, token)[name])
    assert seconds(sparse, token, *LINEAR) >= moved / BANDWIDTH


@pytest.mark.parametrize(
    ("model", "hardware", "numbers", "sentence"),
    [
        ("llama-3.2-1b", "t4", {"weights": "fp16"}, "has no units for 2:4 sparse weights"),
        ("llama-3.2-1b", "xeon-6980p-2s", {}, "has no units for 2:4 sparse weights"),
        ("llama-3.2-1b", "b200-sxm", {"weights": "fp4", "activations": "fp4"}, "weights in fp4"),
        ("qwen3-30b-a3b", "h100-sxm", {}, "no kernels for 2:4 sparse experts"),
    ],
)
def test_where_sparse_weights_cannot_run(
    model: str, hardware: str, numbers: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ScenarioError, match=sentence) as caught:
        resolve(scenario(model, hardware, sparsity="2:4", **numbers))
    assert caught.value.where == "precision.sparsity"


def test_a_sparse_run_is_faster_and_says_what_it_assumes() -> None:
    dense, sparse = simulate(scenario()).summary(), simulate(scenario(sparsity="2:4")).summary()
    for metric in ("ttft_ms", "tpot_ms"):
        assert sparse["latency"][metric]["mean"] < dense["latency"][metric]["mean"]
    assert any("2:4 sparse weights are estimates" in note for note in sparse["notes"])


def test_which_devices_have_such_units() -> None:
    """NVIDIA's from Ampere on and AMD's from CDNA 3 on, each with a source; no others."""
    for name in profile_names():
        profile = load_hardware(name)
        expected = profile.vendor in ("NVIDIA", "AMD") and profile.kind == "gpu"
        has = profile.structured_sparsity is not None
        assert has == (expected and profile.architecture != "turing"), name
