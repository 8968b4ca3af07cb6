"""From a policy's name in a scenario to its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from simulator.deployment import Limits
from simulator.errors import ScenarioError
from simulator.scenario.policies import (
    DynamicPolicy,
    FullReservationPolicy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.scenario.pools import Role
from simulator.scenario.queue import FairQueue, PriorityQueue
from simulator.serving.adapters import AdapterScheduler
from simulator.serving.batch import BatchScheduler
from simulator.serving.contiguous import ContiguousKvCache, ContiguousScheduler
from simulator.serving.handover import DecodeScheduler, PrefillScheduler
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache, KvLayout
from simulator.serving.ordered import FairScheduler, PriorityScheduler
from simulator.serving.queues import make_queue
from simulator.serving.scheduler import Scheduler
from simulator.serving.speculative import SpeculativeScheduler
from simulator.serving.swapping import SwapScheduler
from simulator.serving.tiered import (
    TieredPriorityScheduler,
    TieredScheduler,
    TieredSpeculativeScheduler,
)
from simulator.serving.tiers import TieredKvCache

Weights = tuple[float, ...]
"""Of the traffic classes, for a fair queue."""

Factory = Callable[[KvCache, Limits, int, bool, Weights, Role], Scheduler]

_APART: dict[Role, type[InFlightScheduler]] = {
    "prefill": PrefillScheduler,
    "decode": DecodeScheduler,
}


def _inflight(
    kv: KvCache,
    limits: Limits,
    span: int,
    chunked: bool,
    weights: Weights = (),
    role: Role = "serve",
) -> Scheduler:
    policy = limits.policy
    reserves = policy if isinstance(policy, FullReservationPolicy) else None
    make = _maker(kv, limits) if role == "serve" else _APART[role]
    return make(
        kv,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        chunked_prefill=getattr(policy, "chunked_prefill", True),
        reserve=reserves is not None,
        # A decode pool has no prompts that could go first, but those that it computes again.
        prefill_first=isinstance(policy, PrefillFirstPolicy) and role != "decode",
        wait_steps=reserves.wait_steps if reserves else 0,
        wait_fill=reserves.wait_fill if reserves else 1.0,
        local_span=span,
        local_chunked=chunked,
        waiting=make_queue(limits.queue, weights),
    )


def _maker(kv: KvCache, limits: Limits) -> Callable[..., InFlightScheduler]:
    below = kv.layout.below
    tiered = isinstance(kv, TieredKvCache)
    if isinstance(kv, ContiguousKvCache):
        return partial(ContiguousScheduler, max_model_len=limits.max_model_len)
    if below is not None and below.swap_blocks:
        return SwapScheduler
    if limits.adapters is not None:
        return partial(AdapterScheduler, max_loras=limits.adapters.max_loras)
    if limits.speculation is not None:
        make = TieredSpeculativeScheduler if tiered else SpeculativeScheduler
        return partial(make, speculation=limits.speculation)
    if isinstance(limits.queue, PriorityQueue):
        return TieredPriorityScheduler if tiered else PriorityScheduler
    return TieredScheduler if tiered else InFlightScheduler


def _batch(
    kv: KvCache,
    limits: Limits,
    span: int,
    chunked: bool,
    weights: Weights = (),
    role: Role = "serve",
) -> Scheduler:
    assert isinstance(limits.policy, StaticPolicy | DynamicPolicy)
    return BatchScheduler(
        kv,
        batch_size=min(limits.policy.batch_size, limits.max_num_seqs),
        wait_to_fill=isinstance(limits.policy, DynamicPolicy),
        local_span=span,
        local_chunked=chunked,
        waiting=make_queue(limits.queue, weights),
    )


POLICIES: dict[str, Factory] = {
    "continuous": _inflight,
    "prefill_first": _inflight,
    "full_reservation": _inflight,
    "static": _batch,
    "dynamic": _batch,
}
"""Register a scheduler of your own here under the ``kind`` of its policy."""


def make_scheduler(
    limits: Limits,
    layout: KvLayout,
    span: int,
    chunked: bool,
    weights: Weights = (),
    role: Role = "serve",
) -> Scheduler:
    """A scheduler with an empty cache.

    Args:
        limits: policy and limits of the engine.
        layout: the replica's KV blocks.
        span, chunked: local attention of the model, see ``StepCost``.
        weights: of the traffic classes, for a fair queue.
        role: of the replica's pool.
    """
    if limits.speculation is not None and limits.queue.kind in ("priority", "fair"):
        raise ScenarioError(
            f"the order {limits.queue.kind} counts one token a sequence and step, and speculative "
            "decoding gives several",
            where="engine.queue",
            hint="use fcfs, shortest_first or deadline with speculation",
        )
    kv = _cache(layout, prefix_caching=limits.prefix_caching)
    scheduler = POLICIES[limits.policy.kind](kv, limits, span, chunked, weights, role)
    if isinstance(limits.queue, FairQueue):
        return FairScheduler(scheduler, len(weights))
    return scheduler


def _cache(layout: KvLayout, *, prefix_caching: bool) -> KvCache:
    if layout.reserve:
        return ContiguousKvCache(layout)
    if layout.below is not None and layout.below.tiers:
        return TieredKvCache(layout, prefix_caching=prefix_caching)
    return KvCache(layout, prefix_caching=prefix_caching)
