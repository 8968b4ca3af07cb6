"""The size of a KV cache, as files say it and as scenarios have it."""

from __future__ import annotations

from simulator.resolution.pools import ResolvedPool
from simulator.serving.kv_cache import KvLayout


def pinned(pool: ResolvedPool) -> bool:
    """Whether the size of the KV cache is written beside the memory fraction: it was asked for, or
    the fraction alone would take more than the scenario and the memory model grant."""
    deployment = pool.deployment
    scenario, memory, rule = deployment.scenario, deployment.memory, deployment.engine.memory
    granted = scenario.hardware.memory_gib
    if scenario.engine.kv_cache_tokens is not None:
        return True
    if granted is not None and granted < deployment.hardware.memory.capacity_gib.value:
        return True
    if rule.rule != "static":
        return False
    # Activations live in what the fraction leaves, and here they need more.
    fraction = scenario.engine.memory_fraction or rule.fraction
    static = fraction * (memory.device_gib - memory.reserved_gib) - memory.weights_gib
    return static > memory.kv_cache_gib + memory.unused_gib + 1e-9


def held_tokens(pool: ResolvedPool) -> int:
    """Tokens of the whole replica's KV cache: as asked for, or as many as its blocks hold."""
    asked = pool.deployment.scenario.engine.kv_cache_tokens
    if asked is not None:
        return asked
    ranks, layout = pool.deployment.layout.dp, pool.resolved.layout
    return ranks * most_tokens(layout, layout.blocks // ranks)


def most_tokens(layout: KvLayout, blocks: int) -> int:
    """Most tokens that ``blocks`` hold; 0 if none."""
    low, high = 0, blocks * layout.block_size + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if layout.blocks_for(middle) <= blocks else (low, middle)
    return low
