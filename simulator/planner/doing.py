"""Does one task, in whatever process it comes to."""

from __future__ import annotations

from time import perf_counter

from simulator.errors import UserError
from simulator.planner.hopeless import watch_for
from simulator.planner.tasks import Outcome, Task
from simulator.simulation import simulate

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
        result = simulate(task.scenario, intervals=task.intervals, watch=watch)
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
