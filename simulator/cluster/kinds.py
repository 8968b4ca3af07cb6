"""Which kind of replica a cost model asks for, and how many lanes it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from simpy import Environment

from simulator.cluster.alone import Alone
from simulator.cluster.disaggregation import DecodeReplica, PrefillReplica
from simulator.cluster.drafting import DraftingReplica
from simulator.cluster.groups import lanes_of, share_of_lane
from simulator.cluster.lockstep import Lockstep
from simulator.cluster.pipeline import Pipeline
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.costs.protocol import LockstepCost, PipelineCost, StepCost
from simulator.deployment import FrontEndTimes, Limits
from simulator.errors import ScenarioError
from simulator.scenario.pools import Role
from simulator.serving.kv_cache import KvLayout
from simulator.serving.policies import make_scheduler
from simulator.serving.sequence import Sequence
from simulator.serving.speculative import SpeculativeScheduler

REPLICAS: dict[Role, type[Replica]] = {
    "prefill": PrefillReplica,
    "decode": DecodeReplica,
}
"""Replicas of pools that do not serve whole requests, by their role."""


def make_replica(
    make: Callable[..., Replica],
    number: int,
    env: Environment,
    limits: Limits,
    layout: KvLayout,
    cost: StepCost,
    recorder: Recorder,
    loads: list[int],
    *,
    front_end: FrontEndTimes,
    response_s: float,
    window_s: float,
    ended: Callable[[list[Sequence]], None] | None,
    alone: Alone,
    rank: Rank | None = None,
    weights: tuple[float, ...] = (),
    role: Role = "serve",
) -> Replica:
    """A replica with empty queues; see ``Replica``.

    Args:
        make: makes it where it is neither a pipeline nor ranks in lockstep.
        number: its number.
        limits: of the whole replica. Of a pipeline, each lane runs its share of the sequences;
            attention ranks have the limits of an engine each, as they have one.
        layout: KV blocks of the whole replica.
        alone, rank: see ``Replica``.
        weights: see ``make_scheduler``.
        role: of its pool; ``make`` is for the role ``serve``.

    Raises:
        ScenarioError: KV memory of several lanes would have to leave the devices, or be contiguous.
    """
    lanes = lanes_of(cost)
    if isinstance(cost, PipelineCost | LockstepCost) and (layout.below or layout.reserve):
        raise ScenarioError(
            "tiers, swapping and contiguous runs are simulated for replicas with one scheduler, "
            "and this one has several: of a pipeline, or of attention ranks",
            where="engine",
            hint="leave kv_offload, preemption and kv_allocation out, or use parallelism.tp alone",
        )
    share = share_of_lane(layout, lanes) if lanes > 1 else layout
    if isinstance(cost, PipelineCost):
        limits = replace(limits, max_num_seqs=max(1, limits.max_num_seqs // lanes))
    schedulers = [
        make_scheduler(limits, share, cost.local_span, cost.local_is_chunked, weights, role)
        for _ in range(lanes)
    ]
    if isinstance(cost, PipelineCost):
        pipeline = Pipeline(
            number, env, schedulers, cost, recorder, loads,
            front_end=front_end, response_s=response_s, window_s=window_s, ended=ended, rank=rank,
        )  # fmt: skip
        pipeline.alone = alone
        return cast("Replica", pipeline)
    if isinstance(cost, LockstepCost):
        lockstep = Lockstep(
            number, env, schedulers, cost, recorder, loads,
            front_end=front_end, response_s=response_s,
            plans_ahead=limits.async_scheduling, ended=ended, rank=rank,
        )  # fmt: skip
        lockstep.alone = alone
        return cast("Replica", lockstep)
    if make is Replica and isinstance(schedulers[0], SpeculativeScheduler):
        make = DraftingReplica
    replica = (make if role == "serve" else REPLICAS[role])(
        number, env, schedulers[0], cost, recorder, loads,
        front_end=front_end, response_s=response_s, window_s=window_s,
        plans_ahead=limits.async_scheduling, ended=ended, rank=rank,
    )  # fmt: skip
    replica.alone = alone
    return replica
