"""What is known of a kind of deployment before it is simulated: devices, price, bounds, hopes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.errors import DoesNotFitError, UnknownNameError, UserError
from simulator.planner.analytic.bounds import Bounds, PairBounds, ReplicaBounds
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.judge import closeness, grows_slower
from simulator.planner.report.words import amount, title
from simulator.planner.report.words import bound as bound_words
from simulator.planner.space import Counts, Kind, sizes
from simulator.planner.traffic import Offered, offered, scaled
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.resolution.transfers import paths_of
from simulator.scenario.lifecycle import ScheduleScaling
from simulator.workload import build_requests
from simulator.workload.requests import Floats

KNOWN = ("cost.usd_per_hour", "devices")
"""Objectives that need no simulation where the number of replicas is fixed."""


BUSY = 0.85
"""Share of the time that replicas may be busy, at best batches, and still hold: where the search
begins."""


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
        guess: estimate of the objective times its sign.
    """

    counts: Counts
    devices: int
    usd_per_hour: float | None
    low: float
    certain: bool
    ruled_out: str = ""
    missed: float = 0.0
    hope: float = 0.0
    guess: float = -math.inf

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


@dataclass(frozen=True)
class Traffic:
    """What a plan's traffic asks, for all kinds alike.

    Args:
        plain: as it is.
        stress: grown by the headroom.
        seeds: how many different runs of it there may be.
    """

    plain: Offered
    stress: Offered
    seeds: int


def traffic_of(asked: Asked) -> Traffic:
    """The traffic of a plan, of its first seed."""
    scenario, plan = asked.scenario, asked.plan
    seed = scenario.measurement.seed

    stress = plain = offered(asked.requests, scenario.measurement)
    if plan.headroom:
        grown = scaled(scenario.workload, 1.0 + plan.headroom)
        requests = build_requests(grown, np.random.default_rng(seed))
        stress = offered(requests, scenario.measurement)
    return Traffic(plain, stress, seeds_of(asked))


def seeds_of(asked: Asked) -> int:
    """How many different runs there may be of one deployment: one where nothing is drawn, as when
    a trace is replayed."""
    if asked.plan.seeds == 1:
        return 1
    rng = np.random.default_rng(asked.scenario.measurement.seed + 1)
    first, second = asked.requests, build_requests(asked.scenario.workload, rng)
    same = len(first) == len(second) and all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("arrival_s", "input_tokens", "output_tokens")
    )
    return 1 if same else asked.plan.seeds


def outlook(
    kind: Kind, asked: Asked, limits: Sequence[Constraint] = (), traffic: Traffic | None = None
) -> Outlook:
    """What is known of a kind; memory is exact, as the engine would budget it.

    Args:
        kind: of deployment.
        asked: the plan.
        limits: what must hold.
        traffic: for bounds; without it, sizes and prices are all that is known.
    """
    least = _least_replicas(kind)
    try:
        scenario = kind.scenario((least,) * max(1, len(kind.pools)))
        pools = resolve_pools(scenario)
        paths_of(scenario, pools)
    except UserError as error:
        if isinstance(error, UnknownNameError) and error.where == "model":  # no kind to leave out
            where = "space.set.model" if "model" in asked.plan.space.set else "scenario.model"
            raise UserError(error.what, where=where, hint=error.hint) from None
        return Outlook(kind, problem=error.what)
    if kind.autoscaled and (problem := _scales_badly(pools, asked)):
        return Outlook(kind, problem=problem)
    if asked.plan.spare_replicas % _multiple_of(kind):
        return Outlook(kind, problem="replicas that share weights cannot be missing one by one")
    prices = [pool.deployment.usd_per_device_hour for pool in pools]
    if asked.plan.objective.path.startswith("cost.") and None in prices:
        unknown = pools[prices.index(None)].deployment
        return Outlook(kind, problem=unknown.price_note)
    found = [size for size in _sizes(kind, asked, pools) if _powered(size, pools, asked)]
    if traffic is not None and not kind.autoscaled and found:
        try:
            found = _bounded(found, pools, asked, limits, traffic)
        except DoesNotFitError as error:
            return Outlook(kind, problem=error.what)
    return Outlook(kind, tuple(sorted(found, key=lambda size: size.key)))


def _least_replicas(kind: Kind) -> int:
    """Fewest replicas of a pool with which its settings make sense."""
    failures = kind.data.get("deployment", {}).get("failures") or {}
    times = [*failures.get("outages", ()), *failures.get("slowdowns", ())]
    named = [each["replica"] + 1 for each in times]
    return 1 if kind.autoscaled else max([_multiple_of(kind), *named])


