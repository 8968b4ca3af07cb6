"""What is known of a kind of deployment before it is simulated: devices, price, bounds, hopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.space import Counts, Kind, sizes
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario.lifecycle import ScheduleScaling

KNOWN = ("cost.usd_per_hour", "devices")
"""Objectives that need no simulation where the number of replicas is fixed."""


@dataclass(frozen=True)
class Size:
    """One deployment before it is simulated.

    Args:
        counts: replicas of each pool.
        devices: it holds; at least so many where replicas come and go.
        usd_per_hour: what they cost; None where no price is known.
        low: bound of the objective times its sign: no simulation gives a lower one.
        certain: ``low`` is the objective itself.
        ruled_out: why it cannot hold, one phrase; empty where it may.
        missed: by what share it misses the limit that rules it out, at least.
        hope: estimated excess over the limit that is hardest to hold; 0 or less: it may hold.
    """

    counts: Counts
    devices: int
    usd_per_hour: float | None
    low: float
    certain: bool
    ruled_out: str = ""
    missed: float = 0.0
    hope: float = 0.0

    @property
    def key(self) -> tuple[float, int, Counts]:
        """Order of promise within a kind."""
        return (self.low, self.devices, self.counts)


@dataclass(frozen=True)
class Outlook:
    """All sizes of a kind, the most promising bound first; or why there is none."""

    kind: Kind
    sizes: tuple[Size, ...] = ()
    problem: str = ""
    limits: tuple[Constraint, ...] = field(default=(), repr=False)


def outlook(kind: Kind, asked: Asked, limits: Sequence[Constraint]) -> Outlook:
    """What is known of a kind; memory is exact, as the engine would budget it."""
    plan = asked.plan
    try:
        pools = resolve_pools(kind.scenario((1,) * max(1, len(kind.pools))))
    except UserError as error:
        return Outlook(kind, problem=error.what)
    each = tuple(pool.deployment.devices_per_replica for pool in pools)
    prices = [pool.deployment.usd_per_device_hour for pool in pools]
    if plan.objective.path.startswith("cost.") and None in prices:
        unknown = pools[prices.index(None)].deployment
        return Outlook(kind, problem=unknown.price_note)
    found = []
    for counts in sizes(kind, plan.space, each):
        held = counts or tuple(_fewest(pool) for pool in pools)
        devices = sum(n * d for n, d in zip(held, each, strict=True))
        usd = None
        if None not in prices:
            usd = sum(n * d * (p or 0.0) for n, d, p in zip(held, each, prices, strict=True))
        if any(n <= plan.spare_replicas for n in counts):
            continue
        low, certain = _low(plan.objective.path, devices, usd, fixed=bool(counts))
        found.append(Size(counts, devices, usd, low * 1.0, certain))
    found = [size for size in found if _powered(size, pools, asked)]
    return Outlook(kind, tuple(sorted(found, key=lambda size: size.key)))


def _fewest(pool: ResolvedPool) -> int:
    scaling = pool.life.scaling if pool.life else None
    if scaling is None:
        return pool.replicas
    if isinstance(scaling, ScheduleScaling):
        return min(step.replicas for step in scaling.steps)
    return scaling.min


def _low(path: str, devices: int, usd: float | None, *, fixed: bool) -> tuple[float, bool]:
    if path == "devices":
        return float(devices), fixed
    if path == "cost.usd_per_hour" and usd is not None:
        return usd, fixed
    return -math.inf, False


def _powered(size: Size, pools: Sequence[ResolvedPool], asked: Asked) -> bool:
    """Whether all devices at their TDP stay below the power that there is."""
    most_kw = asked.plan.space.max_power_kw
    if most_kw is None:
        return True
    watts = sum(
        n * pool.deployment.devices_per_replica * pool.deployment.hardware.power.tdp_w.value
        for n, pool in zip(size.counts or [p.most for p in pools], pools, strict=True)
    )
    return watts * asked.scenario.energy.pue <= most_kw * 1e3
