"""Stages of layers: who has which, their memory, what they cost, and what a run says about them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.costs.memory import memory_budget
from simulator.costs.model import StepCostModel
from simulator.costs.pipeline import PipelineCostModel
from simulator.costs.protocol import Chunk, PipelineCost
from simulator.costs.stage_memory import stages_budget
from simulator.costs.transfers import TENSORS, transfers
from simulator.errors import DoesNotFitError, ScenarioError, UserError
from simulator.models import load_model
from simulator.models.counting import kv_bytes_per_rank, parameters, weight_bytes_per_rank
from simulator.models.layout import ALONE, Layout
from simulator.models.stages import stage_sizes, stage_specs
from simulator.results.perfetto import trace
from simulator.results.result import Result
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from tests.rig import BANDWIDTH, DENSE, IDEAL, LINK, MOE, device, engine, limits, precision, rows

GIB = float(1 << 30)


# --- cutting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [
        (8, 4, [2, 2, 2, 2]),
        (10, 4, [2, 3, 3, 2]),
        (11, 4, [3, 3, 3, 2]),
        (61, 2, [31, 30]),
        (5, 5, [1] * 5),
    ],
)
def test_layers_are_shared_out_as_vllm_does(layers: int, stages: int, sizes: list[int]) -> None:
    assert stage_sizes(layers, stages) == sizes


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gemma-3-27b", "qwen3-30b-a3b"])
def test_stages_have_all_weights_and_all_of_the_cache(name: str) -> None:
    spec = load_model(name)
    parts = stage_specs(spec, 4)
    assert [part.layers for part in parts] == stage_sizes(spec.layers, 4)
    # A tied LM head on another stage than the embedding is a copy of it.
    again = spec.vocab * spec.hidden if spec.tied_embeddings else 0
    assert sum(parameters(part) for part in parts) == parameters(spec) + again
    cached = [kv_bytes_per_rank(part, "bf16", ALONE) for part in parts]
    whole = kv_bytes_per_rank(spec, "bf16", ALONE)
    assert sum(each.full for each in cached) == whole.full
    assert sum(each.local for each in cached) == whole.local


def test_the_first_layers_lie_on_the_first_stage() -> None:
    """DeepSeek-V3's three dense layers come first; Gemma 3 sees everything in every sixth layer."""
    first, *others = stage_specs(load_model("deepseek-v3"), 4)
    assert [group.mlp.kind for group in first.groups if group.mlp] == ["dense", "moe"]
    assert all(group.mlp.kind == "moe" for part in others for group in part.groups if group.mlp)
    gemma = stage_specs(load_model("gemma-3-27b"), 4)
    seen = [sum(g.count for g in part.groups if g.span.kind == "full") for part in gemma]
    assert sum(seen) == 10
    assert max(seen) - min(seen) <= 1


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UserError, match="has 4 layers, which cannot make 5 stages"):
        stage_specs(replace(DENSE, groups=(replace(DENSE.groups[0], count=4),), order=()), 5)


# --- memory --------------------------------------------------------------------------------------


def budget(stages: int, **more: Any) -> Any:
    settings = {"device_gib": 40.0, "fraction": 0.9} | more
    spec = load_model("llama-3.1-8b")
    if stages == 1:
        return memory_budget(spec, engine(), precision(), limits(), ALONE, **settings)
    return stages_budget(spec, engine(), precision(), limits(), Layout(pp=stages), **settings)


def test_blocks_are_those_of_the_tightest_stage() -> None:
    """Two stages of 16 layers: equal but for the logits, for which the last one has buffers."""
    spec = load_model("llama-3.1-8b")
    parts = stage_specs(spec, 2)
    found = [
        memory_budget(part, engine(), precision(), limits(), ALONE, device_gib=40.0, fraction=0.9)
        for part in parts
    ]
    memory, pages = budget(2)
    assert found[1][0].kv_blocks < found[0][0].kv_blocks
    assert pages.blocks == memory.kv_blocks == found[1][0].kv_blocks
    half = spec.layers // 2
    layer = kv_bytes_per_rank(spec, "bf16", ALONE).total / spec.layers
    assert memory.block_bytes == pages.block_size * half * layer
    assert memory.weights_gib == weight_bytes_per_rank(parts[1], "bf16", ALONE) / GIB
    assert "stage 2 of 2" in memory.rule
    used = memory.weights_gib + memory.activations_gib + memory.reserved_gib
    used += memory.kv_cache_gib + memory.unused_gib
    assert used == pytest.approx(40.0)


def test_stages_make_room_for_more_tokens() -> None:
    """Each device holds half of the weights and half of a token's cache: more than twice as many."""
    assert budget(2)[0].kv_tokens > 2 * budget(1)[0].kv_tokens


