"""From names to numbers: loads what a scenario refers to and fills in every default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from simulator.costs.memory import NOTHING_BESIDE, Beside
from simulator.costs.replica import (
    Device,
    ReplicaCost,
    check_lanes,
    cost_model,
    replica_budget,
)
from simulator.deployment import (
    FrontEndTimes,
    Limits,
    ResolvedDeployment,
    ResolvedPrecision,
)
from simulator.engines import load_engine
from simulator.engines.profile import EngineProfile
from simulator.errors import ScenarioError, UserError
from simulator.hardware import load_hardware
from simulator.hardware.profile import Figure, HardwareProfile
from simulator.models import load_model
from simulator.models.counting import kv_bytes_per_token
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.models.splits import check_split
from simulator.resolution.compress import pruned, sparse
from simulator.resolution.kv import reserve_of, with_kv_settings
from simulator.resolution.lora import with_adapters
from simulator.resolution.speculation import Target, speculate
from simulator.scenario.hardware import Hardware
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.scenario.scenario import Scenario
from simulator.serving.kv_cache import KvLayout

T = TypeVar("T")

_NARROWER = {
    "fp8": ("fp8", "fp4", "int4"),
    "int8": ("int8", "int4"),
    "fp4": ("fp4",),
    "int4": ("int4",),
}
"""Types that weights can have for products in a type below 16 bits; wider ones take any."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A deployment with what the clock needs: its cost model, KV layout and front end."""

    deployment: ResolvedDeployment
    cost: ReplicaCost
    layout: KvLayout
    front_end: FrontEndTimes


def resolve(
    scenario: Scenario, base: Path | None = None, engine: EngineProfile | None = None
) -> Resolved:
    """Loads model, hardware and engine and works out the memory budget.

    Args:
        scenario: as the user wrote it.
        base: folder that relative paths start from.
        engine: a profile to take instead of the one that the scenario names.

    Raises:
        UnknownNameError: a preset or profile does not exist.
        DoesNotFitError: the model does not fit.
        UserError: the device cannot run it as asked.
    """
    with _at("model"):
        spec = load_model(scenario.model, base)
    with _at("hardware.profile"):
        hardware = _in_nodes(load_hardware(scenario.hardware.profile, base), scenario.hardware)
    with _at("engine.profile"):
        engine = engine or load_engine(scenario.engine.profile, base)
    if scenario.engine.version is not None:
        engine = _at_release(engine, scenario.engine.version)
    spec = pruned(spec, scenario.precision)
    layout = _layout(scenario)
    with _at("parallelism.tp"):
        check_split(spec, layout)
    precision = _precision(scenario, spec, hardware)
    if scenario.precision.kv_cache is not None and not kv_bytes_per_token(spec, "bf16"):
        raise ScenarioError(
            f"{spec.name} caches nothing for each token, only a state for each sequence",
            where="precision.kv_cache",
            hint="leave it out; recurrent_state is the type of the states",
        )
    spec = sparse(spec, scenario.precision, precision.weights, hardware)
    device_gib = _device_gib(scenario, hardware)
    engine = engine.on(hardware.name, device_gib)
    own = hardware.efficiency.engines.get(engine.name)
    if own is not None and own.overheads is not None:
        engine = engine.model_copy(update={"overheads": (own.overheads,)})
    limits = _limits(scenario, spec, hardware, engine)
    check_lanes(spec, layout, limits, drafts=scenario.engine.speculative is not None)
    beside = NOTHING_BESIDE
    if scenario.engine.lora is not None:
        limits = with_adapters(scenario, spec, hardware, engine, layout, limits)
        assert limits.adapters is not None
        beside = Beside("adapters", limits.adapters.slots_gib)
    cost: ReplicaCost
    if scenario.engine.speculative is None:
        cost = cost_model(spec, hardware, engine, precision, layout, limits)
    else:
        limits, cost, beside = speculate(
            scenario.engine.speculative,
            Target(spec, hardware, engine, precision, layout, limits),
            lambda asked, model: _precision(
                scenario.model_copy(update={"precision": asked}), model, hardware
            ),
            base,
            scenario.measurement.seed,
        )
    device = Device(
        device_gib=device_gib,
        fraction=scenario.engine.memory_fraction or engine.memory.fraction,
        hardware_title=hardware.title,
        node_devices=hardware.node.devices,
        beside=beside,
    )
    memory, pages = replica_budget(
        spec, engine, precision, limits, layout, device,
        kv_cache_tokens=scenario.engine.kv_cache_tokens,
    )  # fmt: skip
    usd, note = _price(scenario, hardware)
    deployment = ResolvedDeployment(
        scenario, spec, hardware, engine, precision, limits, layout, memory, usd, note
    )
    devices = deployment.devices_per_replica
    pages = with_kv_settings(pages, scenario.engine, limits, memory, hardware, devices)
    front_end = _front_end(engine, random_prompts=scenario.engine.random_prompts)
    return Resolved(deployment, cost, pages, front_end)


