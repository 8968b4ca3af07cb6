"""Pools on the same devices: whether they fit there together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulator.cluster.groups import lanes_of
from simulator.errors import ScenarioError

if TYPE_CHECKING:
    from simulator.resolution.pools import ResolvedPool


def check_shared(pools: Sequence[ResolvedPool]) -> None:
    """Pools that share devices are of one kind of device, as many, and fit into their memory.

    Raises:
        ScenarioError: with what does not go together.
    """
    owners = {pool.name: pool for pool in pools}
    on: dict[str, list[tuple[int, ResolvedPool]]] = {}
    for number, pool in enumerate(pools):
        if not pool.shares:
            continue
        where = f"deployment.pools.{number}.shares"
        owner = owners.get(pool.shares)
        if owner is None or owner is pool or owner.shares:
            others = ", ".join(p.name for p in pools if p is not pool and not p.shares)
            raise ScenarioError(
                f"{pool.shares!r} is no pool with devices of its own",
                where=where,
                hint=f"such pools are {others}" if others else "leave it out",
            )
        if _devices(pool) != _devices(owner):
            raise ScenarioError(
                f"{pool.name} and {owner.name} cannot run on the same devices: {_devices(pool)} "
                f"and {_devices(owner)}",
                where=where,
                hint="give both the same hardware, replicas and number of devices a replica",
            )
        prices = {p.deployment.usd_per_device_hour for p in (pool, owner)}
        if len(prices) > 1:
            raise ScenarioError(
                f"{pool.name} and {owner.name} run on the same devices at different prices",
                where=f"deployment.pools.{number}.usd_per_device_hour",
                hint=f"give the price in {owner.name} alone, or the same in both",
            )
        on.setdefault(owner.name, []).append((number, pool))
    for name, guests in on.items():
        _check_room(owners[name], guests)
        for pool in (owners[name], *(guest for _, guest in guests)):
            _check_kind(pool)


def _devices(pool: ResolvedPool) -> str:
    deployment = pool.deployment
    return (
        f"{pool.replicas} × {deployment.devices_per_replica} × {deployment.hardware.title}"
        if deployment.devices_per_replica > 1
        else f"{pool.replicas} × {deployment.hardware.title}"
    )


def _check_room(owner: ResolvedPool, guests: Sequence[tuple[int, ResolvedPool]]) -> None:
    everyone = [owner, *(guest for _, guest in guests)]
    budgets = [pool.deployment.memory for pool in everyone]
    taken = [budget.device_gib - budget.unused_gib for budget in budgets]
    room = min(budget.device_gib for budget in budgets)
    if sum(taken) > room * (1 + 1e-9):
        parts = " + ".join(
            f"{gib:.1f} ({pool.name})" for gib, pool in zip(taken, everyone, strict=True)
        )
        raise ScenarioError(
            f"the pools on the devices of {owner.name} take {parts} of {room:.1f} GiB",
            where=f"deployment.pools.{guests[0][0]}.shares",
            hint="lower engine.memory_fraction or engine.kv_cache_tokens of each",
        )


def _check_kind(pool: ResolvedPool) -> None:
    layout, limits = pool.resolved.layout, pool.deployment.limits
    wrong = {
        "pipelines and data-parallel attention": lanes_of(pool.resolved.cost) > 1,
        "KV tiers, swapping and contiguous runs": bool(layout.below or layout.reserve),
        "drafts of speculative decoding": limits.speculation is not None,
        "LoRA adapters": limits.adapters is not None,
        "replicas that come and go": pool.life is not None,
        "the roles prefill and decode": pool.role != "serve",
    }
    for what, there in wrong.items():
        if there:
            raise ScenarioError(
                f"{what} are not simulated where pools share devices (pool {pool.name})",
                where="deployment.pools",
                hint="leave that out, or give the pool devices of its own",
            )
