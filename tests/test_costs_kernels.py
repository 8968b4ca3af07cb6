"""Attention kernels of several generations, unfused operators, and where decoding turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.balance import turning_batch
from simulator.costs.kernels import FLASH, with_kernels
from simulator.costs.memory import activation_bytes
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Elementwise, Operator
from simulator.costs.protocol import Chunk
from simulator.errors import DoesNotFitError, ScenarioError
from simulator.hardware import load_hardware
from simulator.models import load_model
from simulator.models.layout import ALONE
from simulator.resolve import resolve
from simulator.scenario.kernels import Kernels
from simulator.scenario.scenario import Scenario
from tests.rig import (
    BANDWIDTH,
    IDEAL,
    PEAK,
    cost_model,
    decode_shape,
    device,
    limits,
    prompt_shape,
    total,
)

MODEL = "llama-3.2-1b"


def cost(hardware: str, kernels: dict[str, Any] | None = None, **more: Any) -> StepCostModel:
    made = {
        "model": MODEL, "hardware": hardware,
        "engine": {"max_model_len": 4096, "kernels": kernels or {}, **more},
        "workload": {
            "kind": "synthetic", "requests": 1, "arrivals": {"kind": "burst"},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 10}, "output": {"kind": "fixed", "tokens": 10},
            },
        },
    }  # fmt: skip
    found = resolve(Scenario.model_validate(made)).cost
    assert isinstance(found, StepCostModel)
    return found


def prompts(operators: list[Operator]) -> list[PrefillAttention]:
    return [op for op in operators if isinstance(op, PrefillAttention)]


def attention_s(hardware: str, version: str, tokens: int) -> float:
    operators = prompts(cost(hardware, {"attention": version}).operators)
    return total(list(operators), prompt_shape(tokens))


# --- against what the papers say -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "version", "low", "high"),
    [
        ("a100-sxm-80gb", "flash_1", 0.25, 0.40),
        ("a100-sxm-80gb", "flash_2", 0.50, 0.73),
        ("h100-sxm", "flash_2", 0.30, 0.40),
        ("h100-sxm", "flash_3", 0.35 * 1.5, 0.75),
    ],
)
def test_the_share_of_the_peak_is_the_published_one(
    hardware: str, version: str, low: float, high: float
) -> None:
    """Of long prompts, where launches and bytes weigh little."""
    operators = prompts(cost(hardware, {"attention": version}).operators)
    shape = prompt_shape(16_384)
    flops, seconds = total(list(operators), shape, "flops"), total(list(operators), shape)
    reached = flops / seconds / load_hardware(hardware).peak_flops_per_s("bf16")
    assert low <= reached <= high


@pytest.mark.parametrize("tokens", [4096, 8192, 16_384])
def test_each_generation_is_about_twice_as_fast(tokens: int) -> None:
    old, new = (attention_s("a100-sxm-80gb", v, tokens) for v in ("flash_1", "flash_2"))
    assert 1.5 < old / new < 2.1
    second, third = (attention_s("h100-sxm", v, tokens) for v in ("flash_2", "flash_3"))
    assert 1.4 < second / third < 2.0
    # The first one is two to four times as fast as attention that writes its scores.
    assert 1.8 < attention_s("a100-sxm-80gb", "unfused", tokens) / old < 4.5


def test_the_fitted_kernels_of_an_h100_are_between_the_second_and_the_third_or_near() -> None:
    fitted = attention_s("h100-sxm", "fitted", 8192)
    assert attention_s("h100-sxm", "flash_2", 8192) > fitted
    assert fitted == pytest.approx(attention_s("h100-sxm", "flash_3", 8192), rel=0.3)


@pytest.mark.parametrize(
    ("hardware", "version"),
    [("a100-sxm-80gb", "flash_3"), ("mi300x", "flash_2"), ("t4", "flash_2")],
)
def test_what_nobody_has_published_is_refused(hardware: str, version: str) -> None:
    with pytest.raises(ScenarioError, match=f"how fast {version} is on"):
        cost(hardware, {"attention": version})
    for known in FLASH.values():
        assert list(known.values()) == sorted(known.values())


# --- scores that pass the memory -----------------------------------------------------------------


def ideal(kernels: Kernels | None = None) -> list[Operator]:
    machine = device(IDEAL)
    made = cost_model(hardware=machine)
    return with_kernels(made.operators, kernels or Kernels(), machine, machine.efficiency)


def test_unfused_attention_moves_every_score_four_times() -> None:
    before, after = prompts(ideal()), prompts(ideal(Kernels(attention="unfused")))
    shape = prompt_shape(1000, past=500)
    pairs = 1000 * 500 + 1000 * 1001 // 2
    heads = sum(op.heads * op.count for op in after)
    more = total(list(after), shape, "moved") - total(list(before), shape, "moved")
    assert more == pytest.approx(8.0 * heads * pairs)
    assert total(list(after), shape, "flops") == total(list(before), shape, "flops")
    took = total(list(after), shape)
    moved, flops = total(list(after), shape, "moved"), total(list(after), shape, "flops")
    assert took == pytest.approx(moved / BANDWIDTH + flops / PEAK)


def test_unfused_decoding_moves_a_row_of_scores() -> None:
    def decode(operators: list[Operator]) -> list[Operator]:
        return [op for op in operators if isinstance(op, DecodeAttention)]

    before, after = decode(ideal()), decode(ideal(Kernels(attention="unfused")))
    shape = decode_shape(7, 7000)
    heads = sum(op.heads * op.count for op in after if isinstance(op, DecodeAttention))
    more = total(after, shape, "moved") - total(before, shape, "moved")
    assert more == pytest.approx(8.0 * heads * 7000)
    assert sum(op.kernels for op in after) == 4 * sum(op.kernels for op in before)


@pytest.mark.parametrize("version", ["unfused", "flash_1", "flash_3"])
def test_the_clock_and_the_account_agree(version: str) -> None:
    made = cost("h100-sxm", {"attention": version}, cuda_graphs=False)
    for chunks in ([Chunk(700, 0)], [Chunk(300, 100), Chunk(64, 2000)]):
        new = sum(c.new for c in chunks)
        pairs = sum(c.new * c.past + c.new * (c.new + 1) // 2 for c in chunks)
        shape = replace(
            prompt_shape(new),
            read=np.array([float(sum(c.new + c.past for c in chunks))]),
            pairs=np.array([float(pairs)]),
            chunks=np.array([float(len(chunks))]),
        )
        expected = total(list(prompts(made.operators)), shape)
        assert made._attend(chunks) == pytest.approx(expected, rel=1e-9)


def test_scores_take_memory_and_a_long_context_does_not_fit() -> None:
    spec = load_model(MODEL)
    plain = limits(max_model_len=4096, budget=2048)
    scores = activation_bytes(spec, replace(plain, kernels=Kernels(attention="unfused")), ALONE)
    heads = next(group.attention.heads for group in spec.groups if group.attention)
    assert scores - activation_bytes(spec, plain, ALONE) == 2 * 2 * heads * 2048 * 4096
    with pytest.raises(DoesNotFitError):
        cost("h100-sxm", {"attention": "unfused"}, max_model_len=131_072)


# --- fusion --------------------------------------------------------------------------------------


def test_without_fusion_small_kernels_move_their_intermediate_results() -> None:
    def small(operators: list[Operator], name: str) -> Elementwise:
        return next(op for op in operators if isinstance(op, Elementwise) and op.name == name)

    fused, apart = ideal(), ideal(Kernels(fusion=False))
    norm, norms = small(fused, "norm"), small(apart, "norm")
    assert norms.kernels == 9 * norm.kernels
    per_token = norm.count * norm.bytes_per_token
    assert norms.count * norms.bytes_per_token == pytest.approx(per_token * 42 / 8)
    # The activation reads two halves and writes one; alone it also writes and reads one of them.
    one, two = small(fused, "activation"), small(apart, "activation")
    assert two.count * two.bytes_per_token == pytest.approx(
        one.count * one.bytes_per_token * 10 / 6
    )
    shape = decode_shape(8, 8000)
    assert total(apart, shape, "flops") == total(fused, shape, "flops")
    assert total(apart, shape) > total(fused, shape)


# --- where decoding turns ------------------------------------------------------------------------


def test_products_turn_where_arithmetic_takes_as_long_as_the_weights() -> None:
    """Ideal kernels in 16 bits: at peak / bandwidth sequences, somewhat later for activations."""
    turn = turning_batch(ideal(), 100.0, products=True)
    assert turn is not None
    assert PEAK / BANDWIDTH < turn < 1.5 * PEAK / BANDWIDTH


def test_attention_of_long_contexts_never_lets_a_step_turn() -> None:
    operators = ideal()
    short, long = (turning_batch(operators, context) for context in (1.0, 4000.0))
    products = turning_batch(operators, 1.0, products=True)
    assert short is not None
    assert products is not None
    assert short > products
    assert long is None
    assert turning_batch([], 1.0) is None


def test_a_real_model_turns_at_hundreds_of_sequences() -> None:
    """989 TFLOP/s over 3.35 TB/s are 295 FLOPs a byte, one sequence does two a weight of two bytes."""
    turn = turning_batch(cost("h100-sxm").operators, 10.0, products=True)
    assert turn is not None
    assert 0.7 * 295 < turn < 3 * 295
