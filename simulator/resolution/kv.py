"""From the KV settings of a scenario to blocks and rates, or the reason why they cannot be."""

from __future__ import annotations

from dataclasses import replace
from math import floor

from simulator.deployment import Limits, MemoryBudget
from simulator.errors import DoesNotFitError, ScenarioError
from simulator.hardware.profile import HardwareProfile
from simulator.scenario.engine import EngineChoice
from simulator.scenario.kv import ContiguousAllocation, KvLoading, KvTier, SsdTier, SwapPreemption
from simulator.scenario.policies import DynamicPolicy, FullReservationPolicy, Policy, StaticPolicy
from simulator.scenario.queue import FcfsQueue
from simulator.serving.below import Below, TierSpec
from simulator.serving.kv_cache import KvLayout

GIB = float(1 << 30)


def reserve_of(asked: EngineChoice, policy: Policy) -> str:
    """What sequences reserve as one run; empty where KV memory is paged.

    Raises:
        ScenarioError: something else that was asked for needs blocks.
    """
    allocation = asked.kv_allocation
    if not isinstance(allocation, ContiguousAllocation):
        return ""
    for key, wrong, why in (
        ("policy", isinstance(policy, StaticPolicy | DynamicPolicy),
         f"{policy.kind} batches hold one padded run for each slot already"),
        ("block_size", asked.block_size is not None, "one run has no blocks"),
        ("prefix_caching", bool(asked.prefix_caching), "runs cannot be shared between prompts"),
        ("preemption", isinstance(asked.preemption, SwapPreemption),
         "who reserves a run is never preempted"),
    ):  # fmt: skip
        if wrong:
            raise ScenarioError(
                f"{why}, so kv_allocation: {{kind: contiguous}} does not go with it",
                where=f"engine.{key}",
                hint="leave it out, or use kv_allocation: {kind: paged}",
            )
    return allocation.reserve


def with_kv_settings(
    layout: KvLayout,
    asked: EngineChoice,
    limits: Limits,
    memory: MemoryBudget,
    hardware: HardwareProfile,
    devices: int,
) -> KvLayout:
    """The layout of a replica with ``devices`` devices, with what the scenario says about its
    watermark, runs, tiers and swapping.

    Raises:
        UserError: settings contradict each other or the hardware, with the reason.
    """
    _check(asked, limits, layout)
    watermark = floor(asked.kv_watermark * layout.blocks)
    if limits.kv_reserve == "max_model_len" and limits.max_model_len > layout.blocks:
        raise DoesNotFitError(
            f"every sequence reserves max_model_len ({limits.max_model_len}) tokens, and a replica "
            f"has room for {layout.blocks}",
            where="engine.max_model_len",
            hint=f"at most {layout.blocks}",
        )
    below = _below(asked, limits, memory, hardware, devices)
    return replace(layout, watermark=watermark, reserve=limits.kv_reserve, below=below)