def test_a_capacity_in_tokens_holds_for_every_stage() -> None:
    memory, pages = budget(2, kv_cache_tokens=16_000)
    assert pages.blocks == 16_000 // pages.block_size
    assert memory.kv_tokens == 16_000
    with pytest.raises(DoesNotFitError, match="has room for"):
        budget(2, kv_cache_tokens=50_000_000)


def test_a_stage_without_room_is_named() -> None:
    with pytest.raises(DoesNotFitError, match="stage 1 of 2"):
        budget(2, device_gib=7.0)


# --- cost ----------------------------------------------------------------------------------------


def pipeline(layout: Layout, spec: Any = DENSE, **options: Any) -> PipelineCostModel:
    return PipelineCostModel(
        spec, device(network=50.0, **options), engine(), precision(), layout, limits()
    )


def plain(spec: Any = DENSE, layout: Layout = ALONE) -> StepCostModel:
    return StepCostModel(spec, device(network=50.0), engine(), precision(), layout, limits())


@pytest.mark.parametrize("spec", [DENSE, MOE])
def test_stages_together_do_what_one_device_does(spec: Any) -> None:
    """Alone in the pipeline a step takes the time of one device, and the way between the stages."""
    cost, one = pipeline(Layout(pp=2), spec), plain(spec)
    assert isinstance(cost, PipelineCost)
    way = transfers(spec, device(network=50.0), engine(), precision(), Layout(pp=2))[0]
    for args in ((1, 50, 0, 0), (7, 900, 0, 0), (64, 30_000, 0, 0)):
        first, slope, _ = cost.decode(*args)
        travel = way.seconds_per_token * args[0] + way.latency_s
        assert first == pytest.approx(one.decode(*args)[0] + travel, rel=1e-9)
        assert slope == pytest.approx(one.decode(*args)[1], rel=1e-9)
    chunks = [Chunk(500, 100), Chunk(20, 0)]
    travel = way.seconds_per_token * 525 + way.latency_s
    took = cost.step(5, 4000, 0, chunks, 7)
    assert took == pytest.approx(one.step(5, 4000, 0, chunks, 7) + travel, rel=1e-9)


def test_hidden_states_pass_the_link() -> None:
    """Two tensors of the hidden width in 16 bits, at the ideal link's rate."""
    (way,) = transfers(DENSE, device(IDEAL), engine(), precision(), Layout(pp=2))
    assert way.bytes_per_token == TENSORS * DENSE.hidden * 2
    assert way.seconds_per_token == pytest.approx(TENSORS * DENSE.hidden * 2 / LINK)


def test_devices_of_a_stage_share_what_travels() -> None:
    """Each sends half, and both put the halves together on the other side."""
    (way,) = transfers(DENSE, device(IDEAL), engine(), precision(), Layout(tp=2, pp=2))
    whole = TENSORS * DENSE.hidden * 2
    assert way.seconds_per_token == pytest.approx(whole / 2 / LINK + whole / 2 / LINK)


def test_the_way_to_another_node_takes_the_network() -> None:
    two_a_node = device(IDEAL, devices=2, network=50.0)
    ways = transfers(DENSE, two_a_node, engine(), precision(), Layout(pp=4))
    fast, slow, last = (way.seconds_per_token for way in ways)
    assert fast == last == pytest.approx(TENSORS * DENSE.hidden * 2 / LINK)
    assert slow == pytest.approx(TENSORS * DENSE.hidden * 2 / (0.9 * 50e9))
    with pytest.raises(UserError, match="do not fit into one node of 2"):
        transfers(DENSE, device(IDEAL, devices=2), engine(), precision(), Layout(pp=4))


def test_the_account_adds_up_to_the_rows() -> None:
    """Seconds of operators are the rows' durations, FLOPs and bytes those of one device, and stages
    are busy for what they do."""
    cost, one = pipeline(Layout(pp=2)), plain()
    table = rows(cost, (0, 0, [Chunk(700, 0)], 1), (3, 2000, [Chunk(90, 30)], 1), (5, 4000, [], 20))  # type: ignore[arg-type]
    work, alone = cost.account(table), one.account(table)
    total = np.sum(list(work.operator_s.values()), axis=0)
    assert total == pytest.approx(table.duration_s)
    assert np.sum(list(work.resource_s.values()), axis=0) == pytest.approx(table.duration_s)
    assert work.model_flops == pytest.approx(alone.model_flops)
    assert work.hbm_bytes == pytest.approx(alone.hbm_bytes)
    assert work.busy_s is not None
    assert 2 * work.busy_s == pytest.approx(table.duration_s - work.operator_s["stage_transfer"])
    # No stage moves bytes faster than its memory.
    assert (work.hbm_bytes <= 2 * BANDWIDTH * work.busy_s * (1 + 1e-9)).all()
    waiting = replace(table, stall_s=0.25 * table.duration_s)
    stalled = cost.account(
        replace(waiting, first_s=table.first_s / 0.75, slope_s=table.slope_s / 0.75)
    )
    assert np.sum(list(stalled.operator_s.values()), axis=0) == pytest.approx(
        table.duration_s / 0.75
    )


