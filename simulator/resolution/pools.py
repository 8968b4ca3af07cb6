"""A deployment's pools, each resolved like a scenario of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from simulator.cluster.groups import ReplicaGroup, Serving
from simulator.cluster.starting import Life
from simulator.costs.protocol import StepCost
from simulator.deployment import FrontEndTimes, ResolvedDeployment
from simulator.engines.profile import EngineProfile
from simulator.errors import ScenarioError, UserError
from simulator.resolution.lives import check_serving, life_of, of_pool
from simulator.resolution.sharing import check_shared
from simulator.resolve import Resolved, resolve
from simulator.scenario.base import Model
from simulator.scenario.pools import Pool, Role
from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import MixWorkload

M = TypeVar("M", bound=Model)

_OVERRIDES = ("model", "hardware", "engine", "precision", "parallelism")


@dataclass(frozen=True, slots=True)
class ResolvedPool:
    """Replicas ``first`` to ``first + replicas - 1`` of a deployment, and what they run.

    ``classes``: names of the traffic classes that they serve; None for all. ``life``: why they come
    and go; None: all are up all the time. ``shares``: name of the pool on whose devices they run;
    empty: on their own.
    """

    name: str
    role: Role
    resolved: Resolved
    first: int
    replicas: int
    weight: float = 1.0
    classes: tuple[str, ...] | None = None
    life: Life | None = None
    shares: str = ""

    @property
    def most(self) -> int:
        """Replicas that are wanted at most at once."""
        return self.life.most if self.life else self.replicas

    @property
    def deployment(self) -> ResolvedDeployment:
        """What one of its replicas is."""
        return self.resolved.deployment


def group_of(pool: ResolvedPool, cost: StepCost, front_end: FrontEndTimes) -> ReplicaGroup:
    """What the clock needs of a pool whose steps take as long as ``cost`` says."""
    failures = pool.deployment.scenario.deployment.failures
    return ReplicaGroup(
        replicas=pool.life.numbers if pool.life else pool.replicas,
        limits=pool.deployment.limits,
        layout=pool.resolved.layout,
        cost=cost,
        front_end=front_end,
        name=pool.name,
        role=pool.role,
        weight=pool.weight,
        classes=pool.classes,
        life=pool.life,
        shares=pool.shares,
        slowdowns=failures.slowdowns if failures is not None else (),
    )


def resolve_pools(
    scenario: Scenario, base: Path | None = None, engine: EngineProfile | None = None
) -> tuple[ResolvedPool, ...]:
    """Resolves every pool; a deployment without pools is one, named ``default``.

    Args:
        scenario: as the user wrote it.
        base: folder that relative paths start from.
        engine: a profile to take instead of the one that the scenario names.

    Raises:
        UserError: as ``resolve``, with the pool's own keys where it overrides the scenario's; or
            the pools do not fit together.
    """
    asked = scenario.deployment.pools
    if not asked:
        resolved = resolve(_at_spot_prices(scenario), base, engine)
        count, life = scenario.deployment.replicas, life_of(resolved.deployment)
        pools = [ResolvedPool("default", "serve", resolved, 0, count, life=life)]
        _check(scenario, pools)
        return tuple(pools)
    _check_classes(scenario)
    pools = []
    first = 0
    for number, pool in enumerate(asked):
        try:
            resolved = resolve(scenario_of(scenario, pool), base, engine)
            life = life_of(resolved.deployment)
        except UserError as error:
            error.where = _place(error.where, pool, number)
            raise
        pools.append(
            ResolvedPool(
                pool.name, pool.role, resolved, first, pool.replicas, pool.weight, pool.classes,
                life, pool.shares or "",
            )
        )  # fmt: skip
        first += life.numbers if life else pool.replicas
    _check(scenario, pools)
    return tuple(pools)


def _check(scenario: Scenario, pools: list[ResolvedPool]) -> None:
    check_shared(pools)
    lives = [pool.life for pool in pools]
    apart = any(pool.role != "serve" for pool in pools)
    if apart and Serving(scenario.deployment.gateway).holds(lives):
        raise ScenarioError(
            "replicas that come and go, and a gateway's max_concurrency, are simulated for pools "
            "that serve whole requests",
            where="deployment",
            hint="leave autoscaling, failures, spot and gateway out, or the roles prefill and "
            "decode",
        )
    gateway = scenario.deployment.gateway
    empty = any(life and life.scaling and getattr(life.scaling, "min", 1) == 0 for life in lives)
    if scenario.deployment.admission is not None and (empty or gateway.max_concurrency is not None):
        raise ScenarioError(
            "admission control looks at the replica that a request would go to, and requests that "
            "wait at the gateway have none",
            where="deployment.admission",
            hint="use gateway.max_queue there, or leave out gateway.max_concurrency and "
            "autoscaling.min: 0",
        )
    policies = [pool.deployment.limits.policy for pool in pools]
    check_serving(scenario.deployment, lives, policies)


def scenario_of(scenario: Scenario, pool: Pool) -> Scenario:
    """The scenario as if this pool were all of its deployment."""
    changes: dict[str, object] = {
        "deployment": scenario.deployment.model_copy(
            update={"replicas": pool.replicas, "pools": (), **of_pool(scenario.deployment, pool)}
        )
    }
    if pool.model is not None:
        changes["model"] = pool.model
    if pool.hardware is not None:
        changes["hardware"] = pool.hardware
    if pool.engine is not None:
        changes["engine"] = _over(scenario.engine, pool.engine)
    if pool.precision is not None:
        changes["precision"] = _over(scenario.precision, pool.precision)
    if pool.parallelism is not None:
        changes["parallelism"] = _over(scenario.parallelism, pool.parallelism)
    if pool.usd_per_device_hour is not None:
        changes["cost"] = scenario.cost.model_copy(
            update={"usd_per_device_hour": pool.usd_per_device_hour}
        )
    return _at_spot_prices(scenario.model_copy(update=changes))


def _at_spot_prices(scenario: Scenario) -> Scenario:
    """Devices that may be taken back cost what such devices cost, unless the scenario names a
    plan."""
    if scenario.deployment.spot is None or "plan" in scenario.cost.model_fields_set:
        return scenario
    return scenario.model_copy(update={"cost": scenario.cost.model_copy(update={"plan": "spot"})})


def _over(below: M, above: M) -> M:
    """What ``above`` was given, over ``below``."""
    given = {name: getattr(above, name) for name in above.model_fields_set}
    return below.model_copy(update=given)


_LIVES = ("cold_start", "autoscaling", "failures", "spot")


def _place(where: str | None, pool: Pool, number: int) -> str:
    """The key that a mistake belongs to: the pool's own where it says something about it."""
    prefix = f"deployment.pools.{number}"
    top, _, rest = (where or "").partition(".")
    name = rest.partition(".")[0]
    if top == "deployment" and name in _LIVES and getattr(pool, name) is not None:
        return f"{prefix}.{rest}"
    if top in _OVERRIDES and getattr(pool, top) is None:
        return where or prefix
    return f"{prefix}.{where}" if top in _OVERRIDES else where or prefix


def _check_classes(scenario: Scenario) -> None:
    """Every class that a pool names exists, and every class is served by some pool of each role."""
    workload = scenario.workload
    known = [c.name for c in workload.classes] if isinstance(workload, MixWorkload) else ["default"]
    served: dict[str, set[str]] = {}
    for number, pool in enumerate(scenario.deployment.pools):
        for name in pool.classes or ():
            if name not in known:
                raise ScenarioError(
                    f"there is no traffic class {name!r}",
                    where=f"deployment.pools.{number}.classes",
                    hint=f"the workload has {', '.join(known)}",
                )
        served.setdefault(pool.role, set()).update(pool.classes or known)
    for role, names in served.items():
        for name in known:
            if name not in names:
                raise ScenarioError(
                    f"no pool with the role {role} serves the traffic class {name!r}",
                    where="deployment.pools",
                    hint="add it to some pool's classes",
                )
