"""How long simulations will take on this machine, from a short sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from simulator.errors import UserError
from simulator.planner.jobs.doing import traffic_of
from simulator.planner.jobs.tasks import Task
from simulator.simulation import simulate
from simulator.uncertainty import MOST_REQUESTS, first_part

SAMPLES = 3
"""Tasks that are tried."""

WARM_UP = 20
"""Requests of a run before the one that is timed."""


def estimate(tasks: Sequence[Task], workers: int) -> float | None:
    """Seconds that tasks take, several at once, where no store has any of them and none is ended
    early: see ``mean_seconds``. None where none can be simulated."""
    each = mean_seconds(tasks)
    return None if each is None else each * len(tasks) / max(1, min(workers, len(tasks)))


def mean_seconds(tasks: Sequence[Task]) -> float | None:
    """Seconds that a task takes on average, one alone.

    A few tasks, as far apart in the sequence as can be, are simulated with their first requests;
    the time a request is the same for all requests of all tasks then. Intervals count as two more
    runs of up to ``MOST_REQUESTS`` requests. None where none of them can be simulated.
    """
    if not tasks:
        return None
    chosen = [round(i * (len(tasks) - 1) / max(1, SAMPLES - 1)) for i in range(SAMPLES)]
    taken = simulated = 0.0
    for position in sorted(set(chosen)):
        try:
            seconds, requests = _tried(tasks[position])
        except UserError:
            continue
        taken += seconds
        simulated += requests
    if not simulated:
        return None
    sizes = [_size(task) for task in tasks]
    return taken / simulated * sum(sizes) / len(tasks)


def _tried(task: Task) -> tuple[float, int]:
    """Seconds, and how many requests were simulated in them."""
    some = first_part(traffic_of(task))
    few = some.first(WARM_UP) if some.open_loop else some
    simulate(task.scenario, intervals=False, traffic=lambda: few).summary()  # loads what it needs
    began = perf_counter()
    simulate(task.scenario, intervals=False, traffic=lambda: some).summary()
    return perf_counter() - began, len(some)


def _size(task: Task) -> int:
    """Requests that a task has to simulate; none where its traffic cannot be built."""
    try:
        requests = len(traffic_of(task))
    except UserError:
        return 0
    return requests + (2 * min(requests, MOST_REQUESTS) if task.intervals else 0)
