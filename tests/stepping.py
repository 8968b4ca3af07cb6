"""Runs a scheduler step by step, without a clock."""

from __future__ import annotations

from typing import Any, NamedTuple

from simulator.scenario.policies import Policy
from simulator.serving.kv_cache import KvLayout
from simulator.serving.policies import make_scheduler
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence
from tests.rig import limits


class Step(NamedTuple):
    """What one step did."""

    chunks: list[tuple[int, int, int]]
    """(request, new tokens, past tokens)."""
    decode: int
    context: int
    blocks: int
    ended: list[int]
    preempted: list[int] = []


def scheduler(
    policy: Policy,
    blocks: int = 100,
    *,
    seqs: int = 8,
    budget: int = 100,
    prefix_caching: bool = False,
    span: int = 0,
    chunked: bool = False,
) -> Scheduler:
    """Blocks hold four tokens."""
    settings = limits(policy, seqs=seqs, budget=budget, block_size=4, prefix_caching=prefix_caching)
    return make_scheduler(settings, KvLayout(blocks, 4), span, chunked)


def one_step(engine: Scheduler, **options: Any) -> Step | None:
    plan = engine.schedule(**options)
    if plan is None:
        return None
    ended = [sequence.index for sequence in engine.complete(plan)]
    engine.check_integrity()
    return Step(
        [(seq.index, *chunk) for seq, chunk in zip(plan.prefill, plan.chunks, strict=True)],
        plan.decode,
        plan.context,
        plan.kv_used,
        ended,
        [sequence.index for sequence in plan.preempted],
    )


def run(
    engine: Scheduler, *sizes: tuple[int, int], later: dict[int, tuple[int, int]] | None = None
) -> list[Step]:
    """Steps until nothing is left. ``later``: before which step (from 1) another request comes."""
    for index, (prompt, output) in enumerate(sizes):
        engine.add(Sequence(index, prompt, output))
    later = dict(later or {})
    index, steps = len(sizes), []
    while True:
        if len(steps) + 1 in later:
            engine.add(Sequence(index, *later.pop(len(steps) + 1)))
            index += 1
        step = one_step(engine)
        if step is None:
            assert not later
            return steps
        steps.append(step)
