"""Faults at given times: of replicas, which a scenario has as well, and of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from simulator.errors import UserError
from simulator.scenario.base import (
    Count,
    Model,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    Unit,
)
from simulator.scenario.lifecycle import Failures, Outage, Slowdown
from simulator.scenario.pools import Pool
from simulator.scenario.scenario import Scenario
from simulator.yamlio import read_model

MaybeNoTokens = Annotated[int, Field(ge=0, le=100_000_000, strict=True), Unit("tokens")]
_POOL = "name of its pool, where there are several"


class SlowReplica(Slowdown):
    """One replica is slow for a while."""

    kind: Literal["slow"] = "slow"
    pool: str | None = Field(None, description=_POOL)


class CrashedReplica(Outage):
    """One replica crashes, and is up again after a while."""

    kind: Literal["crash"] = "crash"
    pool: str | None = Field(None, description=_POOL)


class _OfRequests(Model):
    at_s: NonNegativeFloat = Field(
        0.0, description="requests that come from then on, in seconds of the deployment's clock"
    )
    for_s: PositiveFloat | None = Field(
        None, description="for so long; default: as long as the server runs"
    )
    share: PositiveFraction = Field(
        1.0, description="of the requests, drawn one by one from a stream of the schedule's seed"
    )
    classes: tuple[str, ...] | None = Field(
        None, description="traffic classes that it happens to; default: all"
    )
    models: tuple[str, ...] | None = Field(
        None, description="models, as clients name them, that it happens to; default: all"
    )


class RequestError(_OfRequests):
    """Requests are answered by an error, and never reach the deployment."""

    kind: Literal["error"] = "error"
    status: Annotated[int, Field(ge=400, le=599, strict=True), Unit("HTTP status")] = Field(
        description="of the answer"
    )
    retry_after_s: NonNegativeFloat | None = Field(
        None, description="what the header Retry-After says; default: there is none"
    )


class StalledAnswer(_OfRequests):
    """Answers stop for a while. The deployment goes on with them meanwhile."""

    kind: Literal["stall"] = "stall"
    after_tokens: MaybeNoTokens = Field(
        description="after so many tokens of an answer the next one comes late; 0: the first one"
    )
    stall_s: PositiveFloat | None = Field(
        None, description="so much later, with all that came meanwhile; default: never"
    )


class CutAnswer(_OfRequests):
    """Connections are cut before an answer is over."""

    kind: Literal["cut"] = "cut"
    after_tokens: Count = Field(description="with this token of an answer")


ReplicaFault = SlowReplica | CrashedReplica
RequestsFault = RequestError | StalledAnswer | CutAnswer
Fault = Annotated[
    SlowReplica | CrashedReplica | RequestError | StalledAnswer | CutAnswer,
    Field(discriminator="kind"),
]


class FaultSchedule(Model):
    """What goes wrong, and when. Times are those of the deployment's clock, from its start."""

    seed: Annotated[int, Field(ge=0, strict=True)] = Field(
        0, description="of the requests that a share is drawn from"
    )
    detection_s: NonNegativeFloat | None = Field(
        None,
        description="until a crash is noticed; default: what deployment.failures says, or at once",
    )
    faults: Annotated[tuple[Fault, ...], Field(min_length=1, max_length=10_000)] = Field(
        description="what goes wrong"
    )

    @property
    def of_replicas(self) -> list[tuple[int, SlowReplica | CrashedReplica]]:
        """Faults of replicas, with their places in the list."""
        return [(i, f) for i, f in enumerate(self.faults) if isinstance(f, ReplicaFault)]

    @property
    def of_requests(self) -> list[tuple[int, RequestError | StalledAnswer | CutAnswer]]:
        """Faults of requests, with their places in the list."""
        return [(i, f) for i, f in enumerate(self.faults) if isinstance(f, RequestsFault)]

    def applied_to(self, scenario: Scenario) -> Scenario:
        """The scenario with the faults of replicas beside those that it has, so that a simulation
        has them as well.

        Raises:
            UserError: there is no such pool or replica; or no replica crashes, and something is
                said about how crashes are noticed.
        """
        crashes = any(isinstance(fault, CrashedReplica) for _, fault in self.of_replicas)
        if self.detection_s is not None and not crashes:
            raise UserError(
                "no replica crashes by this schedule",
                where="detection_s",
                hint="leave it out, or give faults with kind: crash",
            )
        by_pool: dict[str | None, list[SlowReplica | CrashedReplica]] = {}
        for place, fault in self.of_replicas:
            pool = _pool_of(fault.pool, scenario, place)
            _check_number(fault.replica, pool, scenario, place)
            by_pool.setdefault(None if pool is None else pool.name, []).append(fault)
        serving = scenario.deployment
        if None in by_pool:
            failures = self._joined(serving.failures, by_pool[None])
            serving = serving.model_copy(update={"failures": failures})
        else:
            pools = [
                pool.model_copy(
                    update={
                        "failures": self._joined(
                            pool.failures or serving.failures, by_pool[pool.name]
                        )
                    }
                )
                if pool.name in by_pool
                else pool
                for pool in serving.pools
            ]
            serving = serving.model_copy(update={"pools": tuple(pools)})
        return scenario.model_copy(update={"deployment": serving})

    def _joined(
        self, failures: Failures | None, faults: list[SlowReplica | CrashedReplica]
    ) -> Failures:
        data: dict[str, Any] = failures.model_dump(exclude_unset=True) if failures else {}
        for key, kind in (("outages", CrashedReplica), ("slowdowns", SlowReplica)):
            more = [
                fault.model_dump(exclude={"kind", "pool"})
                for fault in faults
                if isinstance(fault, kind)
            ]
            if more:
                data[key] = [*data.get(key, ()), *more]
        crashes = any(isinstance(fault, CrashedReplica) for fault in faults)
        if self.detection_s is not None and crashes:
            data["detection_s"] = self.detection_s
        return Failures.model_validate(data)


def _pool_of(name: str | None, scenario: Scenario, place: int) -> Pool | None:
    """The pool that a fault speaks of; None: the deployment has no pools."""
    pools = {pool.name: pool for pool in scenario.deployment.pools}
    where = f"faults.{place}.pool"
    if name is None and len(pools) == 1:
        return next(iter(pools.values()))
    if name is None and pools:
        raise UserError(
            "the deployment has several pools", where=where, hint=f"one of {', '.join(pools)}"
        )
    if name is not None and name not in pools:
        known = f"one of {', '.join(pools)}" if pools else "leave it out, there are no pools"
        raise UserError(f"there is no pool {name!r}", where=where, hint=known)
    return None if name is None else pools[name]


def _check_number(replica: int, pool: Pool | None, scenario: Scenario, place: int) -> None:
    serving = scenario.deployment
    scaling = (pool and pool.autoscaling) or serving.autoscaling
    count = scaling.most if scaling else pool.replicas if pool else serving.replicas
    if replica >= count:
        raise UserError(
            f"there is no replica {replica}",
            where=f"faults.{place}.replica",
            hint=f"numbers go from 0 to {count - 1}",
        )


def load_faults(path: Path) -> FaultSchedule:
    """Reads a schedule of faults.

    Raises:
        UserError: the file cannot be read or is wrong, with the line.
    """
    return read_model(path, FaultSchedule)