def _in_nodes(hardware: HardwareProfile, asked: Hardware) -> HardwareProfile:
    """The devices in nodes and on a network as the scenario describes them."""
    size, rate, latency = (asked.devices_per_node, asked.network_gb_per_s, asked.network_latency_us)
    if size is not None and size > 1 and hardware.link.kind == "none":
        raise ScenarioError(
            f"{hardware.title} has no link to other devices of a node",
            where="hardware.devices_per_node",
            hint="leave it out",
        )
    given = {
        "devices": size,
        "network_gb_per_s_per_device": rate and Figure(value=rate, source="scenario"),
        "network_latency_us": latency and Figure(value=latency, source="scenario"),
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return hardware
    return hardware.model_copy(update={"node": hardware.node.model_copy(update=changes)})


def _layout(scenario: Scenario) -> Layout:
    asked, replicas = scenario.parallelism, scenario.deployment.replicas
    for key in ("autoscaling", "failures", "spot"):
        if asked.fsdp > 1 and getattr(scenario.deployment, key) is not None:
            raise ScenarioError(
                f"replicas that share weights cannot come and go one by one, as {key} has it",
                where="parallelism.fsdp",
                hint=f"leave out fsdp or deployment.{key}",
            )
    if replicas % asked.fsdp:
        raise ScenarioError(
            f"weights sharded over {asked.fsdp} replicas, of which there are {replicas}",
            where="parallelism.fsdp",
            hint=f"make the replicas, of a pool too, a multiple of {asked.fsdp}",
        )
    return Layout(
        tp=asked.tp, dp=asked.dp, pp=asked.pp, ep=asked.ep, cp=asked.cp, fsdp=asked.fsdp,
        redundant=asked.redundant_experts,
    )  # fmt: skip


def _front_end(engine: EngineProfile, *, random_prompts: bool) -> FrontEndTimes:
    found = engine.front_end
    per_token_us = found.random_us_per_token if random_prompts else found.busy_us_per_token
    return FrontEndTimes(
        request_s=found.request_ms / 1e3,
        busy_s=found.busy_ms / 1e3,
        busy_s_per_token=per_token_us / 1e6,
        token_s=found.token_us / 1e6,
        response_s=found.response_ms / 1e3,
    )


@contextmanager
def _at(key: str) -> Iterator[None]:
    """Says which key of the scenario a mistake belongs to, where that is not known yet."""
    try:
        yield
    except UserError as error:
        error.where = error.where or key
        raise


def _at_release(engine: EngineProfile, version: str) -> EngineProfile:
    try:
        return engine.at(version)
    except ValueError as error:
        raise ScenarioError(str(error), where="engine.version") from None


def _precision(scenario: Scenario, spec: ModelSpec, hardware: HardwareProfile) -> ResolvedPrecision:
    """Weights default to the model's own type (16 bits where that is 32, as engines load them);
    products to the weights' type where it has 8 bits and the device has units for it, else to 16
    bits; the cache to 16 bits."""
    asked = scenario.precision
    weights = asked.weights or ("bf16" if spec.native_dtype == "fp32" else spec.native_dtype)
    activations = asked.activations
    if activations is None:
        narrow = weights in ("fp8", "int8") and hardware.computes(weights)
        activations = weights if narrow or weights in ("fp32", "fp16") else "bf16"
    if weights not in _NARROWER.get(activations, (weights,)):
        raise ScenarioError(
            f"activations in {activations} need weights of that type or narrower, not {weights}",
            where="precision.activations",
            hint=f"set precision.weights: {activations}, or activations: bf16",
        )
    if not hardware.computes(activations):
        raise ScenarioError(
            f"{hardware.title} has no matrix units for {activations}",
            where="precision.activations",
            hint="use activations: bf16 (weights narrower than that are widened on the fly)",
        )
    if asked.recurrent_state is not None and not spec.recurrent:
        raise ScenarioError(
            f"{spec.name} has no layers that keep a recurrent state",
            where="precision.recurrent_state",
            hint="leave it out",
        )
    state = asked.recurrent_state or spec.recurrent_dtype or "bf16"
    return ResolvedPrecision(weights, activations, asked.kv_cache or "bf16", state)


def _limits(
    scenario: Scenario, spec: ModelSpec, hardware: HardwareProfile, engine: EngineProfile
) -> Limits:
    asked = scenario.engine
    # Where the processor is the device, nothing is launched on it and nothing runs behind its back.
    apart = hardware.kind != "cpu"
    longest = _or(asked.max_model_len, spec.max_context)
    if longest > spec.max_context:
        raise ScenarioError(
            f"max_model_len {longest} is beyond the context of {spec.name}",
            where="engine.max_model_len",
            hint=f"at most {spec.max_context}",
        )
    policy = _or(asked.policy, engine.policy)
    if asked.cuda_graphs and not engine.cuda_graphs.sizes:
        raise ScenarioError(
            f"{engine.title} has no CUDA graphs",
            where="engine.cuda_graphs",
            hint="leave it out, or list cuda_graphs.sizes in an engine profile of your own",
        )
    for key in ("cuda_graphs", "async_scheduling"):
        if getattr(asked, key) and not apart:
            raise ScenarioError(
                f"{hardware.title} has no {key.replace('_', ' ')}: the processor is the device",
                where=f"engine.{key}",
                hint="leave it out",
            )
    whole_batches = isinstance(policy, StaticPolicy | DynamicPolicy)
    if whole_batches and asked.max_num_batched_tokens is not None:
        raise ScenarioError(
            f"{policy.kind} batches have no token budget",
            where="engine.max_num_batched_tokens",
            hint="leave it out; policy.batch_size limits a batch",
        )
    reserve = reserve_of(asked, policy)
    # Blocks can only be shared where they are handed out one by one, for all of the context.
    shareable = not whole_batches and spec.grows and not spec.recurrent
    if asked.prefix_caching and not shareable:
        if whole_batches:
            why = f"{policy.kind} batches"
        elif spec.recurrent:
            why = f"{spec.name}, whose recurrent layers keep no state of a prompt's beginning,"
        else:
            why = f"{spec.name}, whose window moves on,"
        raise ScenarioError(
            f"{why} cannot share KV blocks between prompts",
            where="engine.prefix_caching",
            hint="leave it out",
        )
    shareable = shareable and not reserve
    return Limits(
        policy=policy,
        max_num_seqs=_or(asked.max_num_seqs, engine.max_num_seqs),
        max_num_batched_tokens=_or(asked.max_num_batched_tokens, engine.max_num_batched_tokens),
        max_model_len=longest,
        block_size=1 if reserve else _or(asked.block_size, engine.block_size),
        prefix_caching=_or(asked.prefix_caching, engine.prefix_caching) and shareable,
        cuda_graphs=_or(asked.cuda_graphs, engine.cuda_graphs.enabled and apart),
        async_scheduling=_or(asked.async_scheduling, engine.async_scheduling and apart),
        queue=asked.queue,
        kv_reserve=reserve,
        kernels=asked.kernels,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _device_gib(scenario: Scenario, hardware: HardwareProfile) -> float:
    capacity = hardware.memory.capacity_gib.value
    asked = scenario.hardware.memory_gib
    if asked is None:
        return capacity
    if asked > capacity * 1.05:
        raise ScenarioError(
            f"memory_gib {asked:g} is more than a {hardware.title} has",
            where="hardware.memory_gib",
            hint=f"at most {capacity:g}",
        )
    return asked


def _price(scenario: Scenario, hardware: HardwareProfile) -> tuple[float | None, str]:
    """The cheapest price of the plan asked for, or the user's own figure."""
    if scenario.cost.usd_per_device_hour is not None:
        return scenario.cost.usd_per_device_hour, "as given in the scenario"
    prices = [p for p in hardware.prices if p.plan == scenario.cost.plan]
    if not prices:
        return None, f"no {scenario.cost.plan} price known for {hardware.title}; set " \
            "cost.usd_per_device_hour"  # fmt: skip
    best = min(prices, key=lambda p: p.usd_per_device_hour)
    place = " ".join(part for part in (best.cloud, best.instance, best.region) if part)
    return best.usd_per_device_hour, f"{scenario.cost.plan} at {place}, {best.as_of.isoformat()}"
