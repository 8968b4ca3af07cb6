"""Nothing is accepted and ignored: every field of a scenario, of an engine profile and of a
hardware profile changes what comes out of some run."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from simulator.engines import load_engine
from simulator.engines.profile import FrontEnd, HostOverhead, Launches
from simulator.errors import DoesNotFitError
from simulator.hardware import load_hardware
from simulator.scenario.routers import PrefixAwareRouter
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate

Fields = dict[str, Any]
"""Values by dotted path."""

BASE: Fields = {
    "model": "llama-3.2-3b",
    "hardware.profile": "h100-sxm",
    "engine.max_num_seqs": 16,
    "engine.max_num_batched_tokens": 512,
    "deployment.oversized_requests": "reject",
    "slo": {"ttft_ms": 60.0, "tpot_ms": 9.0, "e2e_ms": 500.0},
    "energy.grid_gco2e_per_kwh": 100.0,
    "workload": {
        "kind": "synthetic",
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 25.0},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "uniform", "low": 150, "high": 500},
            "output": {"kind": "uniform", "low": 1, "high": 150},
        },
        "shared_prefix": {"tokens": 100, "groups": 4},
    },
}

ECHOES = ("schema_version", "product", "name", "description", "simulated", "scenario", "notes",
          "warnings", "checks")  # fmt: skip
"""Parts of a summary that repeat what was asked for."""


def nested(fields: Fields) -> Fields:
    made: Fields = {}
    for path, value in fields.items():
        *parents, last = path.split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = copy.deepcopy(value)
    return made


def outcome(fields: Fields) -> Fields:
    """What came of a run, without what merely repeats the scenario."""
    summary = simulate(Scenario.model_validate(nested(BASE | fields))).summary()
    return {
        key: _without(value, "price_note", "limits", "attainment_wanted", "pue")
        for key, value in summary.items()
        if key not in ECHOES
    }


def _without(value: Any, *names: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(item, *names)
            for key, item in value.items()
            if key not in names and "wall" not in key
        }
    return value


BEFORE: dict[str, Fields] = {}


def before_of(given: Fields) -> Fields:
    """What comes of a run without the change: once for all changes that share it."""
    key = repr(sorted(given.items()))
    if key not in BEFORE:
        BEFORE[key] = outcome(given)
    return BEFORE[key]


# --- the scenario --------------------------------------------------------------------------------

BATCHES: Fields = {"engine.max_num_batched_tokens": None}
THREE: Fields = {"deployment.replicas": 3}
WARM: Fields = {
    **THREE,
    "deployment.router": {"kind": "prefix_aware", "max_imbalance": 32},
    "workload": BASE["workload"] | {"arrivals": {"kind": "poisson", "rate_per_s": 250.0}},
}

RESERVED: Fields = {"engine.policy": {"kind": "full_reservation"}}

CHANGES: list[tuple[str, Any, Fields]] = [
    ("model", "llama-3.2-1b", {}),
    ("hardware.profile", "h200-sxm", {}),
    ("hardware.memory_gib", 20.0, {}),
    ("engine.profile", "sglang", {}),
    ("engine.policy", {"kind": "prefill_first"}, {}),
    ("engine.max_num_seqs", 2, {}),
    ("engine.max_num_batched_tokens", 64, {}),
    ("engine.max_model_len", 400, {}),
    ("engine.block_size", 128, {}),
    ("engine.prefix_caching", False, {}),
    ("engine.cuda_graphs", False, {}),
    ("engine.async_scheduling", False, {}),
    ("engine.random_prompts", True, {}),
    ("engine.version", "0.11", {}),
    ("engine.memory_fraction", 0.5, {}),
    ("engine.kv_cache_tokens", 1500, {}),
    ("precision.weights", "fp8", {}),
    ("precision.activations", "bf16", {"precision.weights": "fp8"}),
    ("precision.kv_cache", "fp8", {}),
    ("parallelism.tp", 2, {}),
    ("deployment.replicas", 2, {}),
    ("deployment.router", {"kind": "least_outstanding"}, THREE),
    ("deployment.timeout_s", 0.4, {}),
    ("deployment.network_ms", 15.0, {}),
    ("slo.ttft_ms", 11.0, {}),
    ("slo.tpot_ms", 3.9, {}),
    ("slo.e2e_ms", 300.0, {}),
    ("slo.attainment", 0.1, {}),
    ("cost.plan", "reserved", {}),
    ("cost.usd_per_device_hour", 1.25, {}),
    ("energy.pue", 1.4, {}),
    ("energy.grid_gco2e_per_kwh", 400.0, {}),
    ("measurement.seed", 7, {}),
    ("measurement.warmup_fraction", 0.5, {}),
    ("measurement.include_drain", True, {}),
    # Settings of policies and routers
    ("engine.policy", {"kind": "continuous", "chunked_prefill": False}, {}),
    ("engine.policy", {"kind": "static", "batch_size": 9}, BATCHES | {"engine.policy": {"kind": "static", "batch_size": 4}}),
    ("engine.policy", {"kind": "dynamic", "batch_size": 4, "window_ms": 5.0}, BATCHES | {"engine.policy": {"kind": "dynamic", "batch_size": 4, "window_ms": 60.0}}),
    ("engine.policy", {"kind": "full_reservation", "chunked_prefill": False}, RESERVED),
    ("engine.policy", {"kind": "full_reservation", "wait_steps": 9}, RESERVED),
    ("engine.policy", {"kind": "full_reservation", "wait_steps": 9, "wait_fill": 0.05}, RESERVED | {"engine.policy": {"kind": "full_reservation", "wait_steps": 9}}),
    ("deployment.router", {"kind": "prefix_aware", "max_imbalance": 0}, WARM),
    ("deployment.router", {"kind": "prefix_aware", "max_imbalance": 32, "min_match": 1.0}, WARM),
]  # fmt: skip

for _module in sorted(Path(__file__).parent.glob("fields_*.py")):
    # Each part of the product lists its own settings: path, another value, what else is set.
    CHANGES += importlib.import_module(_module.stem).CHANGES


@pytest.mark.parametrize(
    ("path", "value", "given"), CHANGES, ids=[f"{path}={value}" for path, value, _ in CHANGES]
)
def test_every_setting_matters(path: str, value: Any, given: Fields) -> None:
    assert outcome(given | {path: value}) != before_of(given)


def test_a_run_is_the_same_where_nothing_changed() -> None:
    """Or the test above would prove nothing."""
    assert outcome({}) == before_of({})
    assert outcome({"description": "other words", "name": "other"}) == before_of({})
    assert outcome({"deployment.timeout_s": 1e6, "deployment.network_ms": 0.0}) == before_of({})


def test_oversized_requests_are_an_error_or_rejected() -> None:
    with pytest.raises(DoesNotFitError):
        outcome({"engine.max_model_len": 400, "deployment.oversized_requests": "error"})
    rejected = outcome({"engine.max_model_len": 400})["requests"]["all_by_outcome"]["rejected"]
    assert 0 < rejected < 60


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted paths of a model's fields, those of a choice of kinds as one."""
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_no_setting_is_forgotten_here() -> None:
    """Settings of the traffic have tests of their own."""
    told = {path for path, _, _ in CHANGES} | {"deployment.oversized_requests"}
    assert leaves(Scenario) - told == {"name", "description", "workload"}
    assert set(PrefixAwareRouter.model_fields) == {"kind", "max_imbalance", "min_match"}


