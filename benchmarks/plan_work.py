"""What it costs to have many simulations done: processes, the store, runs that end early.

    python benchmarks/plan_work.py                # all of it, about a minute
    python benchmarks/plan_work.py --only pool    # or overhead, store, hopeless, traffic

Times of different machines cannot be compared, so every figure stands beside what one process takes
without any of it. Overheads are in processor time, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from simulator.planner.constraints import Constraint  # noqa: E402
from simulator.planner.jobs import doing  # noqa: E402
from simulator.planner.jobs.backends.local import LocalBackend  # noqa: E402
from simulator.planner.jobs.doing import do_task  # noqa: E402
from simulator.planner.jobs.store import Store  # noqa: E402
from simulator.planner.jobs.tasks import Task  # noqa: E402
from simulator.scenario import Scenario, load_scenario  # noqa: E402

ROUNDS = 2
"""Everything is done so often, in turn, and the fastest counts."""


def task(seed: int, requests: int, rate_per_s: float = 10.0, limit_ms: float = 0.0) -> Task:
    """A chat on one H100, which keeps up with about 50 requests/s."""
    scenario = Scenario.model_validate(
        {
            "model": "llama-3.1-8b",
            "hardware": "h100-sxm",
            "engine": {"profile": "vllm"},
            "workload": {
                "kind": "synthetic",
                "requests": requests,
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "lengths": {
                    "kind": "independent",
                    "input": {"kind": "lognormal", "mean": 800, "cv": 1.0, "high": 8000},
                    "output": {"kind": "lognormal", "mean": 150, "cv": 0.8, "high": 1000},
                },
            },
            "measurement": {"seed": seed},
        }
    )
    limits = (Constraint(metric="ttft_ms.p99", max=limit_ms),) if limit_ms else ()
    return Task(scenario, limits=limits)


def best(*functions: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> list[float]:
    """Seconds of each, the fastest of several rounds in turn."""
    taken = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for i, function in enumerate(functions):
            began = clock()
            function()
            taken[i] = min(taken[i], clock() - began)
    return taken


def pool() -> None:
    tasks = [task(seed, 3000) for seed in range(12)]
    with LocalBackend(2) as backend:
        list(backend.run(tasks[:4]))  # workers are up
        alone, together = best(
            lambda: [do_task(each) for each in tasks], lambda: list(backend.run(tasks))
        )
    print(f"pool: 12 runs of 3,000 requests: {alone:.2f} s in one process, {together:.2f} s in two "
          f"workers: {alone / together:.2f} times as fast")  # fmt: skip
    began = perf_counter()
    with LocalBackend(2) as backend:
        next(backend.run(tasks[:2]))
        first = perf_counter() - began
    print(f"pool: the first outcome of new workers comes after {first:.2f} s")


def overhead() -> None:
    few, many = ([task(seed, 60) for seed in range(n)] for n in (50, 200))

    def spent(tasks: list[Task]) -> float:
        """Processor time of this process and of a worker from its start to its end."""
        own, children = process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with LocalBackend(2) as backend:
            list(backend.run(tasks))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            process_time()
            - own
            + sum(
                getattr(after, name) - getattr(children, name) for name in ("ru_utime", "ru_stime")
            )
        )

    for each in many:
        assert each.key
    small = min(spent(few) for _ in range(ROUNDS))
    large = min(spent(many) for _ in range(ROUNDS))
    (alone,) = best(lambda: [do_task(each) for each in many], clock=process_time)
    there, here = (large - small) / 150, alone / 200
    print(f"overhead: a run of 60 requests takes {1e3 * here:.2f} ms of processor time in one "
          f"process and {1e3 * there:.2f} ms through workers: {there / here - 1:+.1%}")  # fmt: skip


def store() -> None:
    tasks = [task(seed, 60) for seed in range(300)]
    outcome = do_task(tasks[0])
    keys = [each.key for each in tasks]
    with tempfile.TemporaryDirectory() as folder, Store(folder) as kept:
        outcomes = [type(outcome)(key, outcome.summary) for key in keys]
        began = process_time()
        for each, found in zip(tasks, outcomes, strict=True):
            kept.put(each, found)
        written = process_time() - began
        began = process_time()
        assert len(kept.get(keys)) == 300
        read = process_time() - began
        size = kept.path.stat().st_size if kept.path else 0
    print(f"store: {1e3 * written / 300:.2f} ms to keep an outcome, {1e3 * read / 300:.2f} ms to "
          f"find it again, {size / 300 / 1024:.1f} KiB each")  # fmt: skip


def hopeless() -> None:
    for rate in (40.0, 60.0, 120.0):
        whole, limited = task(1, 3000, rate), task(1, 3000, rate, limit_ms=1000.0)
        free, ended = best(
            lambda whole=whole: do_task(whole), lambda limited=limited: do_task(limited),
            clock=process_time,
        )  # fmt: skip
        outcome = do_task(limited)
        figure = do_task(whole).summary["latency"]["ttft_ms"]["p99"]
        print(f"hopeless: {rate:.0f} requests/s, p99 TTFT {figure:,.0f} ms: {1e3 * free:.0f} ms to "
              f"the end, {1e3 * ended:.0f} ms with the limit of 1,000 ms "
              f"({outcome.hopeless or 'not ended'})")  # fmt: skip


def traffic() -> None:
    mine = Task(load_scenario("chat-8b-h100"))

    def again() -> None:
        doing._built.clear()
        do_task(mine)

    fresh, shared = best(again, lambda: do_task(mine), clock=process_time)
    print(f"traffic: chat-8b-h100 takes {1e3 * fresh:.0f} ms, {1e3 * shared:.0f} ms where another "
          "task of the same traffic was before it")  # fmt: skip


PARTS = {each.__name__: each for each in (pool, overhead, store, hopeless, traffic)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    chosen = parser.parse_args().only
    for name, part in PARTS.items():
        if chosen in (None, name):
            part()


if __name__ == "__main__":
    main()
