"""Pools of replicas: several kinds in one deployment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.errors import ScenarioError, UserError
from simulator.results import Result
from simulator.scenario import load_scenario
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate

Fields = dict[str, Any]

LENGTHS: Fields = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 100, "high": 400},
    "output": {"kind": "uniform", "low": 20, "high": 100},
}
TRAFFIC: Fields = {
    "kind": "synthetic",
    "requests": 200,
    "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
    "lengths": LENGTHS,
}
TWO_CLASSES: Fields = {
    "kind": "mix",
    "classes": [
        {"name": "chat", "workload": TRAFFIC},
        {"name": "code", "workload": TRAFFIC | {"requests": 100}},
    ],
}


def run(deployment: Fields, **changes: Any) -> Result:
    base: Fields = {
        "model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": TRAFFIC,
        "deployment": deployment, "energy": {"grid_gco2e_per_kwh": 100.0},
        "slo": {"ttft_ms": 500.0},
    }  # fmt: skip
    result = simulate(Scenario.model_validate(base | changes), intervals=False)
    result.check_integrity()
    return result


def pool(name: str, **changes: Any) -> Fields:
    return {"name": name, **changes}


ECHOES = ("scenario", "simulated", "pools", "run")


def test_one_pool_is_a_deployment_without_pools() -> None:
    plain = run({"replicas": 3, "router": {"kind": "least_outstanding"}})
    one = run({"pools": [pool("a", replicas=3)], "router": {"kind": "least_outstanding"}})
    a, b = plain.summary(), one.summary()
    assert {k: v for k, v in a.items() if k not in ECHOES} == {
        k: v for k, v in b.items() if k not in ECHOES
    }


@pytest.mark.parametrize("router", ["round_robin", "least_outstanding", "prefix_aware"])
def test_equal_pools_serve_as_one_of_all_their_replicas(router: str) -> None:
    """Whoever draws nothing at random chooses the same, and every figure is the same to rounding."""
    plain = run({"replicas": 4, "router": {"kind": router}})
    both = run(
        {"pools": [pool("a", replicas=1), pool("b", replicas=3)], "router": {"kind": router}}
    )
    for column in ("finish_s", "first_token_s", "replica"):
        assert (getattr(plain.record, column) == getattr(both.record, column)).all()
    a, b = plain.summary(), both.summary()
    for section in ("kv_cache", "scheduling", "utilization", "energy", "cost", "throughput"):
        for key, value in a[section].items():
            if isinstance(value, float):
                assert b[section][key] == pytest.approx(value, rel=1e-9), (section, key)
    law = b["checks"]["littles_law"]
    assert law["l"] == pytest.approx(law["lambda_w"], rel=0.01)


def test_what_pools_take_adds_up() -> None:
    result = run(
        {"pools": [pool("big"), pool("small", hardware="l4", replicas=3)],
         "router": {"kind": "least_outstanding"}},
    )  # fmt: skip
    summary = result.summary()
    pools = summary["pools"]
    assert summary["cost"]["usd"] == pytest.approx(sum(p["cost"]["usd"] for p in pools.values()))
    for key in ("energy_kwh", "whole_run_kwh", "gco2e"):
        assert summary["energy"][key] == pytest.approx(
            sum(p["energy"][key] for p in pools.values())
        )
    assert summary["requests"]["counted"] == sum(p["requests"] for p in pools.values())
    assert summary["scheduling"]["steps"] == sum(p["scheduling"]["steps"] for p in pools.values())
    assert summary["simulated"]["hardware"]["devices"] == 4
    assert summary["cost"]["usd_per_hour"] == pytest.approx(
        sum(p["cost"]["usd_per_hour"] for p in pools.values())
    )
    # A faster device has the lower TPOT, and its blocks are its own.
    fast, slow = (result.times.tpot_ms[result.record.replica == r] for r in (0, 1))
    assert np.nanmedian(fast) < np.nanmedian(slow)
    assert pools["big"]["kv_cache"]["blocks"] > pools["small"]["kv_cache"]["blocks"]
    assert summary["kv_cache"]["blocks"] is None


def test_a_pool_differs_only_in_what_it_says() -> None:
    summary = run(
        {"pools": [pool("a"), pool("b", engine={"max_num_seqs": 8}, usd_per_device_hour=1.0)]},
        engine={"profile": "sglang", "max_num_batched_tokens": 1024, "max_num_seqs": 64},
    ).summary()["simulated"]["pools"]
    assert {p["engine"]["name"] for p in summary.values()} == {"sglang"}
    assert {p["engine"]["max_num_batched_tokens"] for p in summary.values()} == {1024}
    assert summary["b"]["engine"]["max_num_seqs"] == 8 != summary["a"]["engine"]["max_num_seqs"]


def test_classes_go_to_the_pools_that_serve_them() -> None:
    result = run(
        {"pools": [pool("student", classes=["chat"]),
                   pool("teacher", classes=["code"], model="llama-3.1-8b", replicas=2)]},
        workload=TWO_CLASSES,
    )  # fmt: skip
    chat = result.record.requests.class_id == result.record.requests.classes.index("chat")
    assert (result.record.replica[chat] == 0).all()
    assert set(result.record.replica[~chat].tolist()) == {1, 2}
    models = result.summary()["simulated"]["pools"]
    assert models["teacher"]["model"]["name"] == "llama-3.1-8b"
    tpot = result.times.tpot_ms
    assert np.nanmean(tpot[chat]) < np.nanmean(tpot[~chat])


@pytest.mark.parametrize("router", ["round_robin", "random", "least_outstanding", "power_of_two"])
def test_a_replica_of_twice_the_weight_takes_twice_the_traffic(router: str) -> None:
    heavy = {"pools": [pool("a", weight=2.0), pool("b")], "router": {"kind": router}}
    busy = TRAFFIC | {"requests": 1500, "arrivals": {"kind": "poisson", "rate_per_s": 500.0}}
    share = float((run(heavy, workload=busy).record.replica == 0).mean())
    if router in ("power_of_two", "least_outstanding"):  # they compare loads, often both idle
        assert 0.53 < share < 0.75
    else:
        assert share == pytest.approx(2 / 3, abs=0.04)


def test_turns_of_a_conversation_stay_together() -> None:
    sessions = {
        "kind": "sessions", "requests": 400,
        "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
        "turns": {"kind": "uniform", "low": 2, "high": 8},
        "user_tokens": {"kind": "fixed", "tokens": 200},
        "output_tokens": {"kind": "fixed", "tokens": 50},
        "think_time_s": 0.5,
    }  # fmt: skip

    def homes(router: Fields) -> tuple[float, float]:
        result = run({"replicas": 4, "router": router}, workload=sessions)
        record = result.record
        session = record.requests.session
        kept = [len(set(record.replica[session == s].tolist())) == 1 for s in np.unique(session)]
        return float(np.mean(kept)), result.summary()["kv_cache"]["prefix_hit_rate"]

    kept, hits = homes({"kind": "session_affinity"})
    strayed, missed = homes({"kind": "round_robin"})
    assert kept == 1.0 > strayed
    assert hits > 1.5 * missed
    # With no imbalance allowed, conversations move.
    assert homes({"kind": "session_affinity", "max_imbalance": 0})[0] < 1.0


@pytest.mark.parametrize(
    ("deployment", "where", "message"),
    [
        ({"pools": [pool("a", classes=["default"]), pool("b", classes=["x"])]},
         "deployment.pools.1.classes", "no traffic class 'x'"),
        ({"pools": [pool("a", model="no-such-model")]}, "deployment.pools.0.model", "no-such-model"),
        ({"pools": [pool("a", hardware="h900")]}, "deployment.pools.0.hardware.profile", "h900"),
        ({"pools": [pool("a", parallelism={"tp": 3})]}, "deployment.pools.0.parallelism.tp", "tp = 3"),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_are(deployment: Fields, where: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(deployment)
    assert caught.value.where == where


def test_a_class_that_nobody_serves_is_an_error() -> None:
    with pytest.raises(ScenarioError, match="serves the traffic class 'code'"):
        run({"pools": [pool("a", classes=["chat"])]}, workload=TWO_CLASSES)


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ("[{name: a}, {name: a}]", "same name"),
        ("[{name: a, role: prefill}]", "roles"),
        ("[{name: a, role: prefill}, {name: b, role: serve}]", "roles"),
        ("[{name: a, replicas: 0}]", "1"),
        ("[{name: a, weight: 0}]", "0"),
    ],
)
def test_pools_that_contradict_each_other_are_refused(pools: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_scenario("chat-8b-h100", [f"deployment.pools={pools}"])
    with pytest.raises(UserError, match="replicas or pools"):
        load_scenario("chat-8b-h100", ["deployment.replicas=2", "deployment.pools=[{name: a}]"])


def test_a_request_that_one_of_its_pools_cannot_hold_is_told_before_the_run() -> None:
    pools = [pool("a"), pool("b", engine={"kv_cache_tokens": 160})]
    with pytest.raises(UserError, match="KV blocks"):
        run({"pools": pools})
    assert run({"pools": pools, "oversized_requests": "reject"}).summary()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (["model=codestral-mamba-7b", "precision.kv_cache=fp8"], "precision.kv_cache"),
    ],
)
def test_settings_without_an_effect_are_refused(changes: list[str], where: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        simulate(load_scenario("chat-8b-h100", ["workload.slice.requests=5", *changes]))
    assert caught.value.where == where


def test_pools_on_the_same_devices_pay_one_price() -> None:
    with pytest.raises(ScenarioError, match="at different prices"):
        simulate(load_scenario("two-models-one-gpu", ["deployment.pools.1.usd_per_device_hour=1"]))