def _multiple_of(kind: Kind) -> int:
    """Replicas that share their weights come together."""
    return int(kind.data.get("parallelism", {}).get("fsdp", 1))


def _scales_badly(pools: Sequence[ResolvedPool], asked: Asked) -> str:
    """Why replicas that come and go are not what the plan asks for; empty: they are."""
    if asked.plan.spare_replicas:
        return (
            "spare_replicas are those of a fixed number of replicas; what is lost where they come "
            "and go, deployment.failures says"
        )
    most = sum(pool.most * pool.deployment.devices_per_replica for pool in pools)
    if most > asked.plan.space.max_devices:
        return f"it grows to {most} devices, and max_devices is {asked.plan.space.max_devices}"
    return ""


def _sizes(kind: Kind, asked: Asked, pools: Sequence[ResolvedPool]) -> Iterator[Size]:
    """Every size that has a replica left when the spare ones are missing."""
    plan = asked.plan
    least, multiple = _least_replicas(kind), _multiple_of(kind)
    each = tuple(pool.deployment.devices_per_replica for pool in pools)
    prices = [pool.deployment.usd_per_device_hour for pool in pools]
    for counts in sizes(kind, plan.space, each):
        if any(n - plan.spare_replicas < least for n in counts):
            continue
        if any(n % multiple for n in counts):
            continue
        held = counts or tuple(_fewest(pool) for pool in pools)
        devices = sum(n * d for n, d in zip(held, each, strict=True))
        usd = None
        if None not in prices:
            usd = sum(n * d * (p or 0.0) for n, d, p in zip(held, each, prices, strict=True))
        low, certain = _low(plan.objective.path, devices, usd, fixed=bool(counts))
        yield Size(counts, devices, usd, low, certain)


def _bounded(
    sizes: Sequence[Size],
    pools: Sequence[ResolvedPool],
    asked: Asked,
    limits: Sequence[Constraint],
    traffic: Traffic,
) -> list[Size]:
    """The sizes with what no simulation can beat. As one run does not decide close to a limit,
    bounds do not either."""
    plain = _bounds(pools, traffic.plain)
    stress = _bounds(pools, traffic.stress) if asked.plan.headroom else plain
    numbers = np.array([size.counts for size in sizes], dtype=np.float64)
    objective = asked.plan.objective
    if objective.sign > 0:
        low = plain.floor(objective.path, numbers)
    else:
        low = -plain.ceiling(objective.path, numbers)
    left = numbers - asked.plan.spare_replicas
    hope = (stress.loads / left).max(axis=1) / BUSY - 1.0
    guess = objective.sign * _expected(plain, objective.path, numbers)
    worst = np.zeros(len(sizes))
    reasons = [""] * len(sizes)
    for limit in limits:
        if limit.traffic_class is not None:
            continue
        bounds, held = (stress, left) if grows_slower(limit) else (plain, numbers)
        if limit.max is not None:
            beaten = bounds.floor(limit.path, held)
        else:
            beaten = bounds.ceiling(limit.path, held)
        loose = limit.loosened(closeness(limit)) if traffic.seeds > 1 else limit
        expected = _expected(bounds, limit.path, held)
        for place, value in enumerate(beaten.tolist()):
            excess = limit.excess(value)
            hope[place] = max(hope[place], excess)
            if math.isfinite(expected[place]):
                hope[place] = max(hope[place], limit.excess(float(expected[place])))
            if not loose.holds(value) and excess > worst[place]:
                worst[place] = excess
                word = "at least" if limit.max is not None else "at most"
                reasons[place] = (
                    f"{title(limit.path)} is {word} {amount(value, limit.path)}, and the limit is "
                    f"{bound_words(limit.limit, limit.path)}"
                )
    return [
        replace(
            size,
            low=size.low if size.certain else max(size.low, bound),
            ruled_out=reason,
            missed=excess,
            hope=hoped,
            guess=guessed if math.isfinite(guessed) else bound,
        )
        for size, bound, reason, excess, hoped, guessed in zip(
            sizes, low.tolist(), reasons, worst.tolist(), hope.tolist(), guess.tolist(), strict=True
        )
    ]


def _bounds(pools: Sequence[ResolvedPool], traffic: Offered) -> Bounds:
    if len(pools) == 1:
        return ReplicaBounds(pools[0], traffic)
    prefill, decode = pools
    return PairBounds(prefill, decode, traffic)


def _expected(bounds: Bounds, path: str, numbers: Floats) -> Floats:
    """Estimates of a figure; NaN where there is none. Shape (sizes,)."""
    if isinstance(bounds, ReplicaBounds):
        return bounds.estimate(path, numbers[:, 0])
    assert isinstance(bounds, PairBounds)
    return bounds.estimate(path, numbers)


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