# --- whole runs ----------------------------------------------------------------------------------


def run(parallelism: dict[str, int], **changes: Any) -> Result:
    document = {
        "model": "llama-3.1-8b",
        "hardware": "h100-sxm",
        "parallelism": parallelism,
        "workload": {
            "kind": "synthetic",
            "requests": 60,
            "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "uniform", "low": 100, "high": 900},
                "output": {"kind": "uniform", "low": 20, "high": 120},
            },
        },
        "measurement": {"warmup_fraction": 0.0, "include_drain": True},
    } | changes
    result = simulate(Scenario.model_validate(document), intervals=False)
    result.check_integrity()
    return result


def test_bubbles_and_work_fill_the_time() -> None:
    """Busy share and bubbles together are the time in which anything was under way, and power lies
    between that of idle and of busy devices."""
    found = run({"pp": 4}).summary()
    used, energy = found["utilization"], found["energy"]
    assert 0.0 < used["busy_share"] < used["busy_share"] + used["bubble_share"] <= 1.0 + 1e-9
    assert used["bubble_share"] > 0.2
    assert 70.0 < energy["power_w_mean_per_device"] < 700.0
    law = found["checks"]["littles_law"]
    assert law["l"] == pytest.approx(law["lambda_w"], rel=0.02)


def test_a_replica_of_stages_costs_all_of_its_devices() -> None:
    plain, piped = run({"tp": 1}).summary(), run({"pp": 4}).summary()
    assert piped["cost"]["usd_per_hour"] == 4 * plain["cost"]["usd_per_hour"]
    assert plain["utilization"]["bubble_share"] == 0.0
    assert piped["simulated"]["hardware"]["devices"] == 4


def test_one_request_takes_longer_in_stages_and_many_do_not() -> None:
    """Stages do not shorten decode, but all of them together serve more at once."""
    lengths = {
        "kind": "independent",
        "input": {"kind": "fixed", "tokens": 500},
        "output": {"kind": "fixed", "tokens": 100},
    }

    def burst(requests: int) -> dict[str, Any]:
        return {
            "workload": {
                "kind": "synthetic",
                "requests": requests,
                "arrivals": {"kind": "burst"},
                "lengths": lengths,
            }
        }

    alone, staged = run({"tp": 1}, **burst(1)), run({"pp": 2}, **burst(1))
    assert (
        staged.summary()["latency"]["tpot_ms"]["mean"]
        > alone.summary()["latency"]["tpot_ms"]["mean"]
    )
    alone, staged = run({"tp": 1}, **burst(1000)), run({"pp": 2}, **burst(1000))
    assert staged.record.end_s < 0.7 * alone.record.end_s


def test_lanes_are_told_apart_in_files(tmp_path: Path) -> None:
    result = run({"pp": 3})
    assert set(result.timeline["lane"]) == {0, 1, 2}
    assert "lane" not in run({"tp": 1}).timeline
    tracks = [event["args"]["name"] for event in trace(result)["traceEvents"] if event["ph"] == "M"]
    assert tracks == ["replica 0", "steps, lane 0", "steps, lane 1", "steps, lane 2"]
    slices = [event for event in trace(result)["traceEvents"] if event["ph"] == "X"]
    for lane in range(3):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["tid"] == 1 + lane)
        assert all(end <= start + 1e-3 for (_, end), (start, _) in pairwise(mine))
    assert result.save(tmp_path)


def test_ranks_have_a_cache_each() -> None:
    found = run({"dp": 4, "ep": 4}, model="qwen3-30b-a3b").summary()
    used = found["utilization"]
    assert 0.0 < used["busy_share"] <= 1.0
    assert used["busy_share"] + used["bubble_share"] <= 1.0 + 1e-9
    assert found["simulated"]["hardware"]["devices"] == 4


@pytest.mark.parametrize(
    ("parallelism", "changes", "where"),
    [
        ({"pp": 33}, {}, "parallelism.pp"),
        ({"dp": 2}, {}, "parallelism.dp"),
        ({"pp": 2, "dp": 2}, {"model": "qwen3-30b-a3b"}, "parallelism.dp"),
        ({"dp": 2}, {"model": "qwen3-30b-a3b",
                     "engine": {"policy": {"kind": "static", "batch_size": 4}}}, "engine.policy"),
        ({"pp": 2}, {"engine": {"speculative": {"kind": "ngram", "tokens": 3, "acceptance": 0.6}}}, "parallelism.pp"),
        ({"dp": 2}, {"model": "qwen3-30b-a3b",
                     "engine": {"speculative": {"kind": "ngram", "tokens": 3, "acceptance": 0.6}}}, "parallelism.dp"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    parallelism: dict[str, int], changes: dict[str, Any], where: str
) -> None:
    with pytest.raises((ScenarioError, UserError)) as error:
        run(parallelism, **changes)
    assert error.value.where == where
    assert error.value.hint