def _check(asked: EngineChoice, limits: Limits, layout: KvLayout) -> None:
    kind = limits.policy.kind
    whole = isinstance(limits.policy, StaticPolicy | DynamicPolicy)
    swaps = isinstance(asked.preemption, SwapPreemption)
    if asked.kv_watermark and whole:
        raise ScenarioError(
            f"{kind} batches start on an idle engine, where nothing is kept free",
            where="engine.kv_watermark", hint="leave it out",
        )  # fmt: skip
    if limits.kv_reserve and layout.fixed:
        raise ScenarioError(
            "a run holds tokens, and some layers of this model keep a state of fixed size instead",
            where="engine.kv_allocation", hint="use kv_allocation: {kind: paged}",
        )  # fmt: skip
    if swaps and (whole or isinstance(limits.policy, FullReservationPolicy)):
        raise ScenarioError(
            f"{kind} takes all blocks of a request with its admission and never preempts",
            where="engine.preemption", hint="leave it out, or use policy: {kind: continuous}",
        )  # fmt: skip
    if limits.speculation is not None:
        for key, asks in (
            ("preemption", swaps),
            ("kv_allocation", bool(limits.kv_reserve)),
        ):
            if asks:
                raise ScenarioError(
                    f"{key} moves or reserves KV memory in a way that speculative decoding is not "
                    "simulated with",
                    where=f"engine.{key}", hint="leave it out, or leave engine.speculative out",
                )  # fmt: skip
    if swaps and not isinstance(limits.queue, FcfsQueue):
        raise ScenarioError(
            "sequences that were swapped out come back in the order of their admissions, before "
            f"all who wait, which contradicts queue: {{kind: {limits.queue.kind}}}",
            where="engine.preemption", hint="use queue: {kind: fcfs}, or preemption by recompute",
        )  # fmt: skip
    if not asked.kv_offload:
        if asked.kv_loading is not None:
            raise ScenarioError(
                "there is no tier to load from",
                where="engine.kv_loading", hint="list engine.kv_offload, or leave it out",
            )  # fmt: skip
        return
    if swaps:
        raise ScenarioError(
            "the tiers of kv_offload keep the blocks of preempted sequences already",
            where="engine.preemption", hint="leave it out, or leave kv_offload out",
        )  # fmt: skip
    if not limits.prefix_caching:
        raise ScenarioError(
            "tiers keep blocks that prompts can find again, and this engine has no prefix cache",
            where="engine.kv_offload",
            hint="set engine.prefix_caching: true with a policy and a model that can share blocks",
        )
    if layout.fixed:
        raise ScenarioError(
            "tiers hold blocks of tokens, and some layers of this model keep a window or a state "
            "of fixed size instead",
            where="engine.kv_offload",
            hint="use a model with full attention, or, for windows, an engine profile with "
            "hybrid_kv: false",
        )
    if [tier.kind for tier in asked.kv_offload] not in (["host"], ["ssd"], ["host", "ssd"]):
        raise ScenarioError(
            "tiers are one of host memory, one of drives, or both in that order",
            where="engine.kv_offload", hint="list host first, then ssd",
        )  # fmt: skip


def _below(
    asked: EngineChoice,
    limits: Limits,
    memory: MemoryBudget,
    hardware: HardwareProfile,
    devices: int,
) -> Below | None:
    whole = memory.block_bytes * devices
    tiers = []
    for number, tier in enumerate(asked.kv_offload):
        blocks = _blocks(tier.gib, whole, f"engine.kv_offload.{number}.gib")
        if blocks:
            tiers.append(_tier(tier, blocks))
    swap = 0
    if isinstance(asked.preemption, SwapPreemption):
        swap = _blocks(asked.preemption.host_gib, whole, "engine.preemption.host_gib")
    if not tiers and not swap:
        return None
    loading = asked.kv_loading or KvLoading()
    return Below(
        block_bytes=memory.block_bytes,
        devices=devices,
        host_bytes_per_s=_host_rate(hardware, "preemption" if swap else "kv_offload"),
        tiers=tuple(tiers),
        min_blocks=-(-loading.min_tokens // limits.block_size),
        overlap=loading.overlap,
        swap_blocks=swap,
        replicas_per_node=max(1, hardware.node.devices // devices),
    )


def _tier(tier: KvTier, blocks: int) -> TierSpec:
    if isinstance(tier, SsdTier):
        return TierSpec(tier.kind, blocks, tier.read_gb_per_s * 1e9, tier.write_gb_per_s * 1e9)
    return TierSpec(tier.kind, blocks)


def _blocks(gib: float, block_bytes: float, where: str) -> int:
    """Whole blocks in so much memory; none is right only where none was asked for."""
    blocks = floor(gib * GIB / block_bytes)
    if gib and not blocks:
        raise DoesNotFitError(
            f"{gib:g} GiB do not hold one KV block of {block_bytes / GIB:.3g} GiB",
            where=where, hint="give more, or 0 for none",
        )  # fmt: skip
    return blocks


def _host_rate(hardware: HardwareProfile, key: str) -> float:
    if hardware.kind == "cpu":
        raise ScenarioError(
            f"{hardware.title} computes in host memory, so there is nothing to move there",
            where=f"engine.{key}", hint="leave it out",
        )  # fmt: skip
    link = hardware.node.host_link_gb_per_s
    if link is None:
        raise ScenarioError(
            f"no figure is known for the link between a {hardware.title} and its host",
            where=f"engine.{key}",
            hint="give node.host_link_gb_per_s in a hardware profile of your own",
        )
    return link.value * 1e9