# --- engine profiles -----------------------------------------------------------------------------

HYBRID: Fields = {"model": "gemma-3-4b", "engine.kv_cache_tokens": None}
MANY: Fields = {"engine.max_num_seqs": None, "engine.max_num_batched_tokens": None}
EAGER: Fields = {"engine.cuda_graphs": False}

DRAFTS: Fields = {"engine.speculative": {"kind": "ngram", "tokens": 4, "acceptance": 0.5}}

ENGINE: list[tuple[str, Any, Fields]] = [
    ("policy", {"kind": "full_reservation"}, {"engine.kv_cache_tokens": 2500}),
    ("max_num_seqs", 3, MANY),
    ("max_num_batched_tokens", 1100, MANY),
    ("small_devices.below_gib", 500.0, MANY),
    ("small_devices.devices", ["h100-sxm"], MANY),
    ("block_size", 64, {}),
    ("prefix_caching", False, {}),
    ("hybrid_kv", False, HYBRID),
    ("memory.rule", "of_free", {}),
    ("memory.fraction", 0.7, {}),
    ("memory.reserved_gib", 9.0, {}),
    ("overheads.-1.host.step_ms", 2.1, {}),
    ("overheads.-1.host.per_seq_us", 90.0, {}),
    ("overheads.-1.host.per_token_us", 3.0, {}),
    ("overheads.-1.host.overlap", 0.0, {}),
    ("overheads.-1.front_end.request_ms", 20.0, {}),
    ("overheads.-1.front_end.busy_ms", 20.0, {}),
    ("overheads.-1.front_end.busy_us_per_token", 40.0, {}),
    ("overheads.-1.front_end.random_us_per_token", 40.0, {"engine.random_prompts": True}),
    ("overheads.-1.front_end.token_us", 400.0, {}),
    ("overheads.-1.launches.kernel_us", 300.0, EAGER),
    ("overheads.-1.launches.piece_us", 3000.0, {"engine.cuda_graphs": "piecewise"}),
    ("async_scheduling", False, {}),
    ("earlier.0.async_scheduling", True, {"engine.version": "0.11"}),
    ("overheads.-1.front_end.response_ms", 20.0, {}),
    ("cuda_graphs.enabled", False, {}),
    ("cuda_graphs.sizes", [1, 64], {}),
    ("cuda_graphs.piecewise", False, {}),
    ("cuda_graphs.per_sequence", True, DRAFTS),
]


