"""The metrics of a simulation at times of its clock, as a live server would have told them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np

from simulator.monitoring.families import OUTCOMES, REASONS
from simulator.monitoring.fleet import Fleet
from simulator.monitoring.levels import levels
from simulator.monitoring.meters import Presence, Work, price
from simulator.monitoring.snapshot import Snapshot, take
from simulator.monitoring.tally import Begun, Ended, Tally
from simulator.results.answers import times_of
from simulator.results.fleet import Member
from simulator.results.record import (
    COMPLETED,
    FAILED,
    REJECTED,
    TIMED_OUT,
    UNFINISHED,
    RunRecord,
)
from simulator.results.stretches import cut_into, rows
from simulator.workload.requests import Floats, Ints

T = TypeVar("T")

_SOONEST_S = 1e-3
"""No first step of a request is shorter; no front end holds a token for longer."""

_OUTCOME = {COMPLETED: "completed", REJECTED: "rejected", TIMED_OUT: "cancelled", FAILED: "failed"}
"""As a server sees it: whose client gives up is cancelled."""


def replay(
    record: RunRecord, members: Sequence[Member], fleet: Fleet, edges_s: Floats
) -> Iterator[Snapshot]:
    """The metrics at each of the times, ascending from 0 on.

    Steps, first tokens and ends of requests go in the order of time into the same ``Tally``,
    ``Work`` and ``Presence`` that a live server has.
    """
    tally, work = Tally(fleet), Work(fleet)
    lives = record.lives
    presence = Presence(fleet, changing=lives is not None)
    changes = (
        []
        if lives is None
        else list(
            zip(lives.at_s.tolist(), lives.replica.tolist(), lives.state.tolist(), strict=True)
        )
    )
    steps, cells = cut_into(record.steps, edges_s)
    by_start = np.argsort(steps.start_s, kind="stable")
    priced = price(fleet, steps.select(by_start), cells[by_start], len(edges_s))
    step_ends = np.searchsorted(cells, np.arange(len(edges_s)), side="right")
    gaps, gap_ends = _by_time(record.gaps, record.gaps.at_s, edges_s)
    begun, begun_ends = _by_time(*_begun(record, fleet), edges_s)
    ended, ended_ends = _by_time(*_ended(record, fleet), edges_s)
    answered, answered_ends = _by_time(*_answered(record), edges_s)
    preempted = np.zeros((0, 3)) if record.preempted is None else record.preempted
    preempted_ends = np.searchsorted(preempted[:, 0], edges_s, side="right")
    gauges = levels(record, members, fleet, edges_s)
    done = changed = 0
    g = b = e = a = p = 0
    before_s, before_j = 0.0, np.zeros(len(fleet.groups))
    for k, now_s in enumerate(edges_s.tolist()):
        tally.steps(rows(steps, done, step_ends[k]), _slice(gaps, g, gap_ends[k]))
        work.add(priced[:, :, k])
        tally.begun(_slice(begun, b, begun_ends[k]))
        tally.ended(_slice(ended, e, ended_ends[k]))
        tally.answered(*(column[a : answered_ends[k]] for column in answered))
        tally.preempted(preempted[p : preempted_ends[k]])
        p = preempted_ends[k]
        done, g, b, e, a = step_ends[k], gap_ends[k], begun_ends[k], ended_ends[k], answered_ends[k]
        while changed < len(changes) and changes[changed][0] <= now_s:
            presence.change(changes[changed : changed + 1])
            changed += 1
        energy_j = work.joules(presence.held_s(now_s))
        power_w = (
            (energy_j - before_j) / (now_s - before_s)
            if now_s > before_s
            else work.idle_w(presence.held)
        )
        before_s, before_j = now_s, energy_j
        yield take(tally, presence, work, gauges[k], now_s, energy_j, power_w)


# --- requests ------------------------------------------------------------------------------------


def _begun(record: RunRecord, fleet: Fleet) -> tuple[Begun, Floats]:
    """Requests whose client heard a first token, and when it left the engine. What a crash took
    from a client is not told again."""
    first_s, engine = record.first_token_s.copy(), record.replica.copy()
    if record.lives is not None:
        lost, start_s = record.lives.lost, record.start_s.copy()
        for row in range(len(lost.request) - 1, -1, -1):
            index, replica = lost.request[row], lost.replica[row]
            if np.isfinite(lost.first_token_s[row]):
                first_s[index] = lost.first_token_s[row]
                engine[index] = replica
            elif first_s[index] - fleet.back_s[replica] < start_s[index] + _SOONEST_S:
                engine[index] = replica  # it had begun when the next attempt started
            start_s[index] = lost.start_s[row]
    chosen = np.flatnonzero(np.isfinite(first_s))
    engine = engine[chosen]
    prompt_engine, landed = engine, np.zeros(len(chosen), dtype=np.int64)
    if record.stages is not None:
        prompt_engine = record.stages.prefill_replica[chosen]
        landed = np.isfinite(record.stages.landed_s[chosen]).astype(np.int64)
    begun = Begun(
        engine=engine,
        prompt_engine=prompt_engine,
        ttft_s=(first_s - record.sent_s)[chosen] - 2.0 * fleet.network_s,
        prompt=record.requests.input_tokens[chosen],
        cached=record.cached_tokens[chosen],
        landed=landed,
    )
    return begun, first_s[chosen] - fleet.back_s[engine]


def _ended(record: RunRecord, fleet: Fleet) -> tuple[Ended, Floats]:
    """Requests that are over, and when."""
    chosen = np.flatnonzero((record.outcome != UNFINISHED) & np.isfinite(record.sent_s))
    places = np.full(len(_OUTCOME) + 1, -1)
    for outcome, name in _OUTCOME.items():
        places[outcome] = OUTCOMES.index(name)
    answers = record.requests.answers
    reason = np.full(len(record.outcome), REASONS.index("stop"))
    if answers is not None:
        reason[answers.truncated] = REASONS.index("length")
    engine = record.replica[chosen]
    back_s = fleet.back_s[engine]
    finish_s = record.finish_s[chosen] - back_s
    ended = Ended(
        engine=engine,
        outcome=places[record.outcome[chosen]],
        reason=reason[chosen],
        queued_s=record.queued_s[chosen],
        start_s=record.start_s[chosen],
        first_s=record.first_token_s[chosen] - back_s,
        finish_s=finish_s,
        e2e_s=(record.finish_s - record.sent_s)[chosen] - 2.0 * fleet.network_s,
        prompt=record.requests.input_tokens[chosen],
        output=record.requests.output_tokens[chosen],
        cached=record.cached_tokens[chosen],
        preemptions=record.preemptions[chosen],
        max_tokens=np.full(len(chosen), np.nan),
    )
    at_s = record.sent_s + fleet.network_s
    timeout_s = fleet.deployment.scenario.deployment.timeout_s
    if timeout_s is not None:
        gave_up = record.outcome == TIMED_OUT
        at_s[gave_up] = record.sent_s[gave_up] + timeout_s
    if record.lives is not None:
        at_s[record.lives.gone[:, 0].astype(np.int64)] = record.lives.gone[:, 1]
    left_s = record.finish_s[chosen] - fleet.network_s
    return ended, np.where(np.isfinite(left_s), left_s, at_s[chosen])


def _answered(record: RunRecord) -> tuple[tuple[Ints, Ints, Ints], Floats]:
    """Replica, number of answers and tokens of the longest one of requests all of whose answers
    are complete, and when they were."""
    times, answers = times_of(record), record.requests.answers
    output = record.requests.output_tokens
    chosen = np.flatnonzero(times.completed)
    count = np.ones(len(output), dtype=np.int64)
    longest = output
    if answers is not None:
        leads = np.flatnonzero(answers.leads)
        count[leads] = np.diff(np.append(leads, len(output)))
        longest = output.copy()
        longest[leads] = np.maximum.reduceat(output, leads)
    finish_s = times.finish_s if answers is None else record.finish_s
    if answers is not None:
        finish_s = finish_s.copy()
        finish_s[leads] = np.maximum.reduceat(record.finish_s, leads)
    return (record.replica[chosen], count[chosen], longest[chosen]), finish_s[chosen]


# --- order of time -------------------------------------------------------------------------------


def _by_time(columns: T, at_s: Floats, edges_s: Floats) -> tuple[T, Ints]:
    """Columns in the order of time, and how many rows there are up to each edge; what comes after
    the last edge counts there."""
    order = np.argsort(at_s, kind="stable")
    ends = np.searchsorted(at_s[order], edges_s, side="right")
    ends[-1] = len(order)
    return _pick(columns, order), ends


def _pick(columns: T, chosen: Ints | slice) -> T:
    if isinstance(columns, tuple):
        return tuple(column[chosen] for column in columns)  # type: ignore[return-value]
    picked = {f.name: getattr(columns, f.name)[chosen] for f in fields(columns)}  # type: ignore[arg-type]
    return type(columns)(**picked)


def _slice(columns: T, start: int, stop: int) -> T:
    return _pick(columns, slice(start, stop))
