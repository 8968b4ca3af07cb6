"""Replicas that come and go, of every kind of engine, queue and traffic: laws hold, and what is
lost is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.errors import UserError
from simulator.results import Result
from simulator.results.record import UNFINISHED
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate

Fields = dict[str, Any]

LENGTHS: Fields = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 50, "high": 800},
    "output": {"kind": "uniform", "low": 2, "high": 250},
}
TRAFFIC: Fields = {
    "kind": "synthetic", "requests": 200, "lengths": LENGTHS,
    "arrivals": {"kind": "gamma", "rate_per_s": 15.0, "cv": 3.0},
    "shared_prefix": {"tokens": 40, "groups": 4},
}  # fmt: skip
TALKS: Fields = {
    "kind": "sessions", "requests": 200, "think_time_s": 0.5,
    "arrivals": {"kind": "poisson", "rate_per_s": 3.0},
    "turns": {"kind": "uniform", "low": 2, "high": 6},
    "user_tokens": {"kind": "fixed", "tokens": 150},
    "output_tokens": {"kind": "uniform", "low": 20, "high": 120},
}  # fmt: skip
USERS = TRAFFIC | {"arrivals": {"kind": "closed_loop", "concurrency": 20}}
JOB: Fields = {
    "kind": "batch", "requests": 100, "lengths": LENGTHS, "max_in_flight": 20, "deadline_s": 60.0,
}  # fmt: skip
DRIVE: Fields = {"kind": "ssd", "gib": 20.0, "read_gb_per_s": 1.0, "write_gb_per_s": 1.0}
RULES = [
    {"kind": "queue_length", "max_waiting": 3}, {"kind": "predicted_ttft"},
    {"kind": "kv_use", "max_use": 0.5},
]  # fmt: skip

CRASHING: Fields = {
    "autoscaling": {
        "kind": "concurrency", "target": 6.0, "min": 0, "max": 4, "interval_s": 0.3,
        "down_window_s": 0.6, "idle_s": 0.4,
    },
    "cold_start": {"provisioning_s": 0.2, "warmup_s": 0.2},
    "failures": {"mtbf_h": 2.0 / 3600, "repair_s": 0.2, "detection_s": 0.1},
    "retry": {"mode": "resume", "limit": 5},
}  # fmt: skip
LIVES: dict[str, Fields] = {
    "resume": CRASHING,
    "restart": CRASHING | {"retry": {"mode": "restart"}},
    "spot": {
        "replicas": 3,
        "spot": {"interruptions_per_hour": 1800.0, "notice_s": 0.3, "replacement_s": 0.1},
        "retry": {"mode": "restart"},
        "cold_start": {"weights_from": {"kind": "host_memory"}},
    },
}
KINDS: dict[str, tuple[Fields, Fields]] = {
    "plain": ({}, {}),
    "pipeline": ({"parallelism": {"pp": 2, "tp": 2}}, {}),
    "lockstep": ({"model": "deepseek-v2-lite", "parallelism": {"dp": 2, "ep": 2}}, {}),
    "tiers": ({"engine": {"kv_cache_tokens": 6000,
                          "kv_offload": [{"kind": "host", "gib": 4.0}, DRIVE]}}, {}),
    "swap": ({"engine": {"kv_cache_tokens": 3000,
                         "preemption": {"kind": "swap", "host_gib": 8.0}}}, {}),
    "contiguous": ({"engine": {"kv_allocation": {"kind": "contiguous"}, "max_model_len": 1200,
                               "kv_cache_tokens": 20_000}}, {}),
    "drafts": ({"engine": {"speculative": {"kind": "ngram", "tokens": 3, "acceptance": 0.5}}}, {}),
    "shortest first": ({"engine": {"queue": {"kind": "shortest_first"}, "max_num_seqs": 4}}, {}),
    "fair": ({"engine": {"queue": {"kind": "fair"}, "max_num_seqs": 4}}, {}),
    "prefill first": ({"engine": {"profile": "sglang", "policy": {"kind": "prefill_first"}}}, {}),
    "reserved": ({"engine": {"policy": {"kind": "full_reservation"}}}, {}),
    "thinking": ({"workload": TRAFFIC | {
        "reasoning": {"tokens": {"kind": "uniform", "low": 10, "high": 90}}}}, {}),
    "job": ({"workload": JOB}, {}),
    "users": ({"workload": USERS}, {"timeout_s": 2.0, "network_ms": 20.0}),
    "affinity": ({"workload": TALKS}, {"router": {"kind": "session_affinity"}}),
    "prefixes": ({"workload": TALKS}, {"router": {"kind": "prefix_aware"},
                                       "gateway": {"max_concurrency": 8}}),
    "admission": ({"slo": {"ttft_ms": 400.0}}, {"admission": {"rules": RULES, "retries": 2}}),
    "pools": ({}, {"pools": [{"name": "a"}, {"name": "b", "hardware": "l40s"}]}),
}  # fmt: skip


def run(scenario: Fields, deployment: Fields, **options: Any) -> Result:
    base: Fields = {"model": "llama-3.2-3b", "hardware": "h100-sxm", "workload": TRAFFIC}
    made = Scenario.model_validate(base | scenario | {"deployment": deployment})
    result = simulate(made, intervals=False, **options)
    result.check_integrity()
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lives", LIVES)
def test_laws_hold_where_replicas_come_and_go(kind: str, lives: str) -> None:
    scenario, deployment = KINDS[kind]
    serving = LIVES[lives] | deployment
    if "admission" in serving and "autoscaling" in serving:
        # Where no replica may be up, it is refused.
        serving = serving | {"autoscaling": serving["autoscaling"] | {"min": 1}}
    if "pools" in serving:
        serving = {key: value for key, value in serving.items() if key != "replicas"}
    result = run(scenario, serving)
    summary = result.summary()
    fleet = summary["fleet"]
    assert fleet["interruptions" if lives == "spot" else "crashes"] > 2
    assert not summary["checks"]["violations"]
    assert summary["requests"]["all_by_outcome"]["unfinished"] == 0
    law = summary["checks"]["littles_law"]
    # Swapped and reloading requests are not admitted all of their stay.
    assert law["l"] == pytest.approx(
        law["lambda_w"], rel=0.08 if kind in ("swap", "tiers") else 0.01
    )
    again = run(scenario, serving)
    np.testing.assert_array_equal(result.record.finish_s, again.record.finish_s)


def test_several_answers_need_replicas_that_stay() -> None:
    with pytest.raises(UserError, match="several answers"):
        run({"workload": TRAFFIC | {"samples": {"n": 3}}}, CRASHING)


def test_the_future_of_closed_loops_is_not_known() -> None:
    scaling = {
        "kind": "predictive",
        "max": 3,
        "requests_per_s": 1.0,
        "forecast": {"kind": "perfect"},
    }
    with pytest.raises(UserError, match="perfect forecast"):
        run({"workload": USERS}, {"autoscaling": scaling})


def test_an_interrupted_run_says_what_happened_until_then() -> None:
    def stop(ended: int, _: int, __: float) -> None:
        raise KeyboardInterrupt

    busy = TRAFFIC | {"requests": 4000}
    result = run({"workload": busy}, CRASHING, progress=stop)
    record = result.record
    assert record.interrupted
    assert (record.outcome == UNFINISHED).any()
    assert record.held is not None
    assert record.held[:, 2].max() <= record.end_s
    assert result.summary()["fleet"]["crashes"] > 2


def test_figures_cost_nothing_where_nobody_comes_or_goes() -> None:
    """The same columns, bit for bit, whether a cluster could change or cannot."""
    fixed = run({}, {"replicas": 2, "router": {"kind": "least_outstanding"}}).record
    # An outage long after the end changes nothing but who keeps the books.
    late = {"outages": [{"replica": 0, "at_s": 1e6, "for_s": 1.0}]}
    changing = run(
        {}, {"replicas": 2, "router": {"kind": "least_outstanding"}, "failures": late}
    ).record
    assert changing.lives is not None
    for name in ("start_s", "first_token_s", "finish_s", "replica", "cached_tokens", "preemptions"):
        np.testing.assert_array_equal(getattr(fixed, name), getattr(changing, name))
    assert fixed.end_s == changing.end_s