def changed(document: Fields, path: str, value: Any) -> Fields:
    """A copy with another value at a path that exists."""
    made = copy.deepcopy(document)
    *parents, last = path.split(".")
    place = made
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    assert last in place, path
    assert place[last] != value, path
    place[last] = value
    return made


def write(document: Fields, folder: Path) -> str:
    file = folder / "profile.yaml"
    file.write_text(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    return str(file)


def before_with(key: str, document: Fields, given: Fields, folder: Path) -> Fields:
    """What comes of a profile before the change: once for all changes that share it."""
    asked = repr((key, document, sorted(given.items())))
    if asked not in BEFORE:
        BEFORE[asked] = outcome(given | {key: write(document, folder)})
    return BEFORE[asked]


@pytest.mark.parametrize(("path", "value", "given"), ENGINE, ids=[path for path, _, _ in ENGINE])
def test_every_field_of_an_engine_matters(
    path: str, value: Any, given: Fields, tmp_path: Path
) -> None:
    document = load_engine("vllm").model_dump(mode="json")
    if path.startswith("small_devices"):
        document["small_devices"] |= {"max_num_seqs": 4, "max_num_batched_tokens": 700}
    before = before_with("engine.profile", document, given, tmp_path)
    after = outcome(given | {"engine.profile": write(changed(document, path, value), tmp_path)})
    assert after != before


def test_where_a_profile_lies_does_not_matter(tmp_path: Path) -> None:
    """Or the tests with profiles would prove nothing: what is compared lies in two folders."""
    for key, document in (
        ("engine.profile", load_engine("vllm").model_dump(mode="json")),
        ("hardware.profile", h100()),
    ):
        (tmp_path / key).mkdir()
        elsewhere = outcome({key: write(document, tmp_path / key)})
        assert elsewhere == before_with(key, document, {}, tmp_path)


def test_no_field_of_an_engine_is_forgotten_here() -> None:
    told = {path for path, _, _ in ENGINE}
    words = {"name", "title", "version", "aliases", "sources"}
    whole = {"small_devices", "overheads", "earlier"}
    parts = {path for path in told if path.partition(".")[0] in whole}
    assert leaves(type(load_engine("vllm"))) == (told - parts) | words | whole
    changed_overheads = {path.removeprefix("overheads.-1.") for path in parts}
    for name, part in (("host", HostOverhead), ("launches", Launches), ("front_end", FrontEnd)):
        assert {f"{name}.{field}" for field in part.model_fields} <= changed_overheads


# --- hardware profiles ---------------------------------------------------------------------------

TWO: Fields = {"parallelism.tp": 2}
EXPERTS: Fields = {"model": "qwen3-30b-a3b", "workload": BASE["workload"] | {"requests": 20}}
LATENT: Fields = {"model": "deepseek-v2-lite", "workload": BASE["workload"] | {"requests": 20}}

HARDWARE: list[tuple[str, Any, Fields]] = [
    ("peak_tflops.bf16.value", 300.0, {}),
    ("peak_tflops.fp8.value", 300.0, {"precision.weights": "fp8"}),
    ("memory.capacity_gib.value", 60.0, {}),
    ("memory.bandwidth_gb_per_s.value", 2000.0, {}),
    ("link.gb_per_s_per_direction.value", 60.0, TWO),
    ("power.tdp_w.value", 900.0, {}),
    ("power.idle_w.value", 120.0, {}),
    ("power.curve.active", 0.1, {}),
    ("power.curve.compute", 0.1, {}),
    ("power.curve.memory", 0.9, {}),
    ("power.curve.attention", 0.5, {}),
    ("power.curve.widening", 0.5, EXPERTS | {"precision.weights": "int4"}),
    ("efficiency.matmul.bf16.compute", 0.3, {}),
    ("efficiency.matmul.bf16.bandwidth", 0.3, {}),
    ("efficiency.matmul.bf16.overhead_us", 30.0, {}),
    ("efficiency.matmul.bf16.sharpness", 8.0, {}),
    ("efficiency.matmul.fp8.compute", 0.2, {"precision.weights": "fp8"}),
    ("efficiency.matmul.fp8.conversion", 0.05, {"precision.weights": "fp8"}),
    ("efficiency.grouped_matmul.bf16.bandwidth", 0.3, EXPERTS),
    ("efficiency.grouped_matmul.bf16-int4.bandwidth", 0.3, EXPERTS | {"precision.weights": "int4"}),
    ("efficiency.prefill_attention.bf16.compute", 0.2, {}),
    ("efficiency.prefill_attention.bf16.bandwidth", 0.1, {}),
    ("efficiency.prefill_attention.bf16.half_head_dim", 500.0, {}),
    ("efficiency.prefill_attention.bf16.overhead_us", 90.0, {}),
    ("efficiency.prefill_attention.fp8.overhead_us", 90.0, {"precision.kv_cache": "fp8"}),
    ("efficiency.decode_attention.bf16.bandwidth", 0.2, {}),
    ("efficiency.decode_attention.bf16.compute", 0.001, {}),
    ("efficiency.decode_attention.bf16.per_unit_us", 1.0, {}),
    ("efficiency.decode_attention.bf16.overhead_us", 90.0, {}),
    ("efficiency.decode_attention.fp8.bandwidth", 0.2, {"precision.kv_cache": "fp8"}),
    ("efficiency.decode_attention.latent-bf16.overhead_us", 90.0, LATENT),
    ("efficiency.decode_attention.latent-fp8.overhead_us", 90.0, LATENT | {"precision.kv_cache": "fp8"}),
    ("efficiency.elementwise.bandwidth", 0.1, {}),
    ("efficiency.elementwise.overhead_us", 9.0, {}),
    ("efficiency.collective.bandwidth", 0.1, TWO),
    ("efficiency.collective.latency_us", 40.0, TWO),
    ("efficiency.collective.per_peer_us", 40.0, TWO),
    ("efficiency.collective.contention", 1.0, {"parallelism.tp": 4}),
]  # fmt: skip


def h100() -> Fields:
    return load_hardware("h100-sxm").model_dump(mode="json")


@pytest.mark.parametrize(
    ("path", "value", "given"), HARDWARE, ids=[path for path, _, _ in HARDWARE]
)
def test_every_figure_of_a_device_matters(
    path: str, value: Any, given: Fields, tmp_path: Path
) -> None:
    before = before_with("hardware.profile", h100(), given, tmp_path)
    after = outcome(given | {"hardware.profile": write(changed(h100(), path, value), tmp_path)})
    assert after != before


@pytest.mark.parametrize(
    "path",
    [path for path, _, _ in HARDWARE if path.startswith("efficiency.") and path.endswith("_us")],
)
def test_slower_kernels_make_slower_requests(path: str, tmp_path: Path) -> None:
    given = next(given for known, _, given in HARDWARE if known == path)
    before = before_with("hardware.profile", h100(), given, tmp_path)
    after = outcome(given | {"hardware.profile": write(changed(h100(), path, 500.0), tmp_path)})
    assert after["latency"]["e2e_ms"]["mean"] > 1.05 * before["latency"]["e2e_ms"]["mean"]


def test_a_node_without_a_network_limits_tensor_parallelism(tmp_path: Path) -> None:
    document = load_hardware("h100-sxm").model_dump(mode="json")
    small = changed(document, "node.devices", 2)
    small["node"]["network_gb_per_s_per_device"] = None
    del small["sources"]["inferencex"]
    assert outcome(TWO | {"hardware.profile": write(small, tmp_path)})
    with pytest.raises(Exception, match="does not fit into one node of 2"):
        outcome({"parallelism.tp": 4, "hardware.profile": write(small, tmp_path)})
