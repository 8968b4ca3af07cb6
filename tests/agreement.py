"""Compares a run of the fast simulator with the oracle's, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from simulator.cluster import run_cluster
from simulator.costs.protocol import Chunk, StepCost
from simulator.results.record import RunRecord, StepTable
from tests.oracle import OracleRun, Step
from tests.strategies import Case

REQUEST_COLUMNS = (
    "sent_s",
    "queued_s",
    "start_s",
    "first_token_s",
    "finish_s",
    "generated",
    "cached_tokens",
    "preemptions",
    "replica",
    "outcome",
)


@dataclass(frozen=True)
class OneStep:
    """A step as both simulators describe it."""

    replica: int
    start_s: float
    duration_s: float
    decode: int
    context: int
    local_context: int
    prefill: int
    prefill_tokens: int
    wasted_tokens: int
    prefill_pairs: int
    prefill_context: int
    local_pairs: int
    sampled: int


def run_fast(case: Case) -> RunRecord:
    return run_cluster(
        case.requests,
        case.limits,
        case.kv_blocks,
        case.cost,
        layout=case.layout,
        replicas=case.replicas,
        terms=case.terms,
        timeout_s=case.timeout_s,
        **case.delays,
    )


def expand(table: StepTable, has_local: bool) -> list[OneStep]:
    """Every single step behind the rows."""
    steps = []
    for row in range(len(table)):
        start, first, slope = (float(c[row]) for c in (table.start_s, table.first_s, table.slope_s))
        decode = int(table.decode[row])
        for i in range(int(table.steps[row])):
            local = table.local_context[row] + i * table.local_growth[row] if has_local else 0
            steps.append(
                OneStep(
                    replica=int(table.replica[row]),
                    start_s=start + i * first + slope * (i * (i - 1) // 2),
                    duration_s=first + i * slope,
                    decode=decode,
                    context=int(table.context[row]) + i * decode,
                    local_context=int(local),
                    prefill=int(table.prefill[row]),
                    prefill_tokens=int(table.prefill_tokens[row]),
                    wasted_tokens=int(table.wasted_tokens[row]),
                    prefill_pairs=int(table.prefill_pairs[row]),
                    prefill_context=int(table.prefill_context[row]),
                    local_pairs=int(table.local_pairs[row]) if has_local else 0,
                    sampled=int(table.sampled[row]),
                )
            )
    return sorted(steps, key=lambda step: (step.replica, step.start_s))


def local_pairs(chunk: Chunk, cost: StepCost) -> int:
    """(query, key) pairs of a chunk, one query at a time."""
    span, pairs = cost.local_span, 0
    if span == 0:
        return 0
    for position in range(chunk.past, chunk.past + chunk.new):
        pairs += position % span + 1 if cost.local_is_chunked else min(position + 1, span)
    return pairs


def as_one_step(step: Step, cost: StepCost) -> OneStep:
    return OneStep(
        replica=step.replica,
        start_s=step.start_s,
        duration_s=step.duration_s,
        decode=step.decode,
        context=step.context,
        local_context=step.local_context,
        prefill=len(step.chunks),
        prefill_tokens=sum(chunk.new for chunk in step.chunks),
        wasted_tokens=step.wasted,
        prefill_pairs=sum(new * past + new * (new + 1) // 2 for new, past in step.chunks),
        prefill_context=sum(new + past for new, past in step.chunks),
        local_pairs=sum(local_pairs(chunk, cost) for chunk in step.chunks),
        sampled=step.sampled,
    )


def gaps_of(record: RunRecord) -> Counter[float]:
    """The multiset of inter-token gaps that a record implies."""
    table = record.steps
    gaps: Counter[float] = Counter()
    for row in np.flatnonzero(table.gap_tokens):
        for i in range(int(table.steps[row])):
            gap = float(table.first_s[row] + i * table.slope_s[row])
            gaps[gap] += int(table.gap_tokens[row])
    if table.accepted_tokens.any():
        gaps[0.0] += int(table.accepted_tokens.sum())
    for gap, count in zip(record.gaps.gap_s.tolist(), record.gaps.count.tolist(), strict=True):
        gaps[gap] += count
    return gaps


def differences(case: Case, fast: RunRecord, slow: OracleRun) -> list[str]:
    """Where the two disagree, one sentence each; the first step that differs only."""
    found = []
    for name in REQUEST_COLUMNS:
        ours, theirs = np.asarray(getattr(fast, name)), np.asarray(getattr(slow, name))
        differ = np.flatnonzero((ours != theirs) & ~((ours != ours) & (theirs != theirs)))
        for i in differ[:3].tolist():
            found.append(f"{name}[{i}]: fast {ours[i]}, oracle {theirs[i]}")
    ours_steps = expand(fast.steps, case.cost.local_span > 0)
    order = sorted(slow.steps, key=lambda step: (step.replica, step.start_s))
    theirs_steps = [as_one_step(step, case.cost) for step in order]
    if len(ours_steps) != len(theirs_steps):
        found.append(f"number of steps: fast {len(ours_steps)}, oracle {len(theirs_steps)}")
    for i, (a, b) in enumerate(zip(ours_steps, theirs_steps, strict=False)):
        if a != b:
            found.append(f"step {i}:\n    fast   {a}\n    oracle {b}")
            break
    found += row_differences(case, fast.steps, order)
    ours_gaps, theirs_gaps = gaps_of(fast), Counter(slow.gaps())
    if ours_gaps != theirs_gaps:
        extra, missing = ours_gaps - theirs_gaps, theirs_gaps - ours_gaps
        found.append(f"gaps: fast {extra.most_common(5)}, oracle {missing.most_common(5)}")
    firsts = int(fast.steps.first_tokens.sum())
    if firsts != sum(bool(times) for times in slow.token_s):
        found.append(f"first tokens: fast {firsts}")
    return found


def row_differences(case: Case, table: StepTable, steps: list[Step]) -> list[str]:
    """The first row whose state differs from that during its last step."""
    no_sharing = not case.limits.prefix_caching
    batch = case.limits.policy.kind in ("static", "dynamic")
    plain = case.requests.open_loop and case.timeout_s is None
    at = -1
    for row in np.lexsort((table.start_s, table.replica)):
        at += int(table.steps[row])
        if at >= len(steps):
            break
        ours = [int(table.running[row]), int(table.kv_blocks[row])]
        theirs = [steps[at].running, steps[at].used_blocks]
        if plain:
            ours.append(int(table.waiting[row]))
            theirs.append(steps[at].waiting)
        if no_sharing and not batch:
            ours.append(int(table.kv_tokens[row]))
            theirs.append(steps[at].stored_tokens)
        if ours != theirs:
            return [
                f"running, blocks (, waiting, tokens) in step {at}: fast {ours}, oracle {theirs}"
            ]
    return []


def assert_agree(case: Case) -> tuple[RunRecord, OracleRun]:
    """Run both and fail with all that differs."""
    slow = case.oracle()
    fast = run_fast(case)
    found = differences(case, fast, slow)
    if sorted(fast.steps.stall_s[fast.steps.stall_s > 0]) != sorted(
        step.stall_s for step in slow.steps if step.stall_s
    ):
        found.append("steps wait for other lengths of time")
    assert not found, "\n".join(["fast path and oracle disagree", *found, repr(case)])
    return fast, slow
