"""What requests waited for: every request's time split into parts that add up to it.

A request's way is known from the columns of a run, and what its replica did meanwhile from the
step table. Each part is the time between two of its own moments, split by what the steps in
between were made of; so the parts of a request add up to its latency, whatever the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.planner.explanation.kept_out import FULL, held_up, in_batches, reasons
from simulator.planner.explanation.lanes import TICK, Lane, keys_of_requests, keys_of_rows, rows_of
from simulator.results.fleet import Member, response_s
from simulator.results.record import COMPLETED, REJECTED, Group, RunRecord, StepTable
from simulator.results.window import Window, end_of_run
from simulator.workload.requests import Floats, Ints

PARTS = {
    "network": "network",
    "front_end": "front end",
    "gateway": "waiting before a replica",
    "step_under_way": "waiting for the step under way",
    "sequence_slots": "queueing for sequence slots",
    "kv_blocks": "queueing for KV blocks",
    "token_budget": "queueing for the token budget",
    "adapter_slots": "queueing for adapter slots",
    "batch": "waiting for a batch",
    "prefill": "prefill",
    "decode_blocks": "waiting for the decode pool's KV blocks",
    "kv_transfer": "KV transfer",
    "decode": "decode steps",
    "prompts": "other requests' prompts in decode steps",
    "preemption": "preemption",
    "stall": "stall",
}
"""Parts of a request's time, in the order in which they come, and what reports call them."""

Parts = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Waits:
    """Where the time went.

    Args:
        ttft, e2e: seconds of each part, by its key in ``PARTS``, of the requests in ``rows``; the
            parts of TTFT are part of those of E2E. Shapes (rows,).
        rows: requests that count and completed, as rows of the record.
        admission: shares of the replicas' time in which each of ``FULL`` kept a waiting request
            out; ``arrivals``: the rest, in which all who had come were admitted.
    """

    ttft: Parts
    e2e: Parts
    rows: Ints
    admission: dict[str, float]


def waits(record: RunRecord, members: Sequence[Member], window: Window) -> Waits:
    """Splits the time of every request that counts and completed, and of the replicas' queues."""
    rows = np.flatnonzero(record.requests.rows_of(window.counted) & (record.outcome == COMPLETED))
    n = len(record.sent_s)
    ttft: Parts = {part: np.zeros(n) for part in PARTS}
    decoding: Parts = {part: np.zeros(n) for part in PARTS}
    full_s, there_s = dict.fromkeys(FULL, 0.0), 0.0
    lanes = {key: (lane, member, group) for key, lane, member, group in _lanes(record, members)}
    moments = _moments(record, members)
    _before_the_queue(ttft, moments, record, members)
    first, last = keys_of_requests(record, moments.first), keys_of_requests(record, record.replica)
    owners = [group.devices_of for group in record.groups]
    for key, (lane, member, group) in lanes.items():
        turns = owners.count(group.devices_of) > 1
        several = group.lanes > 1 or turns
        if group.role != "decode":
            mine = np.flatnonzero(first == key)
            seen = _queue(ttft, moments, lane, mine, member, turns=turns)
            _prompts(ttft, moments, lane, mine, record, several=several)
            waiting = (seen, _left_queue(record, moments, mine))
            held_up(full_s, lane, waiting, window, batches=in_batches(member))
            there_s += window.duration_s
        if group.role != "prefill":
            mine = np.flatnonzero(last == key)
            _answers(decoding, moments, lane, mine, record, several=several)
    e2e = {part: (ttft[part] + decoding[part])[rows] for part in PARTS}
    shares = {name: seconds / there_s if there_s > 0 else 0.0 for name, seconds in full_s.items()}
    shares["arrivals"] = max(0.0, 1.0 - sum(shares.values()))
    return Waits({part: ttft[part][rows] for part in PARTS}, e2e, rows, shares)


