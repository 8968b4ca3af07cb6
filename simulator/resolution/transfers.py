"""From pools with the roles prefill and decode to the ways of the KV cache between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.cluster.disaggregation import Paths
from simulator.cluster.groups import lanes_of
from simulator.errors import ScenarioError
from simulator.models.counting import kv_bytes_per_rank, state_bytes_per_rank
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.scenario import Scenario
from simulator.scenario.transfer import KvTransfer

_POLICIES = {
    "prefill": ("continuous", "prefill_first", "full_reservation"),
    "decode": ("continuous", "prefill_first", "full_reservation"),
}


_QUEUES = {
    "prefill": ("fcfs", "priority", "shortest_first", "deadline"),
    "decode": ("fcfs",),
}


def paths_of(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Paths | None:
    """The paths between prefill and decode replicas; None where every pool serves whole requests.

    Raises:
        ScenarioError: the pools cannot hand keys and values over to each other, or no rate is
            known.
    """
    transfer = scenario.deployment.transfer
    if pools[0].role == "serve":
        if "transfer" in scenario.deployment.model_fields_set:
            raise ScenarioError(
                "nothing is transferred where every pool serves whole requests",
                where="deployment.transfer",
                hint="give pools with the roles prefill and decode, or leave it out",
            )
        return None
    _check_alike(pools)
    rates = [
        rate
        for number, pool in enumerate(pools)
        for rate in [_rate(transfer, pool, number)] * pool.replicas
    ]
    receiver = next(pool for pool in pools if pool.role == "decode")
    return Paths(
        rates,
        shared=None if transfer.shared_gb_per_s is None else transfer.shared_gb_per_s * 1e9,
        latency_s=transfer.latency_ms / 1e3,
        by_layer=transfer.mode == "by_layer",
        layers=receiver.deployment.model.layers,
        bytes_of=kv_bytes(receiver),
    )


def kv_bytes(pool: ResolvedPool) -> Callable[[int, int], float]:
    """Bytes that a replica of the pool receives for so many tokens after so many others: what all
    its devices hold of them, copies included. Layers with local attention hold their span only,
    those with a state of fixed size that state."""
    deployment = pool.deployment
    model, devices = deployment.model, deployment.devices_per_replica
    rank = kv_bytes_per_rank(model, deployment.precision.kv_cache, deployment.layout)
    full, local = rank.full * devices, rank.local * devices
    state = state_bytes_per_rank(model, deployment.precision.recurrent_state, deployment.layout)
    state *= devices
    span = max((group.span.tokens for group in model.groups), default=0)

    def size(tokens: int, past: int) -> float:
        near = min(past + tokens, span) - min(past, span)
        return full * tokens + local * near + (0.0 if past else state)

    return size


def _check_alike(pools: Sequence[ResolvedPool]) -> None:
    first = pools[0].deployment
    for number, pool in enumerate(pools):
        own, where = pool.deployment, f"deployment.pools.{number}"
        if own.model.name != first.model.name:
            raise ScenarioError(
                f"{own.model.name} cannot go on with the KV cache of {first.model.name}",
                where=f"{where}.model",
                hint="prefill and decode pools run the same model",
            )
        if own.precision.kv_cache != first.precision.kv_cache:
            raise ScenarioError(
                f"a KV cache in {first.precision.kv_cache} cannot be taken over in "
                f"{own.precision.kv_cache}",
                where=f"{where}.precision.kv_cache",
                hint="give prefill and decode pools the same precision.kv_cache",
            )
        kind = own.limits.policy.kind
        if kind not in _POLICIES[pool.role]:
            raise ScenarioError(
                f"a pool with the role {pool.role} cannot run the policy {kind}",
                where=f"{where}.engine.policy",
                hint=f"use {' or '.join(_POLICIES[pool.role])}",
            )
        queue = own.limits.queue.kind
        if queue not in _QUEUES[pool.role]:
            raise ScenarioError(
                f"a pool with the role {pool.role} cannot order its queue by {queue}",
                where=f"{where}.engine.queue",
                hint=f"use {' or '.join(_QUEUES[pool.role])}",
            )
        if pool.resolved.layout.below or pool.resolved.layout.reserve:
            raise ScenarioError(
                "tiers, swapping and contiguous runs are simulated for pools that serve whole "
                "requests",
                where=f"{where}.engine",
                hint="leave kv_offload, preemption and kv_allocation out",
            )
        if lanes_of(pool.resolved.cost) > 1:
            raise ScenarioError(
                "pipelines and data-parallel attention cannot hand a KV cache over",
                where=f"{where}.parallelism",
                hint="use tp and ep within a pool, and replicas",
            )
        if own.limits.speculation is not None:
            raise ScenarioError(
                "speculative decoding and pools with the roles prefill and decode do not go "
                "together yet",
                where=f"{where}.engine.speculative",
                hint="leave one of them out",
            )


def _rate(transfer: KvTransfer, pool: ResolvedPool, number: int) -> float:
    """Bytes/s of one replica's path."""
    if transfer.gb_per_s is not None:
        return transfer.gb_per_s * 1e9
    hardware = pool.deployment.hardware
    figure = (
        hardware.node.network_gb_per_s_per_device
        if transfer.over == "network"
        else hardware.link.gb_per_s_per_direction
    )
    if figure is None:
        what = "network" if transfer.over == "network" else "link between devices"
        raise ScenarioError(
            f"the rate of the {what} of {hardware.title} is not known (pool {pool.name})",
            where="deployment.transfer.gb_per_s",
            hint="give the rate of a replica's path in GB/s",
        )
    return figure.value * 1e9 * pool.deployment.devices_per_replica
