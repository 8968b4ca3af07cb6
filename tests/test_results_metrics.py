"""Metrics against figures computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simulator.results.definitions import DEFINITIONS, value_at
from simulator.results.integrity import check_integrity
from simulator.results.record import Gaps
from tests.results_support import (
    NAN,
    deployment,
    evenly_sent,
    requests,
    result,
    step_table,
    two_requests,
)

near = pytest.approx


@pytest.fixture(scope="module")
def summary():
    record = two_requests()
    check_integrity(record)
    return result(record).summary()


def test_latencies(summary):
    latency = summary["latency"]
    assert latency["queueing_ms"]["mean"] == near((400 + 100) / 2)
    assert latency["ttft_ms"]["mean"] == near((1100 + 1200) / 2)
    assert latency["ttft_ms"]["p90"] == near(1190)
    assert latency["tpot_ms"]["max"] == near((2350 - 1100) / 2)
    assert latency["tpot_ms"]["min"] == near(250)
    assert latency["e2e_ms"]["std"] == near((2350 - 1450) / 2)
    assert latency["normalized_ms_per_token"]["mean"] == near((2350 / 3 + 1450 / 2) / 2)


def test_gaps_count_by_token(summary):
    itl = summary["latency"]["itl_ms"]
    assert itl["n"] == 3
    assert itl["mean"] == near((1000 + 250 + 250) / 3)
    assert itl["p50"] == 250
    assert itl["p90"] == near(250 + 0.8 * 750)


def test_rates_are_taken_to_the_last_token_at_the_client(summary):
    window, rate = summary["run"]["window"], summary["throughput"]
    assert (window["start_s"], window["end_s"]) == (0.0, 2.35)
    assert rate["requests_per_s"] == near(2 / 2.35)
    assert rate["output_tokens_per_s"] == near(5 / 2.35)
    assert rate["total_tokens_per_s"] == near(35 / 2.35)
    assert rate["output_tokens_per_s_per_user"]["mean"] == near((1.6 + 4) / 2)


def test_scheduling_and_cache(summary):
    queue, kv = summary["scheduling"], summary["kv_cache"]
    assert queue["steps"] == 3
    assert queue["batch_size_mean"] == near((1 + 2 + 2) / 3)
    assert queue["running_mean"] == near((0.5 * 1 + 1.0 * 2 + 0.25 * 2) / 2.35)
    assert queue["waiting_mean"] == near((0.4 + 0.1) / 2.35)
    assert (queue["running_max"], queue["waiting_max"]) == (2, 1)
    assert kv["use_mean"] == near((0.5 * 1 + 1.0 * 3 + 0.25 * 4) / 2.35 / 10)
    assert kv["use_max"] == near(0.4)
    stored, allocated = 0.5 * 10 + 1.0 * 31 + 0.25 * 33, 16 * (0.5 * 1 + 1.0 * 3 + 0.25 * 4)
    assert kv["fragmentation"] == near(1 - stored / allocated)


def test_utilization(summary):
    use = summary["utilization"]
    assert use["busy_share"] == near(1.75 / 2.35)
    assert use["mfu"] == near(17.5 / (30 * 2.35))
    assert use["mfu_while_busy"] == near(10 / 30)
    assert use["mbu"] == near(175 / (400 * 2.35))
    assert use["link_gb_per_s_per_device_mean"] == near(1.75 / 2.35)
    prompts, decode = use["steps_with_prompts"], use["decode_only_steps"]
    assert (prompts["steps"], decode["steps"]) == (2, 1)
    assert prompts["time_by_operator"] == near({"matmul": 0.75, "attention": 0.25})
    assert list(decode["time_by_operator"]) == ["attention", "matmul"]
    assert decode["binding_resource"] == "memory"
    assert use["verdict"] == (
        "steps with prompts are compute-bound (100% of their time); "
        "decode-only steps are bound by memory bandwidth (100% of their time)"
    )


def test_energy_cost_and_carbon(summary):
    energy, cost = summary["energy"], summary["cost"]
    joules = 1.5 * (175 + 40 * (2.35 - 1.75))
    assert energy["power_w_mean"] == near(joules / 2.35)
    assert energy["energy_kwh"] == near(joules / 3.6e6)
    assert energy["joules_per_output_token"] == near(joules / 5)
    assert energy["joules_per_request"] == near(joules / 2)
    assert energy["gco2e_per_request"] == near(joules / 2 / 3.6e6 * 360)
    assert cost["usd_per_hour"] == near(3.6)
    assert cost["usd_per_request"] == near(3.6 * 2.35 / 3600 / 2)
    assert cost["usd_per_million_output_tokens"] == near(3.6 * 2.35 / 3600 / 5 * 1e6)
    assert cost["usd_per_million_total_tokens"] == near(3.6 * 2.35 / 3600 / 35 * 1e6)


def test_littles_law(summary):
    law = summary["checks"]["littles_law"]
    assert law["l"] == near((0.5 + 2.0 + 0.5) / 2.35)
    assert law["lambda_w"] == near((1.75 + 1.25) / 2.35)
    assert summary["checks"]["violations"] == []


def test_a_window_in_the_middle_of_a_step_takes_its_share():
    # Warm-up cuts request 0; the window runs from 0.9 s to the last one sent ... which is empty,
    # so the drain counts: 0.1 s of step 1 (its token included, it ends within), steps 2 and 3.
    cut = result(measurement={"warmup_fraction": 0.5}).summary()
    window = cut["run"]["window"]
    assert (window["start_s"], window["end_s"], window["includes_drain"]) == (0.9, 2.35, True)
    assert cut["requests"]["cut_by_warmup"] == 1
    assert cut["latency"]["ttft_ms"]["mean"] == near(1200)
    assert cut["utilization"]["busy_share"] == near(1.35 / 1.45)
    assert cut["throughput"]["output_tokens"] == 5
    assert cut["energy"]["whole_run_kwh"] == near(1.5 * (175 + 40 * 0.6) / 3.6e6)
    assert "0 of 1 counted requests completed before" in " ".join(cut["notes"])


def test_gaps_noted_apart_count():
    record = two_requests(
        gaps=Gaps(np.array([2.0]), np.array([1.0]), np.array([1])),
        steps=step_table(
            {"start_s": 0.5, "first_s": 0.5, "prefill": 1, "prefill_tokens": 10, "first_tokens": 1},
            {"start_s": 1.0, "first_s": 1.0, "prefill": 1, "prefill_tokens": 20, "first_tokens": 1},
            {"start_s": 2.0, "first_s": 0.25, "decode": 2, "gap_tokens": 2},
        ),
    )
    check_integrity(record)
    got = result(record).summary()
    assert got["latency"]["itl_ms"]["n"] == 3
    assert got["latency"]["itl_ms"]["max"] == 1000
    assert got["throughput"]["output_tokens"] == 5


def test_no_price_no_limits_no_carbon_are_null_with_a_note():
    free = result(energy={"pue": 1.0}).deployment
    from dataclasses import replace

    from simulator.results import Result
    from tests.results_support import FakeAccountant

    free = replace(free, usd_per_device_hour=None, price_note="no spot price known for X")
    got = Result(free, two_requests(), FakeAccountant()).summary()
    assert got["cost"]["usd_per_request"] is None
    assert got["slo"]["goodput_requests_per_s"] is None
    assert got["energy"]["gco2e"] is None
    assert "Cost is null: no spot price known for X." in got["notes"]
    assert "No SLO limit is given: goodput is null." in got["notes"]


def test_nothing_completed_is_null_and_said_never_nan():
    record = two_requests(
        outcome=np.array([2, 2]), finish_s=np.full(2, NAN), generated=np.array([2, 1]),
        steps=step_table(
            {"start_s": 0.5, "first_s": 0.5, "prefill": 1, "prefill_tokens": 10, "first_tokens": 1},
            {"start_s": 1.0, "first_s": 1.0, "decode": 1, "prefill": 1, "prefill_tokens": 20,
             "first_tokens": 1, "gap_tokens": 1},
        ),
    )  # fmt: skip
    got = result(record, slo={"ttft_ms": 5000}, deployment={"timeout_s": 1.0}).summary()
    json.dumps(got, allow_nan=False)
    assert got["latency"]["ttft_ms"] == {
        "n": 0, "mean": None, "std": None, "min": None, "p50": None, "p90": None, "p95": None,
        "p99": None, "max": None,
    }  # fmt: skip
    assert got["cost"]["usd_per_request"] is None
    assert got["slo"]["goodput_share"] == 0.0
    assert got["slo"]["held"] is False
    assert "No counted request completed: latencies are null." in got["notes"]
    assert "2 requests timed out; latencies leave them out." in got["warnings"]


def test_rejected_and_timed_out_requests_miss_every_limit():
    n = 10
    record = evenly_sent(n)
    outcome = record.outcome.copy()
    outcome[3], outcome[4] = 1, 2
    finish = record.finish_s.copy()
    finish[[3, 4]] = NAN
    from dataclasses import replace

    record = replace(record, outcome=outcome, finish_s=finish)
    slo = {"ttft_ms": 10_000, "tpot_ms": 1, "attainment": 0.7}
    got = result(record, slo=slo)
    section = got.summary()["slo"]
    assert section["goodput_share"] == near(0.8)
    assert section["held"] is True
    # One output token has no TPOT, so that limit is met, except by those who never finished.
    assert section["classes"]["default"]["limits"]["tpot"]["met_share"] == near(0.8)
    assert got.requests["slo_met"].sum() == 8


def test_classes_have_their_own_limits():
    workload = {
        "kind": "mix",
        "classes": [
            {"name": name, "workload": deployment().scenario.workload.model_dump(), "slo": slo}
            for name, slo in (("fast", {"ttft_ms": 1150}), ("slow", {"ttft_ms": 1150}))
        ],
    }
    record = two_requests(
        requests=requests([10, 20], [3, 2], class_id=np.array([0, 1]), classes=("fast", "slow"))
    )
    got = result(record, workload=workload).summary()
    assert got["slo"]["classes"]["fast"]["held"] is True
    assert got["slo"]["classes"]["slow"]["held"] is False
    assert got["slo"]["held"] is False
    assert got["slo"]["goodput_share"] == 0.5
    assert got["classes"]["fast"]["ttft_ms"]["p50"] == near(1100)
    assert got["classes"]["slow"]["e2e_ms"]["max"] == near(1450)


def test_every_definition_names_a_figure_of_the_summary(summary):
    for definition in DEFINITIONS:
        if not summary[definition.key.partition(".")[0]]:
            continue  # a section that only some deployments have, tested with them
        keys = [f"{definition.key}.{s}" for s in definition.statistics] or [definition.key]
        for key in keys:
            *section, leaf = key.split(".")
            assert leaf in value_at(summary, ".".join(section)), key


def test_every_figure_of_the_summary_is_defined(summary):
    defined = {definition.key for definition in DEFINITIONS}
    plain = {
        # Counts and settings that explain themselves, and ingredients of defined figures.
        "requests", "output_tokens", "input_tokens", "limits_given", "blocks", "block_tokens",
        "steps", "preempted_requests", "prefill_tokens_computed", "wasted_prefill_tokens", "pue",
        "verdict", "idle_share", "power_w_mean_per_device", "energy_kwh", "grid_gco2e_per_kwh",
        "gco2e", "whole_run_gco2e", "usd_per_device_hour", "price_note", "usd",
        "thinking_tokens", "undelivered_tokens",
    }  # fmt: skip
    for section in ("latency", "answers", "throughput", "slo", "kv_cache", "scheduling", "utilization",
                    "energy", "cost"):  # fmt: skip
        for name in summary[section]:
            assert f"{section}.{name}" in defined or name in plain, f"{section}.{name}"


def test_the_summary_is_the_same_every_time(summary):
    assert json.dumps(result().summary()) == json.dumps(summary)


def test_keys_of_the_summary(summary, request):
    """A key that goes or changes its name needs a new schema version."""
    known = (request.path.parent / "test_results_keys.txt").read_text().split()
    assert sorted(_keys(summary)) == known


def _keys(value, path=""):
    if not isinstance(value, dict) or not value:
        yield path
        return
    for name, inner in value.items():
        if path in ("", "simulated.model", "simulated.engine") and name in ("scenario", "policy"):
            yield f"{path}.{name}".lstrip(".")
        elif path.endswith(("residual_median_pct", "time_by_operator", "time_by_resource")):
            yield path
            return
        else:
            yield from _keys(inner, f"{path}.{name}".lstrip("."))
