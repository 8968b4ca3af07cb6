"""Replicas that serve LoRA adapters: what they add to steps, and what steps wait for."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List
from functools import partial
from struct import Struct
from typing import Any

from simulator.cluster.groups import ReplicaGroup
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.cluster.slowness import Slowness
from simulator.costs.lora import AdapterPlan
from simulator.costs.protocol import Chunk, StepCost
from simulator.errors import ScenarioError
from simulator.results.record import AdapterCounts
from simulator.serving.adapters import AdapterScheduler
from simulator.serving.scheduler import Plan
from simulator.workload.requests import Requests

pack_adapters = Struct("2d").pack


class AdapterReplica(Replica):
    """A replica whose steps run adapters' products and wait for adapters that are not in memory.

    Args:
        adapters: what they cost.
        ranks: of each adapter.
        counts: where loads are added up.
        args, settings: see ``Replica``.
    """

    def __init__(
        self,
        *args: Any,
        adapters: AdapterPlan,
        ranks: List[int],
        counts: AdapterCounts,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        assert isinstance(self.scheduler, AdapterScheduler)
        self._plans = self.scheduler
        self._counts = counts
        self._row = (0, 0)
        self.cost = self._with_adapters = _WithAdapters(self.cost, self, adapters, ranks)

    def wait_for_adapters(self, seconds: float) -> None:
        """The step that begins waits so long for adapters."""
        self._stall = seconds

    def _slowness(self) -> Slowness:
        """Adapters come over their path as fast as ever."""

        def give(cost: StepCost) -> None:
            self._with_adapters.inner = cost

        return Slowness(self._with_adapters.inner, give)

    def _begin(self, now: float) -> None:
        self._stall = 0.0
        super()._begin(now)
        plans, counts = self._plans, self._counts
        self._row = (plans.distinct, plans.tokens)
        counts.loads += len(plans.loaded)
        counts.load_s += self._stall
        counts.asked += plans.asked
        plans.asked = 0

    def _finish(self, plan: Plan, now: float) -> None:
        super()._finish(plan, now)
        self.recorder.adapter_rows += pack_adapters(*self._row)


class _WithAdapters:
    """A cost model with the adapters of the step that its replica has planned (``StepCost``)."""

    def __init__(
        self, cost: StepCost, replica: AdapterReplica, adapters: AdapterPlan, ranks: List[int]
    ) -> None:
        assert isinstance(replica.scheduler, AdapterScheduler)
        self.inner = cost
        self._replica = replica
        self._plans = replica.scheduler
        self._adapters = adapters.cost
        self._load_s = {rank: adapters.load_s(rank) for rank in set(ranks)}
        self._ranks = ranks
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``."""
        first, slope, most = self.inner.decode(sequences, context, local_context, local_growth)
        return first + self._more(), slope, most

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        took = self.inner.step(sequences, context, local_context, chunks, sampled)
        loads = sum([self._load_s[self._ranks[a]] for a in self._plans.loaded])
        if loads:
            self._replica.wait_for_adapters(loads)
        return took + self._more() + loads

    def _more(self) -> float:
        seconds = self._adapters.seconds(self._plans.distinct, self._plans.tokens)
        slowness = self._replica.slowness
        return seconds if slowness is None else seconds * slowness.factor


def adapter_maker(
    adapters: AdapterPlan, requests: Requests, recorder: Recorder
) -> Callable[[int], Callable[..., Replica]]:
    """Who makes replicas, by number, where requests ask for adapters."""
    if recorder.adapter_counts is None:
        recorder.adapter_counts = AdapterCounts()
    make = partial(
        AdapterReplica,
        adapters=adapters,
        ranks=requests.adapter_ranks,
        counts=recorder.adapter_counts,
    )
    return lambda _: make


def check_adapters(requests: Requests, group: ReplicaGroup) -> None:
    """Raises a ScenarioError if requests ask for adapters that a group's engine cannot take."""
    if requests.adapters is None:
        return
    adapters = group.limits.adapters
    if group.role != "serve":
        raise ScenarioError(
            "adapters are not simulated where prompts and answers have pools of their own",
            where="workload",
            hint="leave out adapters, or the pools with the roles prefill and decode",
        )
    if adapters is None:
        raise ScenarioError(
            "requests ask for adapters, and the engine has no room for any",
            where="engine.lora",
            hint="give engine.lora: {max_loras: ...}",
        )
    highest = max(requests.adapter_ranks)
    if highest > adapters.cost.rank:
        raise ScenarioError(
            f"adapters of rank {highest} do not fit into slots for rank {adapters.cost.rank}",
            where="engine.lora.max_rank",
            hint=f"set engine.lora.max_rank: {highest}",
        )
