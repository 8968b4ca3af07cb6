"""Groups of equal replicas, and who may serve which request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from simulator.cluster.starting import Life
from simulator.costs.protocol import LockstepCost, PipelineCost, StepCost
from simulator.deployment import NO_FRONT_END, FrontEndTimes, Limits
from simulator.results.record import Group
from simulator.scenario.lifecycle import Gateway, Retry, Slowdown
from simulator.scenario.pools import Role
from simulator.serving.kv_cache import KvLayout


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """Equal replicas of a deployment.

    Args:
        replicas: how many (with ``life``: how many numbers they need).
        limits: policy and limits of each.
        layout: KV blocks of each.
        cost: duration of a step.
        front_end: what lies between the network and the queue of each.
        name, role: of the pool.
        weight: how much traffic one is meant to take.
        classes: names of the traffic classes that they serve; None for all.
        life: why they come and go; None: all are up all the time.
        slowdowns: which of them are slow, and when.
        shares: name of the group on whose devices they run, one on those of each; empty: on devices
            of their own.
    """

    replicas: int
    limits: Limits
    layout: KvLayout
    cost: StepCost
    front_end: FrontEndTimes = NO_FRONT_END
    name: str = "default"
    role: Role = "serve"
    weight: float = 1.0
    classes: tuple[str, ...] | None = None
    life: Life | None = None
    shares: str = ""
    slowdowns: tuple[Slowdown, ...] = ()

    def serves(self, traffic_class: str) -> bool:
        """Whether requests of this class may come here."""
        return self.classes is None or traffic_class in self.classes

    def recorded(self, first: int) -> Group:
        """The group in a record, its replicas numbered from ``first`` on."""
        lanes = lanes_of(self.cost)
        blocks = self.lane_layout.blocks * lanes
        return Group(
            self.name, self.role, first, self.replicas, blocks, self.layout.block_size, lanes,
            most=self.life.most if self.life else 0, shares=self.shares,
        )  # fmt: skip

    @property
    def holder(self) -> str:
        """What has the KV blocks that one request can have, in words."""
        lanes = lanes_of(self.cost)
        return f"each of the {lanes} lanes of a replica" if lanes > 1 else "a replica"

    @property
    def lane_layout(self) -> KvLayout:
        """KV blocks that one request can have: those of its lane."""
        lanes = lanes_of(self.cost)
        return share_of_lane(self.layout, lanes) if lanes > 1 else self.layout


def lanes_of(cost: StepCost) -> int:
    """Schedulers of one replica: one for each micro-batch in flight, one for each attention rank
    in lockstep."""
    if isinstance(cost, PipelineCost):
        return cost.stages
    if isinstance(cost, LockstepCost):
        return cost.ranks
    return 1


def share_of_lane(layout: KvLayout, lanes: int) -> KvLayout:
    """KV blocks of one of ``lanes`` equal shares of a replica's; what is left over lies idle."""
    return replace(layout, blocks=layout.blocks // lanes, watermark=layout.watermark // lanes)


@dataclass(frozen=True, slots=True)
class Serving:
    """What becomes of requests that have no replica.

    Args:
        gateway: where they wait.
        retry: those whose replica crashed; None: they fail.
        strikes: replicas may be told to crash.
    """

    gateway: Gateway = field(default_factory=Gateway)
    retry: Retry | None = None
    strikes: bool = False

    def holds(self, lives: Sequence[Life | None]) -> bool:
        """Whether replicas come and go, or requests may wait for one. ``lives``: of the groups."""
        if self.gateway.max_concurrency is not None or self.strikes:
            return True
        return any(life is not None and life.changes for life in lives)
