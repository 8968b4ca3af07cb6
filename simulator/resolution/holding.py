"""What holds where a scenario leaves a key out and its models have no default: the model's, the
device's and the engine's own values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.resolution.pools import resolve_pools
from simulator.scenario.scenario import Scenario


def values_that_hold(scenario: Scenario, base: Path | None = None) -> dict[str, Any]:
    """The value behind every key that may be left out for the engine, the model or the device to
    decide; nothing is simulated.

    Args:
        scenario: where they are looked up.
        base: folder that relative paths in it start from; default: the current one.

    Returns:
        By key, as ``--set`` takes it: ``engine.max_num_seqs``. Nothing where there are several
        pools, each of which may have values of its own.

    Raises:
        UserError: the deployment is impossible, with the reason.
    """
    pools = resolve_pools(scenario, base)
    if len(pools) > 1:
        return {}
    deployment = pools[0].deployment
    limits, precision, memory = deployment.limits, deployment.precision, deployment.engine.memory
    return {
        "precision.weights": precision.weights,
        "precision.activations": precision.activations,
        "precision.kv_cache": precision.kv_cache,
        "engine.max_num_seqs": limits.max_num_seqs,
        "engine.max_num_batched_tokens": limits.max_num_batched_tokens,
        "engine.max_model_len": limits.max_model_len,
        "engine.block_size": limits.block_size,
        "engine.prefix_caching": limits.prefix_caching,
        "engine.memory_fraction": scenario.engine.memory_fraction or memory.fraction,
        "cost.usd_per_device_hour": deployment.usd_per_device_hour,
    }
