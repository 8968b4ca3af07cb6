"""Does one task, in whatever process it comes to."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import partial
from time import perf_counter

import numpy as np

from simulator.errors import UserError
from simulator.planner.jobs.hopeless import watch_for
from simulator.planner.jobs.origin import files_behind
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.requests import Requests

THREADS = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)
"""What keeps numeric libraries to one thread, in the environment of a process that does tasks."""


def do_task(task: Task) -> Outcome:
    """Simulates a task's scenario.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was simulated until then is no outcome.
        Exception: an error of ours, with the task's key in a note.
    """
    began = perf_counter()
    try:
        watch = watch_for(task.limits, task.scenario)
        result = simulate(
            task.scenario, intervals=task.intervals, watch=watch, traffic=partial(traffic_of, task)
        )
        hopeless = result.record.reason
        if result.record.interrupted and not hopeless:
            raise KeyboardInterrupt
        summary = result.summary()
    except UserError as error:
        return Outcome(task.key, problem=str(error), wall_s=perf_counter() - began)
    except Exception as error:
        error.add_note(f"while simulating task {task.key} ({task.scenario.name})")
        raise
    del summary["scenario"]
    return Outcome(task.key, summary, hopeless=hopeless, wall_s=perf_counter() - began)


_MOST_TRAFFIC = 4
"""A search gives a few seeds' traffic to many deployments."""

_built: OrderedDict[str, Requests] = OrderedDict()


def traffic_of(task: Task) -> Requests:
    """The requests of a task's scenario, built once for tasks that share them: they follow from the
    workload, the seed and what files hold."""
    scenario = task.scenario
    workload = scenario.workload.model_dump(mode="json")
    seed = scenario.measurement.seed
    key = json.dumps([workload, seed, files_behind(workload)])
    requests = _built.get(key)
    if requests is None:
        requests = build_requests(scenario.workload, np.random.default_rng(seed))
        _built[key] = requests
        if len(_built) > _MOST_TRAFFIC:
            _built.popitem(last=False)
    else:
        _built.move_to_end(key)
    return requests
