"""Spaces: every combination of the axes, sized, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.errors import UserError
from simulator.hardware import load_hardware, profile_names
from simulator.planner.document import Asked, Plan
from simulator.planner.outlook import outlook
from simulator.planner.outlooks import outlooks
from simulator.planner.space import kinds, sizes
from simulator.resolution.pools import resolve_pools
from simulator.scenario import load_scenario

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "hardware": "h100-sxm",
    "engine": {"profile": "vllm", "max_num_seqs": 64},
    "workload": {
        "kind": "synthetic",
        "requests": 100,
        "arrivals": {"kind": "poisson", "rate_per_s": 5},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": 500},
            "output": {"kind": "fixed", "tokens": 100},
        },
    },
    "slo": {"ttft_ms": 1000},
}


def _asked(space: dict[str, Any], scenario: dict[str, Any] | None = None, **more: Any) -> Asked:
    plan = Plan.model_validate({"scenario": scenario or BASE, "space": space, **more})
    assert isinstance(plan.scenario, dict)
    return Asked(plan, load_scenario(plan.scenario), lambda error: error)


def test_keys_without_a_dot_are_axes_too():
    found = kinds(_asked({"tp": [1], "hardware": ["l40s"],
                          "set": {"model": ["llama-3.1-8b", "qwen3-8b"]}}))  # fmt: skip
    assert [kind.scenario((1,)).model for kind in found] == ["llama-3.1-8b", "qwen3-8b"]
    assert [str(kind) for kind in found] == [
        "l40s, tp1, model llama-3.1-8b",
        "l40s, tp1, model qwen3-8b",
    ]


def test_every_combination_once():
    found = kinds(_asked({
        "hardware": ["h100-sxm", "l40s"], "tp": [1, 2], "precision": ["bf16", "fp8"],
        "engine": ["vllm", "sglang"], "set": {"engine.max_num_batched_tokens": [2048, 8192, 16384]},
    }))  # fmt: skip
    assert len(found) == 2 * 2 * 2 * 2 * 3
    assert [kind.index for kind in found] == list(range(len(found)))
    assert len({str(kind) for kind in found}) == len(found)
    made = {
        (s.hardware.profile, s.parallelism.tp, s.precision.weights, s.engine.profile,
         s.engine.max_num_batched_tokens)
        for s in (kind.scenario((2,)) for kind in found)
    }  # fmt: skip
    assert len(made) == len(found)
    for kind in found:
        scenario = kind.scenario((3,))
        assert scenario.deployment.replicas == 3
        assert scenario.engine.max_num_seqs == 64  # what no axis speaks of stays
        assert scenario.workload == load_scenario(BASE).workload


def test_open_axes_take_what_has_a_price_and_fits_a_node():
    found = kinds(_asked({}))
    devices = {kind.axes["hardware"] for kind in found}
    priced = {
        name for name in profile_names()
        if any(price.plan == "on_demand" for price in load_hardware(name).prices)
    }  # fmt: skip
    assert devices == priced
    for name in devices:
        widths = [k.scenario((1,)).parallelism.tp for k in found if k.axes["hardware"] == name]
        most = load_hardware(name).node.devices
        assert widths == [1 << i for i in range(10) if 1 << i <= most]


def test_a_price_plan_without_a_price_is_left_out_or_told():
    reserved = kinds(_asked({"price_plans": ["reserved"], "tp": [1]}))
    assert {k.axes["hardware"] for k in reserved} >= {"h100-sxm", "gb200"}
    assert all(k.scenario((1,)).cost.plan == "reserved" for k in reserved)
    with pytest.raises(UserError, match="no reserved price known for NVIDIA L40S"):
        outlooks(_asked({"hardware": ["l40s"], "price_plans": ["reserved"]}))


def test_sizes_stay_within_the_devices_and_ascend():
    asked = _asked({"hardware": ["h100-sxm"], "tp": [2], "max_devices": 9})
    (kind,) = kinds(asked)
    assert sizes(kind, asked.plan.space, (2,)) == [(1,), (2,), (3,), (4,)]
    asked = _asked(
        {"hardware": ["h100-sxm"], "tp": [1], "replicas": {"min": 2, "max": 9, "step": 3}}
    )
    (kind,) = kinds(asked)
    assert sizes(kind, asked.plan.space, (1,)) == [(2,), (5,), (8,)]
    asked = _asked({"hardware": ["h100-sxm"], "tp": [1], "replicas": [4, 1]})
    assert sizes(kinds(asked)[0], asked.plan.space, (1,)) == [(1,), (4,)]


def test_prefill_and_decode_apart_have_sizes_of_their_own():
    asked = _asked({
        "hardware": ["h100-sxm"], "tp": [2], "layouts": ["together", "apart"], "max_devices": 8,
        "prefill": {"tp": [1, 2]}, "decode": {"replicas": [1, 2]},
    })  # fmt: skip
    together, narrow, wide = kinds(asked)
    assert not together.pools
    assert narrow.pools == wide.pools == ("prefill", "decode")
    assert sizes(narrow, asked.plan.space, (1, 2)) == [
        (1, 1), (2, 1), (1, 2), (3, 1), (2, 2), (4, 1), (3, 2), (5, 1), (4, 2), (6, 1),
    ]  # fmt: skip
    pools = resolve_pools(narrow.scenario((3, 2)))
    assert [(p.role, p.replicas, p.deployment.devices_per_replica) for p in pools] == [
        ("prefill", 3, 1), ("decode", 2, 2),
    ]  # fmt: skip


def test_load_and_missing_replicas_reach_the_scenario():
    (kind,) = kinds(_asked({"hardware": ["h100-sxm"], "tp": [1]}))
    heavy = kind.scenario((2,), load=1.5, seed=7)
    assert heavy.workload.arrivals.rate_per_s == 7.5
    assert heavy.measurement.seed == 7


def test_what_does_not_fit_says_so():
    asked = _asked({"hardware": ["l4"], "tp": [1]}, {**BASE, "model": "llama-3.1-70b"})
    (kind,) = kinds(asked)
    assert "does not fit on 1 × NVIDIA L4" in outlook(kind, asked, ()).problem
    with pytest.raises(UserError, match=r"no deployment runs: .*does not fit on 1 × NVIDIA L4"):
        outlooks(asked)


def test_power_limits_the_devices():
    asked = _asked({"hardware": ["h100-sxm"], "tp": [1], "max_power_kw": 3.0})
    found = outlook(kinds(asked)[0], asked, ())
    assert [size.counts for size in found.sizes] == [(1,), (2,), (3,), (4,)]  # 0.7 kW each
    with pytest.raises(UserError, match=r"is empty: not even one replica .* max_power_kw 0\.5"):
        outlooks(_asked({"hardware": ["h100-sxm"], "tp": [1], "max_power_kw": 0.5}))


@pytest.mark.parametrize(
    ("space", "scenario", "sentence"),
    [
        ({"set": {"parallelism.tp": [1]}}, {}, "space.set.parallelism.tp: parallelism.tp has an axis of its own; list its values at space.tp"),
        ({"set": {"hardware": ["l4"]}}, {}, "space.set.hardware: hardware has an axis of its own"),
        ({}, {"cost": {"usd_per_device_hour": 2.0}}, "would price all devices alike"),
        ({}, {"deployment": {"pools": [{"name": "a"}]}}, "the scenario has pools already"),
        ({"set": {"engine.max_num_seqs": list(range(1, 60)), "engine.max_num_batched_tokens": list(range(2048, 2100)), "engine.block_size": [16, 32]}}, {}, "combinations before replicas are counted"),
    ],
)  # fmt: skip
def test_mistakes_are_told(space, scenario, sentence):
    with pytest.raises(UserError) as caught:
        outlooks(_asked(space, {**BASE, **scenario}))
    assert sentence in str(caught.value)
