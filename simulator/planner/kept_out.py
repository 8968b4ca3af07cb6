"""Who keeps waiting requests out of a replica's steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.planner.lanes import Lane, keys_of_requests
from simulator.results.fleet import Member
from simulator.results.record import Group, RunRecord, StepTable
from simulator.results.window import Window
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.workload.requests import Floats, Ints

FULL = ("sequence_slots", "kv_blocks", "token_budget", "batch")
"""What a queue waits for while requests that were seen are not admitted."""


def in_batches(member: Member) -> bool:
    """Whether requests wait for a batch, and an idle replica may let them."""
    return isinstance(member.deployment.limits.policy, StaticPolicy | DynamicPolicy)


def reasons(
    steps: StepTable, record: RunRecord, member: Member, group: Group, key: int
) -> npt.NDArray[np.int64]:
    """Why each row's plan admitted nobody more, as an index into ``FULL``; of use only where
    somebody waited."""
    limits = member.deployment.limits
    lanes = group.lanes
    layout = member.deployment.layout
    slots = max(1, limits.max_num_seqs // lanes) if layout.pp > 1 else limits.max_num_seqs
    if in_batches(member):
        return np.full(len(steps), FULL.index("batch"))
    width = np.ones(len(steps), dtype=np.int64)
    if limits.speculation is not None:
        drafting = steps.decode <= limits.speculation.max_batch
        width = np.where(drafting, 1 + limits.speculation.tokens, 1)
    tokens = steps.decode * width + steps.prefill_tokens
    left = limits.max_num_batched_tokens - tokens
    head, needed = _next_prompts(steps, record, key)
    chunked = getattr(limits.policy, "chunked_prefill", True)
    out_of_tokens = (left <= 0) | (~np.bool_(chunked) & (head > left) & (steps.prefill >= 0))
    free = group.kv_blocks // lanes - steps.kv_blocks
    fits = needed <= free
    waits_for_more = bool(getattr(limits.policy, "wait_steps", 0)) & fits & (steps.prefill == 0)
    choice = np.full(len(steps), FULL.index("kv_blocks"))
    choice[waits_for_more] = FULL.index("batch")
    choice[out_of_tokens] = FULL.index("token_budget")
    choice[steps.running >= slots] = FULL.index("sequence_slots")
    return choice


def _next_prompts(steps: StepTable, record: RunRecord, key: int) -> tuple[Ints, Ints]:
    """Tokens to compute, and KV blocks of the prompt, of the request that is admitted next after
    each row; 0 where nobody is."""
    stages = record.stages
    replica = record.replica
    if stages is not None:
        replica = np.where(stages.prefill_replica >= 0, stages.prefill_replica, replica)
    mine = np.flatnonzero((keys_of_requests(record, replica) == key) & np.isfinite(record.start_s))
    mine = mine[np.argsort(record.start_s[mine], kind="stable")]
    following = np.searchsorted(record.start_s[mine], steps.start_s, side="right")
    whole = np.append(record.requests.input_tokens[mine], 0)
    new = np.append((record.requests.input_tokens - record.cached_tokens)[mine], 0)
    return new[following], -(-whole[following] // record.block_size)


def held_up(
    full_s: dict[str, float],
    lane: Lane,
    waiting: tuple[Floats, Floats],
    window: Window,
    *,
    batches: bool,
) -> None:
    """Adds the seconds within the window in which somebody waited who had been seen."""
    seen, left = (np.clip(at, window.start_s, window.end_s) for at in waiting)
    known = left > seen
    seen, left = seen[known], left[known]
    if not len(seen):
        return
    order = np.argsort(seen, kind="stable")
    seen, left = seen[order], np.maximum.accumulate(left[order])
    begins = np.append(True, seen[1:] > left[:-1])
    froms = seen[begins]
    untils = left[np.append(begins[1:], True)]
    rest = untils - froms
    for name in FULL:
        spent = np.minimum(lane.spent(name, froms, untils), rest)
        rest = rest - spent
        full_s[name] += float(spent.sum())
    if batches:
        full_s["batch"] += float(rest.sum())
