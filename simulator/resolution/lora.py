"""Adapters of a scenario: what they cost, and with what they cannot be combined yet."""

from __future__ import annotations

from dataclasses import replace

from simulator.costs.lora import adapter_plan
from simulator.deployment import Limits
from simulator.engines.profile import EngineProfile
from simulator.errors import ScenarioError
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.scenario.policies import DynamicPolicy, FullReservationPolicy, StaticPolicy
from simulator.scenario.scenario import Scenario


def with_adapters(
    scenario: Scenario,
    spec: ModelSpec,
    hardware: HardwareProfile,
    engine: EngineProfile,
    layout: Layout,
    limits: Limits,
) -> Limits:
    """Limits with room for the adapters that ``engine.lora`` asks for.

    Raises:
        ScenarioError: the engine does something that is not simulated with adapters, or the model
            has no layers that they could change.
    """
    asked = scenario.engine
    assert asked.lora is not None
    policy = limits.policy
    refused = {
        "batches that run to their end": isinstance(policy, StaticPolicy | DynamicPolicy),
        "prompts that wait for others": isinstance(policy, FullReservationPolicy)
        and policy.wait_steps > 0,
        f"the order {limits.queue.kind}": limits.queue.kind != "fcfs",
        "speculative decoding": asked.speculative is not None,
        "tiers of KV blocks": bool(asked.kv_offload),
        "swapping": asked.preemption.kind != "recompute",
        "contiguous KV memory": asked.kv_allocation.kind != "paged",
        "pipelines": layout.pp > 1,
        "context parallelism": layout.cp > 1,
        "data-parallel attention": layout.dp > 1,
    }
    for what, used in refused.items():
        if used:
            raise ScenarioError(
                f"adapters are not simulated together with {what}",
                where="engine.lora",
                hint="leave one of them out",
            )
    if asked.lora.max_loras > limits.max_num_seqs:
        raise ScenarioError(
            f"{asked.lora.max_loras} adapters at once need as many sequences, and max_num_seqs is "
            f"{limits.max_num_seqs}",
            where="engine.lora.max_loras",
            hint=f"at most {limits.max_num_seqs}",
        )
    efficiency = hardware.efficiency.seen_by(engine.name)
    return replace(limits, adapters=adapter_plan(asked.lora, spec, hardware, efficiency, layout))
