"""LoRA adapters: what they cost, who waits for whom, and what has to be loaded.

Worked out by hand where a step with prompts takes two seconds and a decode step one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import run_cluster
from simulator.costs.lora import AdapterCost, AdapterPlan, adapter_plan
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware
from simulator.models import load_model
from simulator.models.layout import ALONE, Layout
from simulator.resolve import resolve
from simulator.results import Result
from simulator.results.record import RunRecord
from simulator.scenario.lora import Adapters, Lora
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.adapters import assigned
from simulator.workload.mix import merge
from simulator.workload.requests import Requests
from tests.agreement import REQUEST_COLUMNS
from tests.metronome import Metronome, same
from tests.rig import limits, requests
from tests.sane import check_record
from tests.strategies import CONTINUOUS, Case, cases, examples, make_requests

FREE = AdapterCost(1, 0.0, 0.0, 16, 0.0, 1.0, 1.0)
"""Products that take no time, of adapters that have no bytes."""


def plan(most: int, load_s: float = 0.0) -> AdapterPlan:
    """Room for so many adapters of rank 16, each of which takes so long to load."""
    width = load_s / 32.0  # bytes of rank 16: 2 · 16 · width
    return AdapterPlan(most, replace(FREE, width=width, bandwidth=1e30, compute=1e30), 1.0)


def asking(asked: Requests, adapters: list[int]) -> Requests:
    made = replace(asked, adapters=np.array(adapters), adapter_ranks=(16,) * (max(adapters) + 1))
    made.check_integrity()
    return made


def run(asked: Requests, adapters: AdapterPlan, *, seqs: int = 8, **more: Any) -> RunRecord:
    settings = replace(
        limits(seqs=seqs, budget=100, block_size=4, max_model_len=2000), adapters=adapters
    )
    record = run_cluster(asked, settings, 1000, Metronome(), **more)
    check_record(record, settings)
    return record


# --- who runs ------------------------------------------------------------------------------------


def test_requests_with_one_adapter_too_many_wait_and_those_behind_them_go() -> None:
    """One slot: 0 and 2 share its adapter, 1 waits until both have ended at 4."""
    asked = asking(requests((0.0, 4, 3), (0.0, 4, 3), (0.0, 4, 3)), [0, 1, 0])
    record = run(asked, plan(1))
    same(record.start_s, [0.0, 4.0, 0.0])
    same(record.finish_s, [4.0, 8.0, 4.0])
    assert record.steps.adapters.max() == 1


def test_requests_without_an_adapter_need_no_slot() -> None:
    asked = asking(requests((0.0, 4, 3), (0.0, 4, 3), (0.0, 4, 3)), [0, 1, -1])
    same(run(asked, plan(1)).start_s, [0.0, 4.0, 0.0])


def test_an_arrival_that_may_run_is_not_kept_by_one_that_may_not() -> None:
    """1 waits for a slot while 0 decodes; 2, with the adapter of 0, comes at 4.5 and starts at 5."""
    asked = asking(requests((0.0, 4, 20), (1.0, 4, 3), (4.5, 4, 3)), [0, 1, 0])
    record = run(asked, plan(1))
    same(record.start_s, [0.0, record.finish_s[0], 5.0])


def test_all_run_together_where_there_is_room() -> None:
    asked = asking(requests((0.0, 4, 3), (0.0, 4, 3), (0.0, 4, 3)), [0, 1, 0])
    record = run(asked, plan(2))
    same(record.start_s, [0.0, 0.0, 0.0])
    assert record.steps.adapters.max() == 2
    assert record.adapter_counts is not None
    assert (record.adapter_counts.asked, record.adapter_counts.loads) == (3, 2)


def test_the_least_recently_used_adapter_goes() -> None:
    """Two slots; one request after the other asks for 0, 1, 0, 2, 1: 1 goes for 2, 0 for 1."""
    asked = asking(requests(*[(10.0 * i, 4, 2) for i in range(5)]), [0, 1, 0, 2, 1])
    record = run(asked, plan(2, load_s=0.5))
    same(record.steps.stall_s[record.steps.prefill > 0], [0.5, 0.5, 0.0, 0.5, 0.5])
    assert record.adapter_counts is not None
    assert record.adapter_counts.loads == 4
    assert record.adapter_counts.load_s == 2.0
    # The step waits for the adapter: two seconds and a half to the first token.
    same(record.first_token_s - record.sent_s, [2.5, 2.5, 2.0, 2.5, 2.5])


def test_with_room_and_free_products_nothing_changes() -> None:
    asked = requests(*[(0.7 * i, 4 + i % 3, 2 + i % 7) for i in range(40)])
    adapters = [i % 5 - 1 for i in range(40)]
    base = run(asked, plan(5))
    with_ = run(asking(asked, adapters), plan(5))
    for column in REQUEST_COLUMNS:
        same(getattr(with_, column), getattr(base, column).tolist())


@examples(120)
@given(cases(st.sampled_from(CONTINUOUS[:2]), prefix_caching=True), st.integers(1, 4), st.data())
def test_the_scheduler_is_the_plain_one_if_all_adapters_fit(
    case: Case, count: int, data: st.DataObject
) -> None:
    """To the last bit, under preemption and prefix caching as well."""
    asked = make_requests(case.reqs, case.users)
    chosen = [data.draw(st.integers(-1, count - 1)) for _ in case.reqs]
    same_keys = replace(asked, adapters=np.array(chosen), adapter_ranks=(16,) * count)

    def go(traffic: Requests, adapters: AdapterPlan | None) -> RunRecord:
        settings = replace(case.limits, adapters=adapters)
        return run_cluster(traffic, settings, case.kv_blocks, case.cost, **case.delays)

    base, with_ = go(asked, None), go(same_keys, plan(count))
    for column in REQUEST_COLUMNS:
        np.testing.assert_array_equal(getattr(with_, column), getattr(base, column))


@examples(120)
@given(cases(st.sampled_from(CONTINUOUS[:2])), st.integers(1, 3), st.integers(1, 5), st.data())
def test_laws_hold_where_adapters_are_scarce(
    case: Case, most: int, count: int, data: st.DataObject
) -> None:
    asked = make_requests(case.reqs, case.users)
    chosen = [data.draw(st.integers(-1, count - 1)) for _ in case.reqs]
    asked = replace(asked, adapters=np.array(chosen), adapter_ranks=(16,) * count)
    settings = replace(case.limits, adapters=plan(most, load_s=2.0**-7))
    record = run_cluster(asked, settings, case.kv_blocks, case.cost)
    check_record(record, settings)
    assert record.steps.adapters.max(initial=0) <= min(most, count)
    assert np.isfinite(record.finish_s).all()
    assert record.adapter_counts is not None
    used = sum(1 for adapter in chosen if adapter >= 0)
    assert record.adapter_counts.asked == used + record.preemptions[np.array(chosen) >= 0].sum()
    assert record.adapter_counts.loads >= len(set(chosen) - {-1})


# --- what they cost ------------------------------------------------------------------------------


def test_products_by_hand() -> None:
    """Llama-3.2-1B: 16 layers, hidden 2048, 32 heads of 64, 8 KV heads, 8192 wide."""
    spec, hardware = load_model("llama-3.2-1b"), load_hardware("h100-sxm")
    found = adapter_plan(Lora(max_loras=4), spec, hardware, hardware.efficiency, ALONE)
    shapes = [(2048, 3072), (2048, 2048), (2048, 16_384), (8192, 2048)]
    width = 16 * sum(k + n for k, n in shapes)
    assert found.cost.layers == 64
    assert found.cost.bytes_of(16) == 2 * 16 * width
    assert found.cost.flops(10) == 2 * 10 * 16 * width
    # Per token: inputs, outputs read and written, and what is in between in 32 bits.
    traffic = 16 * sum(2 * k + 4 * n for k, n in shapes) + 64 * 16 * 8
    assert found.cost.moved(3, 10) == 3 * 2 * 16 * width + 10 * traffic
    assert found.load_s(8) == pytest.approx(2 * 8 * width / found.host_bytes_per_s)
    assert found.slots_gib == pytest.approx(4 * 2 * 16 * width / 2**30)
    queries = adapter_plan(
        Lora(max_loras=4, targets=("qkv",)), spec, hardware, hardware.efficiency, ALONE
    )
    assert queries.cost.bytes_of(1) == 2 * 16 * (2048 + 3072)
    halves = adapter_plan(Lora(max_loras=4), spec, hardware, hardware.efficiency, Layout(tp=2))
    assert 0.5 < halves.cost.bytes_of(16) / found.cost.bytes_of(16) < 0.8


def test_floors_and_limits() -> None:
    spec, hardware = load_model("llama-3.1-8b"), load_hardware("h100-sxm")
    cost = adapter_plan(Lora(max_loras=4), spec, hardware, hardware.efficiency, ALONE).cost
    bandwidth, peak = hardware.bandwidth_bytes_per_s, hardware.peak_flops_per_s("bf16")
    assert cost.seconds(0, 0) == 0.0
    for distinct, tokens in ((1, 1), (1, 4000), (64, 64), (256, 8192)):
        took = cost.seconds(distinct, tokens)
        assert took >= cost.moved(distinct, tokens) / bandwidth
        assert took >= cost.flops(tokens) / peak
        demand = cost.demand(np.array([float(distinct)]), np.array([float(tokens)]))
        assert demand.seconds[0] == pytest.approx(took)
    # Many different adapters, a token each: their weights are what takes the time.
    many = cost.demand(np.array([256.0]), np.array([256.0]))
    weights_s = 256 * cost.bytes_of(16) / bandwidth
    assert many.memory_s[0] > 10 * many.compute_s[0]
    assert weights_s < many.seconds[0] < 2 * weights_s
    # One adapter for as many tokens: its weights hardly count.
    one = cost.demand(np.array([1.0]), np.array([256.0]))
    assert one.seconds[0] < many.seconds[0] / 4


# --- traffic -------------------------------------------------------------------------------------


def test_popularity_follows_zipf() -> None:
    n = 200_000
    asked = requests(*[(0.0, 4, 1)] * 10)
    many = replace(
        asked,
        **{c: np.resize(getattr(asked, c), n) for c in (
            "arrival_s", "input_tokens", "output_tokens", "class_id", "parent", "pool", "session")},
    )  # fmt: skip
    made = assigned(many, Adapters(count=50, zipf=1.2, share=0.8), np.random.default_rng(1))
    assert made.adapters is not None
    counts = Counter(made.adapters.tolist())
    assert counts.pop(-1) / n == pytest.approx(0.2, abs=0.005)
    weights = np.arange(1, 51) ** -1.2
    for i in (0, 1, 9):
        expected = 0.8 * weights[i] / weights.sum()
        assert counts[i] / n == pytest.approx(expected, rel=0.05)


def traffic(**workload: Any) -> Requests:
    made = Scenario.model_validate(
        {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": workload}
    )
    asked = build_requests(made.workload, np.random.default_rng(4))
    asked.check_integrity()
    return asked


def test_a_session_keeps_its_adapter_and_a_prompt_all_its_answers() -> None:
    ten = {"kind": "fixed", "tokens": 10}
    talks = traffic(
        kind="sessions", requests=60, arrivals={"kind": "burst"}, turns={"kind": "fixed", "tokens": 4},
        user_tokens=ten, output_tokens=ten, adapters={"count": 9},
    )  # fmt: skip
    assert talks.adapters is not None
    for session in range(15):
        assert len(set(talks.adapters[talks.session == session].tolist())) == 1
    assert len(set(talks.adapters.tolist())) > 5
    several = traffic(
        kind="synthetic", requests=30, arrivals={"kind": "burst"}, samples={"n": 3},
        lengths={"kind": "independent", "input": ten, "output": ten}, adapters={"count": 9},
    )  # fmt: skip
    assert several.adapters is not None
    assert (several.adapters.reshape(30, 3) == several.adapters[::3, None]).all()


def test_texts_under_different_adapters_are_different_texts() -> None:
    texts = [[(7, 4)], [(7, 4)], [(7, 4)]]
    asked = requests((0.0, 8, 1), (10.0, 8, 1), (20.0, 8, 1), texts=texts)
    names = [0, 1, 0]
    made = None
    for seed in range(200):  # the draw that gives these adapters
        made = assigned(asked, Adapters(count=2), np.random.default_rng(seed))
        assert made.adapters is not None
        if made.adapters.tolist() == names:
            break
    assert made is not None
    settings = limits(block_size=4, prefix_caching=True, max_model_len=2000)
    record = run_cluster(made, replace(settings, adapters=plan(2)), 100, Metronome())
    same(record.cached_tokens, [0, 0, 4])


def test_a_mix_keeps_adapters_of_classes_apart() -> None:
    first = asking(requests((0.0, 4, 1), (2.0, 4, 1)), [0, 1])
    second = asking(requests((1.0, 4, 1)), [0])
    both = merge([first, requests((3.0, 4, 1)), second], ["a", "b", "c"])
    both.check_integrity()
    assert both.adapters is not None
    same(both.adapters, [0, 2, 1, -1])
    assert both.adapter_ranks == (16, 16, 16)


# --- whole scenarios -----------------------------------------------------------------------------


def scenario(adapters: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    fields = {
        "model": "llama-3.2-1b", "hardware": "h100-sxm",
        "engine": {"lora": {"max_loras": 4}},
        "workload": {
            "kind": "synthetic", "requests": 150, "adapters": adapters,
            "arrivals": {"kind": "poisson", "rate_per_s": 30.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "uniform", "low": 50, "high": 300},
                "output": {"kind": "uniform", "low": 5, "high": 60},
            },
        },
    }  # fmt: skip
    return Scenario.model_validate(fields | changes)


def result(adapters: dict[str, Any] | None = None, **changes: Any) -> Result:
    return simulate(scenario(adapters, **changes), intervals=False)


def test_operators_host_and_loads_add_up_to_the_clock() -> None:
    found = result({"count": 12, "zipf": 1.0})
    steps = found.record.steps
    work = found.accountant.account(steps)
    np.testing.assert_allclose(sum(work.operator_s.values()), steps.duration_s, rtol=1e-9)
    np.testing.assert_allclose(sum(work.resource_s.values()), steps.duration_s, rtol=1e-9)
    assert (work.operator_s["adapters"][steps.adapter_tokens > 0] > 0).all()
    section = found.summary()["adapters"]
    assert section["requests"] == 150
    assert section["loads"] >= 12
    assert section["hit_rate"] == pytest.approx(1 - section["loads"] / 150)
    assert section["load_s"] == pytest.approx(steps.stall_s.sum())
    assert 0.0 < section["time_share"] < 0.5
    assert section["distinct_max"] <= 4
    assert not found.summary()["checks"]["violations"]


def test_room_for_adapters_alone_takes_memory_and_no_time() -> None:
    plain, room = result(engine={}), result(None)
    assert room.summary()["adapters"] == {}
    for column in REQUEST_COLUMNS:
        same(getattr(room.record, column), getattr(plain.record, column).tolist())
    lost = plain.deployment.memory.kv_cache_gib - room.deployment.memory.kv_cache_gib
    adapters = room.deployment.limits.adapters
    assert adapters is not None
    assert lost == pytest.approx(adapters.slots_gib, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": {}}, "the engine has no room for any"),
        ({"engine": {"lora": {"max_loras": 4, "max_rank": 8}}}, "do not fit into slots for rank 8"),
        ({"engine": {"lora": {"max_loras": 4}, "max_num_seqs": 2, "max_num_batched_tokens": 64}}, "4 adapters at once need as many sequences"),
        ({"engine": {"lora": {"max_loras": 4}, "policy": {"kind": "static", "batch_size": 4}}}, "together with batches that run to their end"),
        ({"engine": {"lora": {"max_loras": 4}, "queue": {"kind": "priority"}}}, "together with the order priority"),
        ({"model": "qwen3-30b-a3b"}, "adapters on up and down are simulated for"),
        ({"model": "deepseek-v2-lite"}, "adapters on qkv and o are simulated for"),
        ({"parallelism": {"pp": 2}}, "together with pipelines"),
    ],
)  # fmt: skip
def test_what_is_not_simulated_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        result({"count": 3}, **changes)


def test_adapters_are_refused_in_pools_of_a_phase() -> None:
    pools = [{"name": "a", "role": "prefill"}, {"name": "b", "role": "decode"}]
    with pytest.raises(ScenarioError, match="have pools of their own"):
        result({"count": 3}, deployment={"pools": pools})


def test_adapters_on_attention_alone_work_beside_experts() -> None:
    made = scenario(
        model="qwen3-30b-a3b", engine={"lora": {"max_loras": 2, "targets": ["qkv", "o"]}}
    )
    assert resolve(made).deployment.limits.adapters is not None