# --- moments ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of each request, in the order of time, each at least the one before: when it was sent,
    reached the server, the queue and the first step, had its prompt done, had blocks on the decode
    replica, its keys there, its first and its last token, at the server. ``first``: the replica
    that computed its prompt. Shapes (n,)."""

    sent: Floats
    server: Floats
    queued: Floats
    start: Floats
    prompt: Floats
    reserved: Floats
    landed: Floats
    token: Floats
    last: Floats
    back: Floats
    first: Ints


def _moments(record: RunRecord, members: Sequence[Member]) -> _Moments:
    back = np.zeros(len(record.sent_s))
    for member, group in zip(members, record.groups, strict=True):
        served = (record.replica >= group.first) & (record.replica < group.end)
        back[served] = response_s(member.deployment)
    network = members[0].deployment.scenario.deployment.network_ms / 1e3
    token = np.maximum(record.first_token_s - back, record.sent_s)
    stages = record.stages
    ways = [token, token, token]
    first = record.replica
    if stages is not None:
        ways = [stages.prompt_done_s, stages.reserved_s, stages.landed_s]
        first = np.where(stages.prefill_replica >= 0, stages.prefill_replica, record.replica)
    found: list[Floats] = []
    before = record.sent_s
    for at in (record.sent_s + network, record.queued_s, record.start_s, *ways):
        known = np.where(np.isfinite(at), at, token)
        before = np.clip(known, before, np.maximum(token, before))
        found.append(before)
    server, queued, start, prompt, reserved, landed = found
    token = np.maximum(token, landed)
    last = np.maximum(record.finish_s - back, token)
    return _Moments(
        record.sent_s, server, queued, start, prompt, reserved, landed, token, last, back, first
    )


def _before_the_queue(
    ttft: Parts, at: _Moments, record: RunRecord, members: Sequence[Member]
) -> None:
    """Network, front end, and what comes before a replica has the request: the gateway, workers
    outside, refusals and attempts that a crash ended."""
    network = members[0].deployment.scenario.deployment.network_ms / 1e3
    ttft["network"] += at.server - at.sent + np.minimum(network, at.back)
    outside = at.queued - at.server
    held = record.lives is not None or record.requests.workers is not None or record.refusals > 0
    own = outside
    if held:
        own = np.zeros(len(outside))
        for member, group in zip(members, record.groups, strict=True):
            times = member.deployment.engine.front_end
            random = member.deployment.scenario.engine.random_prompts
            per_token = times.random_us_per_token if random else times.busy_us_per_token
            takes = (times.busy_ms + times.request_ms) / 1e3
            mine = (at.first >= group.first) & (at.first < group.end)
            own[mine] = (takes + 1e-6 * per_token * record.requests.input_tokens)[mine]
        own = np.minimum(own, outside)
    ttft["front_end"] += own + np.maximum(at.back - network, 0.0)
    ttft["gateway"] += outside - own


# --- lanes -----------------------------------------------------------------------------------


def _lanes(
    record: RunRecord, members: Sequence[Member]
) -> Iterator[tuple[int, Lane, Member, Group]]:
    """Each scheduler with its rows, and what their time is made of."""
    keys = keys_of_rows(record)
    replicas = record.steps.replica
    for member, group in zip(members, record.groups, strict=True):
        mine = np.unique(keys[(replicas >= group.first) & (replicas < group.end)])
        for key in mine.tolist():
            steps = record.steps.select(rows_of(record, key, keys))
            yield key, Lane(steps, _shares(steps, record, member, group, key)), member, group


def _shares(
    steps: StepTable, record: RunRecord, member: Member, group: Group, key: int
) -> dict[str, Floats]:
    duration = np.maximum(steps.duration_s, 1e-30)
    stall = np.minimum(steps.stall_s / duration, 1.0)
    with_prompts = steps.prefill > 0
    stretched = np.where(
        with_prompts, np.clip(1.0 - _alone_s(steps, member) / duration - stall, 0.0, 1.0), 0.0
    )
    reason = reasons(steps, record, member, group, key)
    return {
        "stall": stall,
        "prefill": np.where(with_prompts, 1.0 - stall, 0.0),
        "prompts": stretched,
        "decode": np.maximum(1.0 - stall - stretched, 0.0),
        "tokens": np.where(steps.decode > 0, steps.steps / duration, 0.0),
        "stall of prompts": np.where(with_prompts, stall, 0.0),
        **{name: (reason == i).astype(np.float64) for i, name in enumerate(FULL)},
    }


def _alone_s(steps: StepTable, member: Member) -> Floats:
    """How long each row with prompts would have taken without them; 0 where nobody decodes."""
    alone = np.zeros(len(steps))
    decode: Callable[..., tuple[float, float, int]] | None
    decode = getattr(member.accountant, "decode", None)
    if decode is None:
        return alone
    mixed = np.flatnonzero((steps.prefill > 0) & (steps.decode > 0))
    columns = (steps.decode, steps.context, steps.local_context, steps.local_growth)
    known: dict[tuple[int, ...], float] = {}
    for row, *sizes in zip(mixed.tolist(), *(column[mixed].tolist() for column in columns),
                           strict=True):  # fmt: skip
        asked = tuple(int(size) for size in sizes)
        if asked not in known:
            known[asked] = decode(*asked)[0]
        alone[row] = known[asked]
    return alone


# --- what requests waited for -----------------------------------------------------------------


def _queue(
    ttft: Parts, at: _Moments, lane: Lane, mine: Ints, member: Member, *, turns: bool
) -> Floats:
    """From the queue to the first step; returns when each request was first seen by a plan.
    ``turns``: the replica takes turns with others on its devices."""
    batches = in_batches(member)
    plans_ahead = member.deployment.limits.async_scheduling
    queued, start = at.queued[mine], at.start[mine]
    seen = lane.boundary(queued)
    if plans_ahead:
        busy = seen > queued
        seen = np.where(busy, np.maximum(seen, _next_boundary(lane, seen)), seen)
    seen = np.minimum(seen, np.where(np.isfinite(start), start, seen))
    ttft["step_under_way"][mine] += seen - queued
    rest = start - seen
    for name in FULL:
        spent = np.minimum(lane.spent(name, seen, start), rest)
        ttft[name][mine] += spent
        rest = rest - spent
    # What is left the replica did nothing: a batch fills, or others are at work on its devices.
    ttft["batch" if batches else "stall" if turns else "step_under_way"][mine] += rest
    return seen


def _next_boundary(lane: Lane, at_s: Floats) -> Floats:
    """End of the step that begins at these times."""
    return lane.boundary(at_s + 4 * TICK)


def _prompts(
    ttft: Parts, at: _Moments, lane: Lane, mine: Ints, record: RunRecord, *, several: bool
) -> None:
    """From the first step to the first token at the server."""
    start, done = at.start[mine], at.prompt[mine]
    stall = lane.spent("stall of prompts", start, done)
    computed = lane.spent("prefill", start, done)
    ttft["stall"][mine] += stall
    ttft["prefill"][mine] += computed
    _rest(ttft, mine, done - start - stall - computed, record, several=several)
    ttft["decode_blocks"][mine] += (at.reserved - at.prompt)[mine]
    ttft["kv_transfer"][mine] += (at.landed - at.reserved)[mine]
    ttft["front_end"][mine] += (at.token - at.landed)[mine]


def _answers(
    decoding: Parts, at: _Moments, lane: Lane, mine: Ints, record: RunRecord, *, several: bool
) -> None:
    """From the first token to the last one, at the server."""
    first, last = at.token[mine], at.last[mine]
    known = np.isfinite(last)
    mine, first, last = mine[known], first[known], last[known]
    lost = _lost_share(lane, first, last, mine, record)
    spent = {name: lane.spent(name, first, last) for name in ("decode", "prompts", "stall")}
    whole = sum(spent.values(), np.zeros(len(mine)))
    for name, seconds in spent.items():
        decoding[name][mine] += (1.0 - lost) * seconds
    decoding["preemption"][mine] += lost * whole
    _rest(decoding, mine, last - first - whole, record, several=several)


def _lost_share(lane: Lane, first: Floats, last: Floats, mine: Ints, record: RunRecord) -> Floats:
    """Share of the decode steps between two tokens of each request in which it had no part. Only
    those that were preempted missed any."""
    preempted = record.preemptions[mine] > 0
    if not preempted.any():
        return np.zeros(len(mine))
    steps = lane.spent("tokens", first, last)
    table = lane.steps
    slots = float((table.decode * table.steps).sum())
    tokens = float((table.gap_tokens * table.steps + table.accepted_tokens).sum())
    each = max(1.0, tokens / slots) if slots else 1.0
    had = (record.requests.output_tokens[mine] - 1) / each
    missed = np.clip(1.0 - had / np.maximum(steps, 1e-30), 0.0, 1.0)
    return np.where(preempted & (steps > 0), missed, 0.0)


def _rest(parts: Parts, mine: Ints, seconds: Floats, record: RunRecord, *, several: bool) -> None:
    """What no step explains: a preempted request waits; where a replica has several lanes or takes
    turns on its devices, requests wait for other stages, ranks or replicas; else tokens wait to be
    handed out."""
    rest = np.maximum(seconds, 0.0)
    preempted = record.preemptions[mine] > 0
    parts["preemption"][mine] += np.where(preempted, rest, 0.0)
    parts["stall" if several else "front_end"][mine] += np.where(preempted, 0.0, rest)


def _left_queue(record: RunRecord, at: _Moments, mine: Ints) -> Floats:
    """When each request left the queue; those that never started waited to the end of the run,
    those that were refused not at all."""
    started = record.start_s[mine]
    gone = np.where(record.outcome[mine] == REJECTED, at.queued[mine], end_of_run(record))
    return np.where(np.isfinite(started), at.start[mine], gone)
