"""Every preset model on every device it fits on, and every combination of traffic, policy and
router: they run, and what comes out is possible."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.engines import profile_names as engine_names
from simulator.errors import DoesNotFitError, ScenarioError
from simulator.hardware import load_hardware
from simulator.hardware import profile_names as hardware_names
from simulator.models import load_model, preset_names
from simulator.models.counting import (
    attention_dtype,
    element_bytes,
    other_dtype,
    tensors,
)
from simulator.models.spec import ModelSpec
from simulator.models.splits import tensor_parallel_sizes
from simulator.resolve import Resolved, resolve
from simulator.results.record import COMPLETED, REJECTED, RunRecord
from simulator.scenario import policies, routers
from simulator.scenario import workload as traffic
from simulator.scenario.precision import Dtype
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.requests import Requests
from tests.rig import requests
from tests.sane import check_record

GIB = 1 << 30

DOZEN = requests(
    *[(0.0, 17 + 61 * i, 1 + 7 * i) for i in range(6)],
    *[(0.05 * i, 500 - 70 * i, 40 - 6 * i) for i in range(6)],
)


def scenario(model: str = "qwen2.5-0.5b", hardware: str = "h100-sxm", **fields: Any) -> Scenario:
    base: dict[str, Any] = {
        "model": model,
        "hardware": hardware,
        "workload": {
            "kind": "synthetic", "requests": 12, "arrivals": {"kind": "burst"},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 64}, "output": {"kind": "fixed", "tokens": 9},
            },
        },
    }  # fmt: skip
    return Scenario.model_validate(base | fields)


# --- models and devices --------------------------------------------------------------------------


ARITHMETIC = re.compile(
    r"does not fit on \d+ × .+: [\d.]+ × \(?[\d.]+ .* [\d.]+ weights.* = -?[\d.]+ GiB for the KV cache"
)


def attempt(model: str, hardware: str, tp: int) -> Resolved | DoesNotFitError:
    """The deployment, or why it does not fit: with the arithmetic. Any other error is a failure."""
    try:
        return resolve(scenario(model, hardware, parallelism={"tp": tp}))
    except DoesNotFitError as error:
        if not ARITHMETIC.search(str(error)):
            raise
        return error


def fewest_devices(model: str, hardware: str) -> Resolved | None:
    """The model on one device, or on as many as the error for one device advises; None if it
    advises another device, which has to be right: the whole node is too small as well."""
    alone = attempt(model, hardware, 1)
    if not isinstance(alone, DoesNotFitError):
        return alone
    advised = re.search(r"parallelism\.tp: (\d+) would fit", alone.hint)
    if advised is None:
        assert "narrower precision.weights or a device with more memory" in alone.hint
        check_that_nothing_fits(model, hardware)
        return None
    found = attempt(model, hardware, int(advised.group(1)))
    assert not isinstance(found, DoesNotFitError), found
    return found


def check_that_nothing_fits(model: str, hardware: str) -> None:
    sizes = tensor_parallel_sizes(load_model(model))
    most = max(tp for tp in sizes if tp <= load_hardware(hardware).node.devices)
    assert isinstance(attempt(model, hardware, most), DoesNotFitError)


def least_bytes(spec: ModelSpec, weights: Dtype, tp: int) -> float:
    """Bytes of weights that a step has to read on one device, however few its tokens."""
    group = spec.quantization_group if weights == spec.native_dtype else None
    width = {
        "attention": element_bytes(attention_dtype(spec, weights), group),
        "mlp": element_bytes(weights, group),
        "other": element_bytes(other_dtype(weights)),
    }
    read = [t for t in tensors(spec) if t.name not in ("embedding", "lm_head")]
    return sum(t.parameters / max(1, min(tp, t.ways)) * t.used * width[t.part] for t in read)


def check_run(resolved: Resolved) -> None:
    """A dozen requests on one replica; where hardly anything is left beside the weights, the
    longest may have no room."""
    deployment, cost = resolved.deployment, resolved.cost
    tp = deployment.scenario.parallelism.tp
    record = run_cluster(
        DOZEN,
        deployment.limits,
        resolved.layout.blocks,
        cost,
        layout=resolved.layout,
        oversized="reject",
    )
    check_record(record, deployment.limits)
    longest = DOZEN.input_tokens + DOZEN.output_tokens - 1
    room = [resolved.layout.blocks_for(n) <= resolved.layout.blocks for n in longest.tolist()]
    assert sum(room) >= 6
    np.testing.assert_array_equal(record.outcome, np.where(room, COMPLETED, REJECTED))
    bandwidth = deployment.hardware.bandwidth_bytes_per_s
    floor = least_bytes(deployment.model, deployment.precision.weights, tp) / bandwidth
    assert (record.steps.first_s >= floor).all()
    assert (record.first_token_s - record.sent_s >= floor)[room].all()
    # No device is so slow, and no run so idle, that twelve small requests take ten minutes.
    assert record.end_s < 600
    check_work(resolved, record)


def check_work(resolved: Resolved, record: RunRecord) -> None:
    table, cost = record.steps, resolved.cost
    work, duration = cost.account(table), table.duration_s
    parts = sum(work.operator_s.values())
    np.testing.assert_allclose(parts, duration, rtol=1e-9)
    np.testing.assert_allclose(sum(work.resource_s.values()), duration, rtol=1e-9)
    assert (work.model_flops > 0).all()
    assert (work.model_flops <= cost.peak_flops * duration).all()
    watts = work.energy_j / duration
    power = resolved.deployment.hardware.power
    devices = resolved.deployment.scenario.parallelism.tp
    assert (watts >= devices * power.idle_w.value).all()
    assert (watts <= devices * power.tdp_w.value * (1 + 1e-9)).all()


@pytest.mark.parametrize("model", preset_names())
def test_a_model_on_every_device(model: str) -> None:
    ran = []
    for hardware in hardware_names():
        resolved = fewest_devices(model, hardware)
        if resolved is None:
            continue
        ran.append(hardware)
        memory = resolved.deployment.memory
        taken = memory.weights_gib + memory.activations_gib + memory.kv_cache_gib
        assert taken + memory.reserved_gib <= memory.device_gib * (1 + 1e-9)
        check_run(resolved)
    assert {"b300-sxm", "mi355x"} <= set(ran)  # nodes that hold them all


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize(
    "model", ["llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b", "mistral-7b", "deepseek-v2-lite"]
)
def test_every_engine_serves_every_kind_of_model(engine: str, model: str) -> None:
    resolved = resolve(scenario(model, "h200-sxm", engine=engine))
    check_run(resolved)


@pytest.mark.parametrize("hardware", hardware_names())
def test_every_number_format_a_device_has(hardware: str) -> None:
    """Weights in each format, products in the format or in 16 bits, and each kind of cache."""
    formats = get_args(Dtype)
    ran, refused = set(), []
    for weights, activations, cached in product(formats, (None, *formats), ("bf16", "fp8")):
        precision = {"weights": weights, "activations": activations, "kv_cache": cached}
        try:
            resolved = resolve(scenario(hardware=hardware, precision=precision))
        except ScenarioError as error:
            refused.append(error)
            continue
        ran.add(weights)
        seconds = resolved.cost.decode(4, 400, 0, 0)[0]
        floor = least_bytes(resolved.deployment.model, weights, 1)
        assert floor / resolved.deployment.hardware.bandwidth_bytes_per_s < seconds < 10
    assert {"bf16", "fp16", "fp8", "int8", "int4", "fp4"} <= ran
    assert all(error.where == "precision.activations" and error.hint for error in refused)


# --- traffic, policies and routers ---------------------------------------------------------------

ARRIVALS: dict[str, dict[str, Any]] = {
    "poisson": {"rate_per_s": 40.0},
    "gamma": {"rate_per_s": 40.0, "cv": 3.0},
    "constant": {"rate_per_s": 40.0},
    "ramp": {"start_per_s": 5.0, "end_per_s": 80.0, "over_s": 0.5},
    "diurnal": {"rate_per_s": 40.0, "period_s": 2.0, "peak_at_s": 0.5},
    "rates": {
        "intervals": [
            {"start_s": 0.0, "rate_per_s": 60.0, "cv": 2.0},
            {"start_s": 0.2, "rate_per_s": 20.0},
        ],
        "repeat": True,
    },
    "burst": {},
    "closed_loop": {"concurrency": 3, "think_time_s": 0.05, "think_distribution": "exponential"},
}
LENGTHS: dict[str, dict[str, Any]] = {
    "fixed": {"tokens": 100},
    "uniform": {"low": 1, "high": 300},
    "normal": {"mean": 100.0, "std": 40.0},
    "lognormal": {"mean": 90.0, "cv": 1.5, "high": 300},
    "empirical": {"tokens": [1, 16, 250], "weights": [1.0, 1.0, 2.0]},
}
POLICIES: dict[str, dict[str, Any]] = {
    "continuous": {},
    "continuous, whole prompts": {"kind": "continuous", "chunked_prefill": False},
    "prefill_first": {},
    "full_reservation": {},
    "static": {"batch_size": 4},
    "dynamic": {"batch_size": 4, "window_ms": 30.0},
}
ROUTERS: dict[str, dict[str, Any]] = {
    "round_robin": {},
    "random": {},
    "least_outstanding": {},
    "power_of_two": {},
    "prefix_aware": {"max_imbalance": 2},
    "session_affinity": {"max_imbalance": 2},
}


def kinds(union: Any) -> set[str]:
    """The values of ``kind`` in a discriminated union."""
    members = get_args(get_args(union)[0])
    return {member.model_fields["kind"].default for member in members}


def test_the_lists_here_are_complete() -> None:
    assert kinds(traffic.Arrivals) == set(ARRIVALS)
    assert kinds(traffic.Length) == set(LENGTHS)
    assert kinds(traffic.Lengths) == {"independent", "from_trace", "over_time"}
    assert kinds(traffic.Workload) == {"synthetic", *OTHER_TRAFFIC} - VARIANTS
    assert kinds(policies.Policy) == {p.get("kind", name) for name, p in POLICIES.items()}
    assert kinds(routers.Router) == set(ROUTERS)


def lengths_of(kind: str) -> dict[str, Any]:
    if kind == "from_trace":
        return {"kind": "from_trace", "file": str(TRACE)}
    each = {"kind": kind, **LENGTHS[kind]}
    return {"kind": "independent", "input": each, "output": each}


TRACE = Path(__file__).parent / "data" / "dozen.csv"
OVER_TIME = Path(__file__).parent / "data" / "lengths.csv"
VARIANTS = {"shared prefix", "lengths over time"}
"""Of synthetic traffic."""


def workload(arrivals: str, lengths: str) -> dict[str, Any]:
    return {
        "kind": "synthetic", "requests": 14,
        "arrivals": {"kind": arrivals, **ARRIVALS[arrivals]}, "lengths": lengths_of(lengths),
    }  # fmt: skip


@cache
def deployment(policy: str) -> Resolved:
    """Few blocks, so that policies have something to decide."""
    made = scenario(
        engine={
            "profile": "vllm", "policy": {"kind": policy} | POLICIES[policy],
            "max_num_seqs": 6, "kv_cache_tokens": 720, "max_model_len": 700,
            **({} if policy in ("static", "dynamic") else {"max_num_batched_tokens": 2000}),
        }
    )  # fmt: skip
    return resolve(made)


def check_combination(resolved: Resolved, asked: Requests, router: str) -> None:
    settings = scenario(deployment={"router": {"kind": router, **ROUTERS[router]}}).deployment
    record = run_cluster(
        asked,
        resolved.deployment.limits,
        resolved.layout.blocks,
        resolved.cost,
        layout=resolved.layout,
        replicas=3,
        router=settings.router,
        network_s=0.002,
        front_end=FrontEndTimes(0.001, 0.001, 1e-6, 1e-5, 0.001),
    )
    check_record(record, resolved.deployment.limits, delay_s=0.003)
    assert (record.outcome == COMPLETED).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_every_combination(arrivals: str, policy: str) -> None:
    """Of lengths and routers, under these arrivals and this policy."""
    resolved = deployment(policy)
    for lengths in (*LENGTHS, "from_trace"):
        made = scenario(workload=workload(arrivals, lengths))
        asked = build_requests(made.workload, np.random.default_rng(5))
        for router in ROUTERS:
            check_combination(resolved, asked, router)


OTHER_TRAFFIC: dict[str, dict[str, Any]] = {
    "trace": {"kind": "trace", "file": str(TRACE), "rate_scale": 3.0},
    "sessions": {
        "kind": "sessions", "requests": 20, "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
        "turns": {"kind": "uniform", "low": 1, "high": 4},
        "user_tokens": {"kind": "uniform", "low": 5, "high": 60},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 50},
        "system_prompt": {"tokens": 40}, "think_time_s": 0.05,
    },
    "batch": {
        "kind": "batch", "requests": 20, "submit_at_s": 0.1, "max_in_flight": 3,
        "lengths": lengths_of("uniform"),
    },
    "queue": {
        "kind": "queue", "requests": 20, "arrivals": {"kind": "gamma", "rate_per_s": 40.0, "cv": 2.0},
        "max_in_flight": 2, "lengths": lengths_of("uniform"),
    },
    "lengths over time": workload("rates", "fixed") | {"lengths": {"kind": "over_time", "file": str(OVER_TIME)}},
    "shared prefix": workload("poisson", "fixed") | {"shared_prefix": {"tokens": 90, "groups": 2}},
    "mix": {
        "kind": "mix",
        "classes": [
            {"name": "chat", "workload": workload("poisson", "lognormal")},
            {"name": "users", "workload": workload("closed_loop", "uniform")},
            {"name": "batch", "workload": workload("burst", "fixed"), "slo": {"e2e_ms": 900.0}},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", OTHER_TRAFFIC)
def test_other_kinds_of_traffic(kind: str, policy: str) -> None:
    made = scenario(workload=OTHER_TRAFFIC[kind])
    asked = build_requests(made.workload, np.random.default_rng(5))
    for router in ROUTERS:
        check_combination(deployment(policy), asked, router)


def test_blocks_are_tight_enough_for_these_tests_to_mean_something() -> None:
    resolved = deployment("continuous")
    made = scenario(workload=workload("burst", "lognormal"))
    asked = build_requests(made.workload, np.random.default_rng(5))
    record = run_cluster(asked, resolved.deployment.limits, resolved.layout.blocks, resolved.cost)
    assert record.preemptions.sum() > 0


# --- from the scenario to the result -------------------------------------------------------------


def check_numbers(value: Any, where: str = "") -> None:
    """No infinity and no NaN anywhere."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_numbers(item, f"{where}[{index}]")
    elif isinstance(value, float):
        assert math.isfinite(value), where


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", [*OTHER_TRAFFIC, "synthetic"])
def test_summaries_are_whole_and_repeat(kind: str, policy: str) -> None:
    made = scenario(
        "llama-3.2-1b",
        "l4",
        engine={"policy": {"kind": policy} | POLICIES[policy]},
        workload=OTHER_TRAFFIC.get(kind) or workload("gamma", "lognormal"),
        deployment={"replicas": 2, "router": {"kind": "power_of_two"}},
        slo={"ttft_ms": 500.0, "tpot_ms": 40.0},
        energy={"pue": 1.2, "grid_gco2e_per_kwh": 300.0},
    )
    first, second = (simulate(made).summary() for _ in range(2))
    check_numbers(first)
    assert _without_wall_time(first) == _without_wall_time(second)
    json.dumps(first, allow_nan=False)


def _without_wall_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_wall_time(v) for k, v in value.items() if "wall" not in k}
    return value
