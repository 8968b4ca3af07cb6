"""Rooflines: operators within both roofs, sums that are the cost model's step, turning batches."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import simulator
from simulator.cli import cli
from simulator.costs.protocol import Chunk, step_seconds
from simulator.errors import UserError
from simulator.resolution.pools import resolve_pools
from simulator.rooflines import Roofline, RooflineStep

KINDS = {
    "dense": "chat-8b-h100",
    "moe": "moe-30b-a3b-h100",
    "mla, tp 8": "mla-deepseek-v3-h200",
    "hybrid": "hybrid-9b-h100",
    "window": "window-gemma-3-27b-h100",
    "pipeline": "pipeline-70b-l40s",
    "lockstep": "data-parallel-attention-deepseek-v3-h200",
    "context": "context-70b-h200",
    "sharded": "sharded-70b-h100",
    "drafts": "speculative-eagle-8b-h100",
    "pools": "disaggregated-70b-h100",
}


@cache
def found(name: str, part: str | None = None, **sizes: Any) -> Roofline:
    return simulator.roofline(simulator.load_scenario(name), part=part, **sizes)


def every_step(name: str) -> list[tuple[Roofline, RooflineStep]]:
    lines = [found(name, part) for part in found(name).parts]
    return [(line, step) for line in lines for step in line.steps]


ON_KINDS = pytest.mark.parametrize("name", KINDS.values(), ids=KINDS.keys())


@ON_KINDS
def test_no_operator_is_above_a_roof(name: str) -> None:
    for line, step in every_step(name):
        peaks = {roof.format: roof.peak_flops_per_s for roof in line.roofs}
        assert step.operators
        for op in step.operators:
            assert 0.0 < op.floor_s <= op.seconds * (1 + 1e-9), op
            assert op.bytes_per_s <= line.bytes_per_s * (1 + 1e-9), op
            assert bool(op.flops) == bool(op.format) == (op.intensity is not None), op
            if op.flops:
                roof = min(peaks[op.format], op.flops / op.bytes * line.bytes_per_s)
                assert op.flops_per_s <= roof * (1 + 1e-9), op
                assert op.intensity == pytest.approx(op.flops / op.bytes)
        for roof in line.roofs:
            assert roof.fitted_flops_per_s <= roof.peak_flops_per_s
            assert roof.fitted_bytes_per_s <= roof.bytes_per_s == line.bytes_per_s
            assert roof.ridge == roof.peak_flops_per_s / line.bytes_per_s
        assert 0.0 < step.flops_share <= 1.0
        assert 0.0 < step.bytes_share <= 1.0


@ON_KINDS
def test_operators_and_host_add_up_to_the_step(name: str) -> None:
    for _, step in every_step(name):
        device = sum(op.seconds for op in step.operators)
        assert device + step.host_s + step.gather_s == pytest.approx(step.seconds, rel=1e-9)
        shares = sum(op.share for op in step.operators)
        assert shares + (step.host_s + step.gather_s) / step.seconds == pytest.approx(1.0)
        assert sum(step.resource_share.values()) == pytest.approx(1.0)
        assert step.bound == max(step.resource_share, key=step.resource_share.__getitem__)


@pytest.mark.parametrize("kind", ["dense", "moe", "mla, tp 8", "window", "lockstep", "context"])
def test_a_step_takes_what_the_clock_is_told(kind: str) -> None:
    name = KINDS[kind]
    cost = resolve_pools(simulator.load_scenario(name))[0].resolved.cost
    line = found(name, batch=24, context=3000, prompt_tokens=2000)
    near = min(3000, cost.local_span) if cost.local_span else 0
    assert line.decode is not None
    assert line.prefill is not None
    assert line.decode.seconds == step_seconds(cost, 24, 24 * 3000, 24 * near, (), 24)
    assert line.prefill.seconds == step_seconds(cost, 0, 0, 0, [Chunk(2000, 0)], 1)
    assert line.sweep is not None
    assert line.sweep.seconds[line.sweep.batch.index(24)] == line.decode.seconds
    assert (line.decode.sequences, line.decode.context, line.prefill.tokens) == (24, 3000, 2000)


def test_decode_of_a_dense_model_has_the_intensity_of_the_textbook() -> None:
    """Products of B tokens do 2·B FLOPs for each 16-bit weight, so B FLOP/byte at first; decode
    attention of GQA does heads/KV heads FLOP/byte whatever the batch."""
    for batch in (1, 8):
        step = found("chat-8b-h100", batch=batch, context=4000).decode
        assert step is not None
        ops = {op.name: op for op in step.operators}
        up, attention = ops["up_proj"], ops["decode_attention"]
        assert up.intensity == pytest.approx(step.padded_tokens, rel=0.02)
        assert attention.intensity == pytest.approx(32 / 8, rel=0.01)
        assert up.bound == "memory"
    assert attention.bound == "memory"
    prefill = found("chat-8b-h100", prompt_tokens=8000).prefill
    assert prefill is not None
    assert prefill.bound == "compute"


def test_devices_that_share_layers_have_operators_on_links() -> None:
    scenario = simulator.load_scenario("chat-8b-h100", "parallelism.tp=2")
    step = simulator.roofline(scenario, batch=64).decode
    assert step is not None
    links = [op for op in step.operators if op.kernels == "links"]
    assert {op.name for op in links} == {"all_reduce", "all_gather"}
    assert all(op.link_bytes > 0.0 and op.intensity is None for op in links)
    assert step.resource_share["network"] > 0.0
    alone = found("chat-8b-h100", batch=64).decode
    assert alone is not None
    assert alone.resource_share["network"] == 0.0
    assert not any(op.link_bytes for op in alone.operators)


@pytest.mark.parametrize("kind", ["dense", "moe", "hybrid", "context", "lockstep"])
def test_turning_batches_are_those_of_check(kind: str) -> None:
    out = CliRunner().invoke(cli, ["check", KINDS[kind], "--json"]).output
    told = json.loads(out)["compute_bound_batch"]
    line = found(KINDS[kind])
    if told is None:
        assert line.turning is None
        assert "a turning batch is not told" in " ".join(line.notes)
        return
    assert line.turning is not None
    assert line.context == told["context_tokens"]
    assert (line.turning.products, line.turning.whole_step) == (
        told["products"], told["whole_step"],
    )  # fmt: skip
    assert line.sweep is not None
    if line.turning.products is not None and line.turning.products <= 2048:
        assert line.turning.products in line.sweep.batch


def test_products_turn_where_their_operators_do() -> None:
    """Without the padding of graphs: a fifth below the turning batch the products that take most of
    the time wait for memory, a fifth above it for arithmetic."""
    scenario = simulator.load_scenario("chat-8b-h100", "engine.cuda_graphs=false")
    line = simulator.roofline(scenario)
    assert line.turning is not None
    turn = line.turning.products
    assert turn is not None
    for share, resource in ((0.8, "memory"), (1.2, "compute")):
        step = simulator.roofline(scenario, batch=round(share * turn)).decode
        assert step is not None
        products = [op for op in step.operators if op.kernels == "products"]
        assert {op.bound for op in products[:3]} == {resource}


def test_drafts_turn_products_earlier() -> None:
    """A sequence with three drafts brings four tokens to products, which share their weights."""
    verify, plain = (found(KINDS["drafts"], part).turning for part in found(KINDS["drafts"]).parts)
    assert verify is not None
    assert plain is not None
    assert verify.products is not None
    assert plain.products is not None
    assert verify.products == -(-plain.products // 4)
    step = found(KINDS["drafts"]).decode
    assert step is not None
    assert step.tokens == 4


def test_longer_batches_take_longer_and_shares_stay_shares() -> None:
    sweep = found("moe-30b-a3b-h100").sweep
    assert sweep is not None
    assert list(sweep.batch) == sorted(set(sweep.batch))
    assert (np.diff(sweep.seconds) >= 0.0).all()
    assert np.sum(list(sweep.resource_share.values()), axis=0) == pytest.approx(1.0)


def test_parts_are_pools_stages_and_drafts() -> None:
    assert found(KINDS["dense"]).parts == ("every device",)
    assert found(KINDS["pipeline"]).parts == tuple(f"stage {n} of 4" for n in (1, 2, 3, 4))
    assert found(KINDS["drafts"]).parts == ("steps that verify drafts", "steps without drafts")
    assert found(KINDS["pools"]).parts == ("prefill", "decode")
    prompts, decoding = found(KINDS["pools"], "prefill"), found(KINDS["pools"], "decode")
    assert prompts.decode is prompts.sweep is prompts.turning is None
    assert decoding.prefill is None
    last = found(KINDS["pipeline"], "stage 4 of 4").decode
    first = found(KINDS["pipeline"]).decode
    assert last is not None
    assert first is not None
    assert {"lm_head", "sampling"} <= {op.name for op in last.operators}
    assert "lm_head" not in {op.name for op in first.operators}


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"part": "rank 3"}, "part: the deployment has no part 'rank 3'; it has 'every device'"),
        ({"batch": 0}, "batch: must be at least 1, not 0"),
        ({"batch": 2000}, "batch: 2,000 is more than the 1,024 that the engine allows; at most "
                          "1,024, or raise engine.max_num_seqs"),
        ({"context": 10**6}, "context: 1,000,000 is more than the 131,072 that the engine allows; "
                             "at most 131,072, or raise engine.max_model_len"),
        ({"prompt_tokens": 10**5}, "prompt_tokens: 100,000 is more than the 8,192 that the engine "
                                   "allows; at most 8,192, or raise engine.max_num_batched_tokens"),
    ],
)  # fmt: skip
def test_what_the_engine_never_does_is_refused(sizes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        found("chat-8b-h100", **sizes)
    assert str(error.value) == sentence


def test_a_batch_beyond_the_cache_is_told() -> None:
    line = found("chat-8b-h100", batch=1024)
    assert line.most_in_cache < 1024
    assert line.notes == (
        f"The KV cache holds {line.most_in_cache} sequences of {line.context:,} tokens, so a batch "
        "of 1,024 never comes about.",
    )


def test_the_command_prints_it_and_its_json() -> None:
    asked = ["roofline", "chat-8b-h100", "--batch", "64", "--set", "parallelism.tp=2"]
    shown = CliRunner().invoke(cli, asked)
    assert shown.exit_code == 0, shown.output
    assert "Decode of 64 sequences with 1,276 of context each" in shown.output
    assert "all_reduce" in shown.output
    assert "Decode turns compute-bound: products from " in shown.output
    plain = json.loads(CliRunner().invoke(cli, [*asked, "--json"]).output)
    scenario = simulator.load_scenario("chat-8b-h100", "parallelism.tp=2")
    again = simulator.roofline(scenario, batch=64).as_dict()
    assert plain == json.loads(json.dumps({"name": "chat-8b-h100", **again}))
    assert plain["roofs"][0]["ridge"] == pytest.approx(989e12 / 3.35e12, rel=0.01)
    wrong = CliRunner().invoke(cli, ["roofline", "chat-8b-h100", "--part", "x"])
    assert wrong.exit_code == 2
