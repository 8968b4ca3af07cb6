"""Cost model and memory of a replica, as its layout asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

from simulator.costs.context_steps import ContextCostModel
from simulator.costs.lockstep import LockstepCostModel
from simulator.costs.memory import Beside, memory_budget
from simulator.costs.model import StepCostModel
from simulator.costs.pipeline import PipelineCostModel
from simulator.costs.sharded import ShardedCostModel
from simulator.costs.speculative import SpeculativeCost
from simulator.costs.stage_memory import stages_budget
from simulator.deployment import Limits, MemoryBudget, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.errors import ScenarioError
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec, MoeMlp
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.serving.kv_cache import KvLayout

ReplicaCost = StepCostModel | PipelineCostModel | SpeculativeCost
"""Step times of a replica, and what is behind them."""


class Device(TypedDict):
    """What a memory budget needs to know of a device; see ``memory_budget``."""

    device_gib: float
    fraction: float
    hardware_title: str
    node_devices: int
    beside: Beside


def check_lanes(spec: ModelSpec, layout: Layout, limits: Limits, *, drafts: bool) -> None:
    """Makes sure that several schedulers in one replica can serve the model like that; ``drafts``:
    with speculative decoding.

    Raises:
        ScenarioError: they cannot, with the reason.
    """
    if layout.pp > 1 and layout.dp > 1:
        raise ScenarioError(
            "stages whose attention is data-parallel cannot be simulated: ranks would have to wait "
            "for each other in every stage",
            where="parallelism.dp",
            hint="use pp or dp, not both",
        )
    if layout.dp > 1 and not any(isinstance(group.mlp, MoeMlp) for group in spec.groups):
        raise ScenarioError(
            f"{spec.name} has no experts that data-parallel ranks could share, so each rank would "
            "be a copy of the model",
            where="parallelism.dp",
            hint="use deployment.replicas",
        )
    if layout.dp > 1 and isinstance(limits.policy, StaticPolicy | DynamicPolicy):
        raise ScenarioError(
            f"{limits.policy.kind} batches end at different times on different ranks, and ranks "
            "in lockstep cannot wait for their batches to fill",
            where="engine.policy",
            hint="use kind: continuous",
        )
    if layout.pp > 1 and drafts:
        raise ScenarioError(
            "drafts are made on the last stage and would have to pass all stages before a lane "
            "could go on, which no engine does",
            where="parallelism.pp",
            hint="leave out engine.speculative, or use tp",
        )
    if layout.dp > 1 and drafts:
        raise ScenarioError(
            "ranks in lockstep that verify drafts cannot be simulated",
            where="parallelism.dp",
            hint="leave out engine.speculative",
        )


def cost_model(
    spec: ModelSpec,
    hardware: HardwareProfile,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    layout: Layout,
    limits: Limits,
) -> ReplicaCost:
    """Step times of a replica; see ``StepCostModel``."""
    if layout.pp > 1:
        return PipelineCostModel(spec, hardware, engine, precision, layout, limits)
    if layout.cp > 1:
        return ContextCostModel(spec, hardware, engine, precision, layout, limits)
    if layout.dp > 1:
        return LockstepCostModel(spec, hardware, engine, precision, layout, limits)
    if layout.fsdp > 1:
        return ShardedCostModel(spec, hardware, engine, precision, layout, limits)
    return StepCostModel(spec, hardware, engine, precision, layout, limits)


def replica_budget(
    spec: ModelSpec,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    limits: Limits,
    layout: Layout,
    device: Device,
    *,
    kv_cache_tokens: int | None,
) -> tuple[MemoryBudget, KvLayout]:
    """Memory of the device that is tightest, and the KV blocks of the whole replica: of stages
    those that all of them have, of data-parallel ranks the sum. See ``memory_budget``."""
    if layout.pp > 1:
        return stages_budget(
            spec, engine, precision, limits, layout, kv_cache_tokens=kv_cache_tokens, **device
        )
    ranks = layout.dp
    each = None if kv_cache_tokens is None else -(-kv_cache_tokens // ranks)
    budget, pages = memory_budget(
        spec, engine, precision, limits, layout, kv_cache_tokens=each, **device
    )
    if ranks == 1:
        return budget, pages
    blocks = ranks * pages.blocks
    budget = replace(budget, kv_blocks=blocks, kv_tokens=blocks * pages.block_size)
    return budget, replace(pages, blocks=blocks)
