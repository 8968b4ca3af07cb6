"""A point's scenario replays how the point was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.validate import Point, read_dataset
from calibration.validate.formats import target
from calibration.validate.protocol import exclusion, protocols, scenario_of
from calibration.validate.splits import assign, group_seen, half_of, splits
from simulator import Scenario, simulate
from tests.test_validate_schema import HEADER, SAMPLE, one


def scenario(point: Point) -> Scenario:
    return scenario_of(point, target(point))


def sample(text: str) -> Point:
    return next(p for p in read_dataset(SAMPLE).points if text in p.group)


def sweep(folder: Path, row: str, more: str = "") -> Scenario:
    header = HEADER + ",precision,tp" + (",measured_on" if more else "")
    return scenario(one(folder, header, row + more))


def test_the_sweep_is_a_closed_loop_that_starts_with_a_burst(tmp_path: Path) -> None:
    found = sweep(tmp_path, "llama-3.1-70b,h200_sxm,vllm,8192,1024,16,50,9,fp8,4")
    workload = found.workload.model_dump()
    assert workload["arrivals"]["kind"] == "closed_loop"
    assert (workload["arrivals"]["concurrency"], workload["requests"]) == (16, 160)
    assert workload["lengths"]["input"] == {"kind": "uniform", "low": 6553, "high": 8192}
    assert workload["lengths"]["output"] == {"kind": "uniform", "low": 819, "high": 1024}
    assert (found.measurement.warmup_fraction, found.measurement.include_drain) == (0.0, True)
    engine = found.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (16, 8192)
    assert (engine.memory_fraction, engine.prefix_caching) == (0.9, False)
    assert found.precision.model_dump(exclude_none=True) == {
        "weights": "fp8", "activations": "fp8", "kv_cache": "fp8",
    }  # fmt: skip
    assert found.parallelism.tp == 4


def test_the_replay_is_what_the_scenario_says(tmp_path: Path) -> None:
    record = simulate(sweep(tmp_path, "llama-3.1-70b,h200_sxm,vllm,1024,1024,4,50,9,fp8,8")).record
    assert len(record.requests) == 40
    assert np.count_nonzero(record.sent_s == 0.0) == 4
    assert set(record.generated) <= set(range(819, 1025))
    assert (record.generated == record.requests.output_tokens).all()
    prompts = record.requests.input_tokens
    assert 819 <= prompts.min() < 870 < 980 < prompts.max() <= 1024
    assert (record.cached_tokens == 0).all()
    # Never more than four are under way: each next one is sent when an answer has ended.
    for at in record.sent_s:
        assert np.count_nonzero((record.sent_s <= at) & (record.finish_s > at)) <= 4


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("gpt-oss-120b,b200,vllm,1024,1024,8,50,9,fp4,1", (512, 8192, 0.9, "fp8")),
        ("gpt-oss-120b,h200,vllm,1024,1024,8,50,9,fp4,1", (8, 8192, 0.9, None)),
        ("minimax-m2.5,b200,vllm,1024,1024,8,50,9,fp8,4", (None, 8192, 0.95, None)),
        ("minimax-m2.5,b200,vllm,1024,1024,8,50,9,fp4,4", (8, 8192, 0.9, None)),
        ("deepseek-r1,b200,trtllm,8192,1024,256,50,9,fp8,8", (None, 8512, 0.8, "fp8")),
        ("deepseek-r1,b200,trtllm,1024,1024,256,50,9,fp4,8", (None, 8192, 0.8, "fp8")),
        ("deepseek-r1,h200,trtllm,1024,1024,32,50,9,fp8,8", (32, 1152, 0.75, "fp8")),
        ("deepseek-r1,h200,sglang,1024,1024,32,50,9,fp8,8", (256, 32768, 0.82, None)),
        ("llama-3.1-70b,h200,trtllm,1024,1024,32,50,9,fp8,8", (None, 2248, 0.9, "fp8")),
    ],
)
def test_servers_of_the_sweep(tmp_path: Path, row: str, expected: tuple[object, ...]) -> None:
    found = sweep(tmp_path, row)
    engine = found.engine
    settings = (engine.max_num_seqs, engine.max_num_batched_tokens, engine.memory_fraction)
    assert (*settings, found.precision.kv_cache) == expected


def test_what_a_row_states_goes_first(tmp_path: Path) -> None:
    header = HEADER + ",num_prompts,range_ratio,max_num_seqs,memory_fraction,kv_cache,weights"
    found = scenario(one(tmp_path, header, "llama-3.1-70b,h200,vllm,1024,1024,16,50,9,7,1,4,0.8,bf16,fp8"))  # fmt: skip
    assert (found.engine.max_num_seqs, found.engine.memory_fraction) == (4, 0.8)
    workload = found.workload.model_dump()
    assert workload["requests"] == 7
    assert workload["lengths"]["input"] == {"kind": "fixed", "tokens": 1024}
    assert found.precision.model_dump(exclude_none=True) == {
        "weights": "fp8", "kv_cache": "bf16",
    }  # fmt: skip


def test_rows_without_a_date_and_own_rows_have_defaults_of_their_own(tmp_path: Path) -> None:
    own = scenario(one(tmp_path)).workload.model_dump()
    assert (own["requests"], own["lengths"]["input"]) == (80, {"kind": "fixed", "tokens": 1000})
    rate = one(tmp_path, HEADER.replace("concurrency", "rate_per_s"))
    arrivals = scenario(rate).workload.model_dump()
    assert arrivals["arrivals"] == {"kind": "poisson", "rate_per_s": 8.0}
    assert arrivals["requests"] == 1000
    lockstep = scenario(sample("sglang / 0.5.1")).workload.model_dump()
    assert lockstep["lengths"]["output"]["kind"] == "fixed"
    vendor = scenario(sample("Qwen3-32B / h100_sxm / vllm")).workload.model_dump()
    assert vendor["lengths"]["output"]["kind"] == "uniform"


def test_every_setting_has_a_source() -> None:
    for entry in (*protocols().clients, *protocols().servers, *protocols().excluded):
        assert len(entry.source) > 20


def test_rows_that_ran_with_more_than_they_say_are_excluded() -> None:
    found = [p for p in read_dataset(SAMPLE).points if exclusion(p, target(p))]
    assert [(p.version, p.measured_on) for p in found] == [("1.2.0rc6.post3", "2026-02-05")]
    assert "MTP" in exclusion(found[0], target(found[0]))
    later = found[0].model_copy(update={"measured_on": "2026-07-01"})
    assert exclusion(later, target(later)) == ""


def test_every_point_of_the_sample_has_a_scenario() -> None:
    for point in read_dataset(SAMPLE).points:
        assert scenario(point).workload.requests == 10 * (point.concurrency or 0)


def test_splits_keep_groups_together_and_follow_their_rule() -> None:
    everything = [p for p in read_dataset(SAMPLE).points if not exclusion(p, target(p))]
    assert {half_of(p) for p in everything if p.spread} == {"validation"}
    points = [p for p in everything if not p.spread]
    known = {entry.group: entry.half for entry in splits().groups}
    assert {point.group for point in points} == set(known)
    for point in points:
        assert group_seen(point) == (known[point.group] == "fit")
        if known[point.group] == "validation":
            assert half_of(point) == "validation"
    assert {half_of(p) for p in points if known[p.group] == "fit"} == {"fit", "validation"}
    assert {entry.group for entry in assign(points)} == set(known)
    for engine in ("vllm", "tensorrt-llm", "sglang"):
        own = [entry for entry in splits().groups if entry.engine == engine]
        assert own == sorted(own, key=lambda entry: (-entry.rows, entry.group))
        assert [entry.half for entry in own] == [("fit", "validation")[i % 2] for i in range(len(own))]  # fmt: skip


def test_a_row_under_another_id_stays_in_its_half(tmp_path: Path) -> None:
    for point in read_dataset(SAMPLE).points:
        again = point.model_copy(update={"id": "another"})
        assert half_of(again) == half_of(point)
    assert half_of(one(tmp_path)) == "validation"  # a group that no fit has seen


def test_batches_wait_where_the_sweep_made_them_wait(tmp_path: Path) -> None:
    def policy(row: str) -> dict[str, object] | None:
        found = sweep(tmp_path, row).engine.policy
        return None if found is None else found.model_dump()

    waits = {"kind": "full_reservation", "chunked_prefill": False}
    assert policy("llama-3.1-70b,h200,trtllm,1024,1024,32,50,9,fp8,4") == {
        **waits, "wait_steps": 20, "wait_fill": 0.9,
    }  # fmt: skip
    assert policy("llama-3.1-70b,h200,trtllm,1024,1024,32,50,9,fp8,8") is None
    assert policy("llama-3.1-70b,h200,trtllm,8192,1024,32,50,9,fp8,4") is None
    assert policy("deepseek-r1,b200,trtllm,1024,1024,64,50,9,fp8,8") == {
        **waits, "wait_steps": 40, "wait_fill": 0.8,
    }  # fmt: skip
    assert policy("deepseek-r1,b200,trtllm,1024,1024,256,50,9,fp8,8") is None


@pytest.mark.parametrize(
    ("version", "release"), [("0.11.1", "0.11.1"), ("nightly-5b8c30d", None), ("", None)]
)
def test_a_rows_release_goes_into_the_scenario(
    tmp_path: Path, version: str, release: str | None
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "model,system,engine,version,isl,osl,concurrency,tp,ttft_ms\n"
        f"qwen3-8b,h100,vllm,{version},512,64,4,1,50\n"
    )
    point = read_dataset(str(file)).points[0]
    found = scenario_of(point, target(point))
    assert found.engine.version == release
