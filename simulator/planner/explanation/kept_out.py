"""Who keeps waiting requests out of a replica's steps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from simulator.planner.explanation.lanes import Lane, keys_of_requests
from simulator.results.fleet import Member
from simulator.results.record import Group, RunRecord, StepTable
from simulator.results.window import Window
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.workload.requests import Floats, Ints

FULL = ("sequence_slots", "kv_blocks", "token_budget", "adapter_slots", "batch")
"""What a queue waits for while requests that were seen are not admitted."""

_NOTHING = -1
"""Nothing is known to keep a request out that waits."""


def in_batches(member: Member) -> bool:
    """Whether requests wait for a batch, and an idle replica may let them."""
    return isinstance(member.deployment.limits.policy, StaticPolicy | DynamicPolicy)


def reasons(
    steps: StepTable, record: RunRecord, member: Member, group: Group, key: int
) -> npt.NDArray[np.int64]:
    """Why each row's plan admitted nobody more, as an index into ``FULL``; of use only where
    somebody waited."""
    if in_batches(member):
        return np.full(len(steps), FULL.index("batch"))
    deployment, lanes = member.deployment, group.lanes
    limits, policy = deployment.limits, deployment.limits.policy
    slots = limits.max_num_seqs
    if deployment.layout.pp > 1:
        slots = max(1, slots // lanes)
    width = np.ones(len(steps), dtype=np.int64)
    if limits.speculation is not None:
        drafting = steps.decode <= limits.speculation.max_batch
        width = np.where(drafting, 1 + limits.speculation.tokens, 1)
    left = limits.max_num_batched_tokens - steps.decode * width - steps.prefill_tokens
    chunked = bool(getattr(policy, "chunked_prefill", policy.kind == "prefill_first"))
    mine = _requests_of(record, key)
    head, needed = _next_prompts(steps, record, mine, member, chunked=chunked)
    spare = math.ceil(deployment.scenario.engine.kv_watermark * group.kv_blocks / lanes)
    running = steps.running if policy.kind == "prefill_first" else 0
    fits = needed + np.where(steps.running > 0, spare + running, 0) <= (
        group.kv_blocks // lanes - steps.kv_blocks
    )
    # Who was preempted comes first, and what it needs no row tells.
    known = fits & ~record.preemptions[mine].any()
    choice = np.where(known, _NOTHING, FULL.index("kv_blocks"))
    if getattr(policy, "wait_steps", 0):
        choice[fits & (steps.prefill == 0)] = FULL.index("batch")
    lora = deployment.scenario.engine.lora
    if lora is not None:
        choice[steps.adapters >= lora.max_loras] = FULL.index("adapter_slots")
    choice[(left <= 0) | ((head > left) & (not chunked))] = FULL.index("token_budget")
    choice[steps.running >= slots] = FULL.index("sequence_slots")
    return choice


def _requests_of(record: RunRecord, key: int) -> Ints:
    """Requests whose prompts a scheduler computed, in the order of their starts."""
    stages = record.stages
    replica = record.replica
    if stages is not None:
        replica = np.where(stages.prefill_replica >= 0, stages.prefill_replica, replica)
    mine = np.flatnonzero((keys_of_requests(record, replica) == key) & np.isfinite(record.start_s))
    return mine[np.argsort(record.start_s[mine], kind="stable")]


def _next_prompts(
    steps: StepTable, record: RunRecord, mine: Ints, member: Member, *, chunked: bool
) -> tuple[Ints, Ints]:
    """Tokens to compute, and KV blocks to take, of the request that is admitted next after each
    row; 0 where nobody is."""
    limits, policy = member.deployment.limits, member.deployment.limits.policy
    prompt, cached = record.requests.input_tokens[mine], record.cached_tokens[mine]
    whole = prompt + record.requests.output_tokens[mine] - 1
    new = prompt - cached
    if policy.kind == "full_reservation" or limits.kv_reserve:
        stored = whole
    else:
        stored = np.minimum(prompt, cached + limits.max_num_batched_tokens) if chunked else prompt
    size = record.block_size
    blocks = -(-stored // size) - cached // size
    following = np.searchsorted(record.start_s[mine], steps.start_s, side="right")
    return np.append(new, 0)[following], np.append(blocks, 0)[following]


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
