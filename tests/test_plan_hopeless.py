"""Runs that are ended early would have failed in the end, every time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from simulator import simulate
from simulator.cluster.watch import Look, Watched
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.hopeless import watch_for
from simulator.planner.jobs.tasks import Summary, Task
from simulator.scenario.scenario import Scenario
from tests.test_fleet_combinations import KINDS, LIVES, TRAFFIC

Fields = dict[str, Any]

SLO: Fields = {"ttft_ms": 150.0, "tpot_ms": 9.0, "e2e_ms": 1500.0}
CHAT = TRAFFIC | {"arrivals": {"kind": "poisson", "rate_per_s": 25.0}}
MIX: Fields = {
    "kind": "mix",
    "classes": [
        {"name": "chat", "workload": CHAT, "slo": {"ttft_ms": 60.0}},
        {"name": "batch", "workload": CHAT | {"arrivals": {"kind": "burst"}, "requests": 60},
         "slo": {"e2e_ms": 4000.0}},
    ],
}  # fmt: skip
MORE: dict[str, tuple[Fields, Fields]] = {
    "users who stay": ({"workload": TRAFFIC | {"arrivals": {
        "kind": "closed_loop", "concurrency": 30}}}, {}),
    "mix": ({"workload": MIX}, {"replicas": 2}),
    "mix in a hurry": ({"workload": MIX}, {"timeout_s": 2.0}),
    "samples": ({"workload": CHAT | {"samples": {"n": 3}}}, {}),
    "best of": ({"workload": CHAT | {"samples": {"n": 1, "best_of": 3}}}, {}),
    "disaggregated": ({}, {"pools": [
        {"name": "p", "role": "prefill"}, {"name": "d", "role": "decode"}]}),
    "too large": ({"engine": {"max_model_len": 700}}, {"oversized_requests": "reject"}),
    "static": ({"engine": {"policy": {"kind": "static", "batch_size": 8}}}, {}),
}  # fmt: skip
LATENCIES = ("queueing_ms", "ttft_ms", "ttfat_ms", "tpot_ms", "e2e_ms")
LIMITED = ("mean", "p50", "p90", "p95", "p99")


def scenario(fields: Fields, deployment: Fields) -> Scenario:
    if "admission" in deployment and "autoscaling" in deployment:
        deployment = deployment | {"autoscaling": deployment["autoscaling"] | {"min": 1}}
    if "pools" in deployment:
        deployment = {key: value for key, value in deployment.items() if key != "replicas"}
    base: Fields = {
        "model": "llama-3.2-3b", "hardware": "h100-sxm", "workload": CHAT, "slo": SLO,
    }  # fmt: skip
    return Scenario.model_validate(base | fields | {"deployment": deployment})


def every_limit(summary: Summary) -> list[tuple[Constraint, bool]]:
    """Limits around the figures of a run, some that are just met, and whether they are."""
    found = []
    for name in ("", *summary["classes"]):
        section = summary["classes"][name] if name else summary["latency"]
        for latency in LATENCIES:
            for statistic in (*LIMITED, "max") if name else LIMITED:
                value = section[latency][statistic]
                for factor in (1.0, 0.999, 0.7, 0.2) if value else ():
                    found.append({"metric": f"{latency}.{statistic}", "max": factor * value})
                    found[-1]["traffic_class"] = name or None
                if value:
                    found.append(
                        {"metric": f"{latency}.{statistic}", "traffic_class": name or None}
                    )
                    found[-1]["max"] = math.nextafter(value, 0.0)
        share = (section if name else summary["slo"])["goodput_share"]
        for least in (share, 0.5 * (1 + share), 1.0) if share is not None else ():
            path = "goodput_share" if name else "slo.goodput_share"
            found.append({"metric": path, "min": least, "traffic_class": name or None})
    limits = [Constraint(**each) for each in found]
    return [(limit, limit.holds(limit.value(summary))) for limit in limits]


def judged(made: Scenario, limits: list[Constraint]) -> tuple[dict[Constraint, float], Summary]:
    """Which of the limits were called beyond reach, each alone, and when; the run goes on."""
    called: dict[Constraint, float] = {}

    def watch(run: Watched) -> Look:
        looks = {limit: watch_for([limit], made)(run) for limit in limits}

        def look(now_s: float) -> str:
            for limit, each in looks.items():
                if each is not None and limit not in called and each(now_s):
                    called[limit] = now_s
            return ""

        return look

    return called, simulate(made, intervals=False, watch=watch).summary()


CASES = {
    **{f"{kind}": (fields, deployment) for kind, (fields, deployment) in (KINDS | MORE).items()},
    **{
        f"{kind}, {lives}": (fields, LIVES[lives] | deployment)
        for kind, (fields, deployment) in KINDS.items()
        for lives in ("restart", "resume")
        if kind in ("plain", "thinking", "users", "admission", "drafts", "lockstep")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_called_hopeless_that_is_not(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.cluster.run.LEAST_APART", 7)
    monkeypatch.setattr("simulator.cluster.run.LOOKS", 1000)
    made = scenario(*CASES[case])
    summary = simulate(made, intervals=False).summary()
    limits = every_limit(summary)
    called, watched = judged(made, [limit for limit, _ in limits])
    assert watched == summary
    wrong = [str(limit) for limit, holds in limits if holds and limit in called]
    assert not wrong
    failing = [limit for limit, holds in limits if not holds]
    assert len(failing) > 40
    # Requests that wait for others, where some may never be answered: nobody knows how many come.
    unknown = case.startswith("users, ") or case in ("users", "prefixes")
    share = len(called) / len(failing)
    assert share == 0.0 if unknown else share > 0.4


def steady(rate_per_s: float) -> Scenario:
    arrivals = {"kind": "poisson", "rate_per_s": rate_per_s}
    traffic = TRAFFIC | {"requests": 1000, "arrivals": arrivals}
    return scenario({"workload": traffic, "engine": {"max_num_seqs": 8}}, {})


def test_an_overloaded_run_ends_after_a_part_of_it() -> None:
    limit = Constraint(metric="ttft_ms.p99", max=200.0)
    whole = do_task(Task(steady(120.0)))
    ended = do_task(Task(steady(120.0), limits=(limit,)))
    assert not limit.holds(limit.value(whole.summary))
    assert ended.summary["run"]["simulated_s"] < 0.3 * whole.summary["run"]["simulated_s"]
    assert ended.summary["run"]["interrupted"]
    assert ended.hopeless in ended.summary["warnings"][0]
    # 950 count; the 99th percentile lies at index floor(949 · 0.99) = 939 of 0 to 949.
    assert ended.hopeless.startswith("TTFT p99 ≤ 200 ms: ")
    assert ended.hopeless.endswith(" of 950 requests are above, 10 may be")
    assert not whole.hopeless
    assert not ended.problem


def test_a_run_that_holds_its_limits_is_the_same_to_the_last_bit() -> None:
    limits = (
        Constraint(metric="ttft_ms.p99", max=1000.0),
        Constraint(metric="tpot_ms.mean", max=50.0),
        Constraint(metric="slo.goodput_share", min=0.01),
    )
    assert do_task(Task(steady(10.0), limits=limits)).summary == do_task(Task(steady(10.0))).summary


def test_the_end_of_a_run_leaves_a_whole_record() -> None:
    made = steady(120.0)
    limit = Constraint(metric="e2e_ms.p50", max=2500.0)
    result = simulate(made, intervals=False, watch=watch_for([limit], made))
    assert result.record.interrupted
    assert "E2E latency p50 ≤ 2,500 ms" in result.record.reason
    result.check_integrity()
