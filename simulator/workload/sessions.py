"""Conversations of several turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simulator.scenario.workload import SessionsWorkload
from simulator.workload.arrivals import arrival_times, check_size
from simulator.workload.lengths import draw_lengths
from simulator.workload.prefixes import conversations
from simulator.workload.randomness import Generators, spawn_generators
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats, Ints, Requests
from simulator.workload.sampling import shaped
from simulator.workload.synthetic import describe_arrivals, draw_groups, no_requests, pauses


def build_sessions(
    workload: SessionsWorkload,
    rng: np.random.Generator,
    base: Path | None = None,
    where: str = "workload",
) -> Requests:
    """Turns of all sessions, one session after the other by start, each turn behind its parent.

    The prompt of turn k is the system prompt, the user's messages 1..k and the answers 1..k-1.

    Raises:
        ScenarioError: no session starts, too many turns, or a distribution has nothing left.
    """
    generators = spawn_generators(rng)
    notes: list[str] = []
    starts, turns = _starts_and_turns(workload, generators, base, where, notes)
    n = int(turns.sum())
    session = np.repeat(np.arange(len(turns), dtype=np.int64), turns)
    first = np.cumsum(turns) - turns
    is_root = np.zeros(n, dtype=np.bool_)
    is_root[first] = True

    user = draw_lengths(
        workload.user_tokens, n, generators.input, where=f"{where}.user_tokens", notes=notes
    )
    outputs = draw_lengths(
        workload.output_tokens, n, generators.output, where=f"{where}.output_tokens", notes=notes
    )
    outputs, answers = shaped(workload, outputs, generators, where, notes)
    # Thinking is left out of what later turns repeat.
    said = outputs if answers is None else outputs - answers.thinking
    system = workload.system_prompt
    system_tokens = system.tokens if system is not None else 0
    group = None
    if system is not None:
        group = draw_groups(system, len(turns), generators.prefix)[session]
    inputs = system_tokens + _said_so_far(user, said, first, session)

    pause_s = pauses(workload.think_time_s, workload.think_distribution, n, generators.pause)
    index = np.arange(n, dtype=np.int64)
    return Requests(
        arrival_s=np.where(is_root, starts[session], pause_s),
        input_tokens=inputs,
        output_tokens=outputs,
        class_id=np.zeros(n, dtype=np.int64),
        parent=np.where(is_root, ROOT, index - 1),
        pool=np.full(n, OPEN_LOOP, dtype=np.int64),
        session=session,
        prefixes=conversations(
            session, inputs, group, system_tokens, continues=workload.reasoning is None
        ),
        answers=answers,
        source=f"sessions: {n:,} turns of {len(turns):,} sessions, "
        f"{describe_arrivals(workload.arrivals)}",
        notes=tuple(notes),
    )


def _starts_and_turns(
    workload: SessionsWorkload,
    generators: Generators,
    base: Path | None,
    where: str,
    notes: list[str],
) -> tuple[Floats, Ints]:
    """Start (seconds) and number of turns of each session, each (sessions,)."""
    sessions = None
    if workload.requests is not None:
        check_size(workload.requests, f"{where}.requests")
        # As many sessions as would do if each had a single turn; the rest is cut off below.
        turns = _turns(workload, workload.requests, generators, where, notes)
        through = np.cumsum(turns)
        sessions = int(np.searchsorted(through, workload.requests)) + 1
        turns = turns[:sessions]
        over = int(through[sessions - 1]) - workload.requests
        if over:
            notes.append(f"{where}: the last session ends {over} turns early to make the number up")
            turns[-1] -= over
    starts = arrival_times(
        workload.arrivals,
        generators.arrivals,
        requests=sessions,
        duration_s=workload.duration_s,
        where=where,
        base=base,
    )
    if len(starts) == 0:
        raise no_requests(workload.duration_s, where)
    if sessions is None:
        turns = _turns(workload, len(starts), generators, where, notes)
        check_size(int(turns.sum()), f"{where}.duration_s")
    return starts, turns


def _turns(
    workload: SessionsWorkload, n: int, generators: Generators, where: str, notes: list[str]
) -> Ints:
    return draw_lengths(workload.turns, n, generators.turns, where=f"{where}.turns", notes=notes)


def _said_so_far(user: Ints, outputs: Ints, first: Ints, session: Ints) -> Ints:
    """Everything said in the session up to and including each turn's message, shape (n,)."""
    through = np.cumsum(user + outputs) - outputs
    before = (through - user)[first]
    return through - before[session]
