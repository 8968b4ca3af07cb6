"""How many requests run and wait on each replica of a simulation at given times, and its KV use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.monitoring.fleet import Fleet
from simulator.monitoring.snapshot import Gauges
from simulator.results.fleet import Member, kv_grows, response_s, seen_by
from simulator.results.record import LANES_APART, UNFINISHED, RunRecord
from simulator.results.stretches import ended_by
from simulator.results.usage import left_s
from simulator.workload.requests import Floats, Ints


def levels(
    record: RunRecord, members: Sequence[Member], fleet: Fleet, edges_s: Floats
) -> list[Gauges]:
    """The replicas at each of the times."""
    running, kv_blocks = _of_steps(record, members, fleet, edges_s)
    inside = _inside(record, members, fleet, edges_s)
    if record.interrupted:
        running = np.minimum(running, inside)
    blocks = np.repeat([g.kv_blocks for g in fleet.groups], [g.count for g in fleet.groups])
    waiting = np.maximum(inside - running, 0)
    shares = kv_blocks / blocks
    return [Gauges(*each) for each in zip(running, waiting, shares, strict=True)]


def _of_steps(
    record: RunRecord, members: Sequence[Member], fleet: Fleet, edges_s: Floats
) -> tuple[Ints, Floats]:
    """Sequences admitted and KV blocks in use in the steps under way. Shapes (times, engines)."""
    steps = record.steps
    running = np.zeros((len(edges_s), fleet.engines), dtype=np.int64)
    blocks = np.zeros((len(edges_s), fleet.engines))
    lane = steps.replica + LANES_APART * steps.lane
    grows = fleet.flags([kv_grows(member.deployment) for member in members])
    end_s = steps.start_s + steps.duration_s
    for number in np.unique(lane).tolist():
        mine = np.flatnonzero(lane == number)
        mine = mine[np.argsort(steps.start_s[mine], kind="stable")]
        place = np.searchsorted(steps.start_s[mine], edges_s, side="right") - 1
        now = mine[np.maximum(place, 0)]
        lasts = end_s[now] > edges_s
        if record.interrupted:  # the step under way then has no row, and is taken for the last one
            lasts |= now == mine[-1]
        times = np.flatnonzero((place >= 0) & lasts)
        if not len(times):
            continue
        under_way, engine = steps.select(now[times]), number % LANES_APART
        running[times, engine] += under_way.running
        used = under_way.kv_blocks.astype(np.float64)
        if grows[engine]:
            left = under_way.steps - 1 - ended_by(under_way, edges_s[times])
            stored = under_way.kv_tokens - under_way.decode * left
            used *= np.divide(
                stored, under_way.kv_tokens, out=np.ones(len(used)), where=under_way.kv_tokens > 0
            )
        blocks[times, engine] += used
    return running, blocks


def _inside(record: RunRecord, members: Sequence[Member], fleet: Fleet, edges_s: Floats) -> Ints:
    """Requests that have come to a replica and have not left it. Shape (times, engines)."""
    spans: list[tuple[Ints, Floats, Floats]] = []
    for member, group in zip(members, fleet.groups, strict=True):
        own = record
        if len(fleet.groups) > 1:
            own = seen_by(record, group, response_s(member.deployment))
        end_s = np.where(record.outcome == UNFINISHED, np.inf, left_s(member.deployment, own))
        spans.append((own.replica, own.queued_s, end_s))
    if record.lives is not None:
        lost = record.lives.lost
        spans.append((lost.replica, lost.start_s, lost.left_s))
    change = np.zeros((len(edges_s) + 1, fleet.engines), dtype=np.int64)
    for replica, begin_s, end_s in spans:
        there = np.flatnonzero((replica >= 0) & np.isfinite(begin_s) & (end_s > begin_s))
        engine = replica[there]
        np.add.at(change, (np.searchsorted(edges_s, begin_s[there]), engine), 1)
        np.add.at(change, (np.searchsorted(edges_s, end_s[there]), engine), -1)
    inside: Ints = np.cumsum(change[:-1], axis=0)
    return inside
