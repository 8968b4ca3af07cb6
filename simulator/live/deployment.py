"""A scenario's deployment that serves requests as they come: the simulation behind a live server.

``simulate()`` knows all requests beforehand and runs to their end. A ``LiveDeployment`` has the
same replicas, schedulers, cost models and routers on the same kind of clock, but is told of each
request when it comes and tells of each token when it is there. Whoever holds it moves the clock: a
server by the time on the wall, a test as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from simulator.cluster.feasible import check_groups
from simulator.cluster.groups import Serving, lanes_of
from simulator.cluster.lanes import lanes_within
from simulator.cluster.recorder import ROW_BYTES
from simulator.cluster.replica import Replica
from simulator.cluster.wake import NORMAL, Wake
from simulator.errors import ScenarioError
from simulator.live.cluster import LiveChangingCluster, LiveCluster
from simulator.live.ending import Beginning, Ending
from simulator.live.faults import ReplicaFaults
from simulator.live.journal import Change
from simulator.live.tokens import Listener
from simulator.resolution.pools import ResolvedPool, group_of, resolve_pools
from simulator.resolution.terms import class_terms
from simulator.resolution.transfers import paths_of
from simulator.results.fleet import Member
from simulator.results.record import Gaps, Group, StepTable
from simulator.scenario.scenario import Scenario
from simulator.simulation import traffic_of
from simulator.workload.growing import Asked, GrowingRequests
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats, Requests

_SETTLE_ROWS = 1 << 12
_SETTLE_S = 1.0
"""Rows of the step table, and simulated seconds, after which they are given on."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica at one moment.

    Args:
        number: among all replicas.
        pool: name of its pool.
        running: sequences admitted.
        waiting: requests that wait, in its front end or in its queue.
        kv_blocks, kv_blocks_used: KV blocks that it has, and those that running sequences hold.
        slowness: how many times as long its steps take as they would.
    """

    number: int
    pool: str
    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_used: int
    slowness: float = 1.0


class LiveDeployment:
    """See the module.

    Args:
        scenario: what is deployed. Of its workload, the traffic classes, adapters and lengths of
            answers are known here; when requests come is the clients' business, and so are their
            patience (``deployment.timeout_s``) and their retries (``admission.retries``).
        base: folder that relative paths in the scenario start from; default: the current one.
        crashes: replicas may be told to crash, also where the scenario has none that do; where the
            simulation has no crashes (roles prefill and decode, shared weights), telling them so
            is refused.

    Attributes:
        pools: resolved, in the order of the scenario.
        members: what each pool's replicas are, and who prices their steps.
        traffic: what the scenario's workload would send; the lengths of answers are drawn from it.
        groups: the pools' replicas, by number.
        on_begun: called with the ``Beginning`` of each request whose first token has come.
        on_preempted: called with preemptions as rows of time, replica and how many; as often as
            ``on_steps``.
        on_steps: called with rows of the step table and of the gaps between tokens (see
            ``simulator.results.record``) of steps that have ended; about once a simulated second
            while there are any.
        on_changes: called with the changes of replicas' states, in order of time, as often as
            ``on_steps``: when, which one, and its state from then on (see
            ``simulator.results.lives``). Nothing where all are up all the time.
        faults: makes replicas slow, and crashes them.

    Raises:
        UserError: the scenario cannot be simulated, or not live, with the reason.
    """

    def __init__(
        self, scenario: Scenario, base: Path | None = None, *, crashes: bool = False
    ) -> None:
        self.scenario = scenario
        self.pools: tuple[ResolvedPool, ...] = resolve_pools(scenario, base)
        paths = paths_of(scenario, self.pools)
        self.members = [Member(pool.deployment, pool.resolved.cost) for pool in self.pools]
        self.traffic: Requests = traffic_of(scenario, base)
        self.on_steps: list[Callable[[StepTable, Gaps], None]] = []
        self.on_changes: list[Callable[[list[Change]], None]] = []
        ranks = self.traffic.adapter_ranks if self.traffic.adapters is not None else None
        self._requests = GrowingRequests(self.traffic.classes, ranks)
        self._groups = [
            group_of(pool, pool.resolved.cost, pool.resolved.front_end) for pool in self.pools
        ]
        self._check_block_sizes()
        serving, admission = scenario.deployment, scenario.deployment.admission
        settings: dict[str, Any] = {
            "router": serving.router,
            "seed": scenario.measurement.seed,
            "terms": class_terms(scenario, self.traffic.classes),
            "admission": admission and admission.model_copy(update={"retries": 0}),
            "network_s": serving.network_ms / 1e3,
            "paths": paths,
        }
        together = any(pool.deployment.layout.fsdp > 1 for pool in self.pools)
        strikes = crashes and paths is None and not together
        fate = Serving(serving.gateway, serving.retry, strikes=strikes)
        rejected = np.zeros(0, dtype=np.bool_)
        self._changes = fate.holds([group.life for group in self._groups])
        self._cluster: LiveCluster
        if self._changes:
            self._cluster = LiveChangingCluster(
                fate, self._requests, self._groups, rejected, **settings
            )
        else:
            self._cluster = LiveCluster(self._requests, self._groups, rejected, **settings)
        self.several_answers = not self._changes and admission is None and paths is None
        self.groups: tuple[Group, ...] = tuple(self._cluster.recorded_groups())
        self.on_begun: list[Callable[[Beginning], None]] = self._cluster.on_begun
        self.on_preempted: list[Callable[[Floats], None]] = []
        self._settled_s = 0.0
        self._tick = Wake(self._cluster.env, lambda _: None)
        self.faults = ReplicaFaults(self._cluster, together=together)
        self._cluster.begin()
        self._pool_of = [pool.name for pool, g in zip(self.pools, self._groups, strict=True)
                         for _ in range(g.replicas)]  # fmt: skip

    def _check_block_sizes(self) -> None:
        sizes = {pool.deployment.limits.block_size for pool in self.pools if self._caches(pool)}
        if len(sizes) > 1:
            raise ScenarioError(
                "pools with prefix caching have KV blocks of different sizes, and a server finds "
                "equal beginnings block by block",
                where="engine.block_size",
                hint="give all pools the same, or set engine.prefix_caching: false",
            )
        self._block_size = sizes.pop() if sizes else 0

    @staticmethod
    def _caches(pool: ResolvedPool) -> bool:
        return pool.deployment.limits.prefix_caching

    # --- what it is ------------------------------------------------------------------------------

    @property
    def block_size(self) -> int:
        """Tokens of a KV block where equal beginnings of prompts are found; 0: they are not."""
        return self._block_size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the traffic classes."""
        return self.traffic.classes

    def pools_of(self, traffic_class: str) -> list[ResolvedPool]:
        """The pools that may serve requests of a class."""
        return [p for p, g in zip(self.pools, self._groups, strict=True) if g.serves(traffic_class)]

    # --- requests --------------------------------------------------------------------------------

    def check(self, asked: Asked) -> None:
        """Raises a DoesNotFitError if a request can never be served, with the reason."""
        one = np.ones(1, dtype=np.int64)
        requests = Requests(
            arrival_s=np.zeros(1),
            input_tokens=one * asked.input_tokens,
            output_tokens=one * asked.output_tokens,
            class_id=one * asked.class_id,
            parent=one * ROOT,
            pool=one * OPEN_LOOP,
            session=-one,
            classes=self.traffic.classes,
        )
        check_groups(requests, self._groups, oversized="error")

    def send(self, asked: Asked, listener: Listener) -> int:
        """A client sends a request now, which ``check`` accepts.

        Args:
            asked: the request.
            listener: told of its tokens and its end, each once, from within ``advance``.

        Returns:
            Its number, for ``cancel`` and ``progress_of``.
        """
        return self._cluster.send(asked, listener)

    def cancel(self, number: int) -> None:
        """The client of a request gives up now: its listener hears nothing more, and its KV blocks
        are free at the end of the step under way. Nothing happens if the request is over."""
        self._cluster.cancel(number)

    def progress_of(self, number: int) -> Ending:
        """How far a request is whose listener has not heard of its end."""
        return self._cluster.progress_of(number)

    @property
    def open_requests(self) -> int:
        """Requests whose listeners have not heard of their end."""
        return self._cluster.open_requests

    @property
    def waiting_at_gateway(self) -> int:
        """Requests that wait because no replica takes any; they are in no ``ReplicaState``."""
        return self._cluster.waiting_at_gateway

    # --- the clock -------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Simulated seconds since the deployment started."""
        return float(self._cluster.env.now)

    @property
    def next_s(self) -> float:
        """When something happens next if nobody sends anything; infinite if nothing does."""
        return float(self._cluster.env.peek())

    def advance(self, until_s: float) -> None:
        """Lets everything happen that happens until then, and at that very moment."""
        env = self._cluster.env
        peek, step = env.peek, env.step
        while peek() <= until_s:
            step()
        if until_s < inf and until_s > env.now:
            self._tick.at(until_s)
            step()
        rows = len(self._cluster.recorder.rows) // ROW_BYTES + len(self._cluster.journal)
        if rows > _SETTLE_ROWS or (rows and env.now - self._settled_s >= _SETTLE_S):
            self.settle()

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Calls something from within ``advance`` at a time that is not over."""
        Wake(self._cluster.env, lambda _: call(), NORMAL).at(time_s)

    def settle(self) -> None:
        """Gives on what has happened since the last time: the rows of steps that have ended, and
        the changes of replicas."""
        recorder = self._cluster.recorder
        self._settled_s = self.now_s
        lanes = any(lanes_of(group.cost) > 1 for group in self._groups)
        steps = recorder.take_steps(lanes=lanes)
        gaps = recorder.take_gaps()
        if recorder.waste is not None:
            recorder.waste.forget()
        changes = self._cluster.journal.take()
        if changes:
            for hear_changes in self.on_changes:
                hear_changes(changes)
        for hear in self.on_steps:
            hear(steps, gaps)
        preempted = recorder.take_preempted()
        if len(preempted):
            for told in self.on_preempted:
                told(preempted)

    # --- looking ---------------------------------------------------------------------------------

    def replicas(self) -> list[ReplicaState]:
        """The replicas that are there now, by number."""
        return [self._state(replica) for replica in self._cluster.replicas]

    def _state(self, replica: Replica) -> ReplicaState:
        lanes = lanes_within(replica)
        loads, number = self._cluster.loads[replica.number], replica.number
        waiting = replica.queued
        return ReplicaState(
            number=number,
            pool=self._pool_of[number],
            running=max(0, loads - waiting),
            waiting=waiting,
            kv_blocks=sum(lane.scheduler.kv.total for lane in lanes),
            kv_blocks_used=sum(lane.scheduler.kv.used for lane in lanes),
            slowness=self._cluster.slowness_of(replica),
        )

    @property
    def replicas_change(self) -> bool:
        """Whether replicas come and go."""
        return self._changes

    def check_integrity(self) -> None:
        """Raises AssertionError if KV blocks leaked or counts disagree on any replica."""
        for replica in self._cluster.replicas:
            replica.scheduler.check_integrity()
