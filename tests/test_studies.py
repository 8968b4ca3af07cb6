"""The three studies under examples/ lead to the conclusions that docs/studies.md tells."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.planner.document import Asked, load_plan
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.work import Work
from simulator.planner.plan import plan
from simulator.results.definitions import value_at
from simulator.simulation import simulate

Report = dict[str, Any]


def _run(asked: Asked) -> Report:
    with Work(LocalBackend(1)) as work:
        return plan(asked, work)


def _changed(name: str, **keys: Any) -> Asked:
    asked = load_plan(name)
    return Asked(asked.plan.model_copy(update=keys), asked.scenario, asked.located)


@pytest.fixture(scope="module")
def chat() -> Report:
    return _run(load_plan("study-gpu-for-chat"))


def test_fast_gpus_in_8_bits_are_the_cheapest_for_chat(chat):
    winner = chat["winner"]
    assert winner["axes"]["hardware"] == "b200-sxm"
    assert winner["axes"]["precision"] == "fp8"
    assert winner["replicas"] == [3]
    assert winner["usd_per_hour"] == pytest.approx(42.72, abs=0.01)
    by_gpu = [entry["axes"]["hardware"] for entry in [winner, *chat["runners_up"]]]
    assert by_gpu.index("h200-sxm") < by_gpu.index("h100-sxm")
    # Those that cost least by the hour are too slow for this.
    assert "l40s" not in by_gpu
    assert "a100-sxm-80gb" not in by_gpu


def test_no_kind_in_16_bits_is_among_the_best_for_chat(chat):
    best = [chat["winner"], *chat["runners_up"]]
    assert {entry["axes"]["precision"] for entry in best} == {"fp8"}


def test_one_replica_may_fail_and_the_traffic_grow(chat):
    asked = load_plan("study-gpu-for-chat")
    winner = chat["winner"]
    scenario = asked.scenario.model_copy(
        update={
            "hardware": asked.scenario.hardware.model_copy(update={"profile": "b200-sxm"}),
            "precision": asked.scenario.precision.model_copy(update={"weights": "fp8"}),
            "deployment": asked.scenario.deployment.model_copy(update={"replicas": 2}),
            "workload": asked.scenario.workload.model_copy(update={"rate_scale": 1.2}),
        }
    )
    summary = simulate(scenario, intervals=False).summary()
    for limit in winner["limits"]:
        assert value_at(summary, limit["path"]) == limit["mean"]
        assert limit["mean"] <= limit["limit"]


@pytest.fixture(scope="module")
def long_prompts() -> Report:
    return _run(_changed("study-prefill-apart", seeds=2))


def test_long_prompts_are_cheaper_apart(long_prompts):
    winner = long_prompts["winner"]
    assert winner["pools"] == ["prefill", "decode"]
    together = [t for t in long_prompts["runners_up"] if not t["pools"]]
    assert together
    assert min(t["usd_per_hour"] for t in together) >= 1.4 * winner["usd_per_hour"]


def test_short_prompts_are_cheaper_together():
    asked = load_plan("study-prefill-apart")
    lengths = asked.scenario.workload.lengths
    short = lengths.input.model_copy(update={"mean": 500.0, "high": 3000})
    workload = asked.scenario.workload.model_copy(
        update={"lengths": lengths.model_copy(update={"input": short})}
    )
    scenario = asked.scenario.model_copy(update={"workload": workload})
    changed = asked.plan.model_copy(update={"seeds": 2, "runners_up": 1})
    report = _run(Asked(changed, scenario, asked.located))
    assert report["winner"]["pools"] == []


@pytest.fixture(scope="module")
def week() -> Report:
    """Its first three days, without the setting that fails. The whole week, 578,656 requests for
    each deployment, comes to the same winner, runner-up and misses, in three times the time."""
    asked = load_plan("study-week-of-demand")
    workload = asked.scenario.workload.model_copy(update={"duration_s": 3 * 86400.0})
    asked = Asked(
        asked.plan, asked.scenario.model_copy(update={"workload": workload}), asked.located
    )
    space = asked.plan.space
    scaling = space.set["deployment.autoscaling"][:2]
    fewer = space.model_copy(update={"set": {"deployment.autoscaling": scaling}})
    return _run(
        Asked(asked.plan.model_copy(update={"space": fewer}), asked.scenario, asked.located)
    )


def test_autoscaling_serves_the_week_for_less_than_any_fixed_number(week):
    winner = week["winner"]
    assert "concurrency target 8" in winner["label"]
    assert winner["figures"]["slo.goodput_share"]["mean"] >= 0.99
    (fixed,) = week["runners_up"]
    assert fixed["replicas"] == [3]
    (fewer,) = [trial for trial in week["trials"] if trial["replicas"] == [2]]
    assert fewer["state"] == "fails"
    saved = 1 - winner["objective"]["mean"] / fixed["objective"]["mean"]
    assert 0.35 < saved < 0.5
