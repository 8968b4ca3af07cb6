"""How long it takes to plan: Llama-3.1-70B on every GPU with a price, from space to recommendation.

    python benchmarks/plan.py [--workers N]

Prints the deployments to choose from, what became of them, and deployments judged a second; beside
it what one simulation takes here, since machines differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from simulator.planner.document import Asked, load_plan
from simulator.planner.jobs.backends.local import LocalBackend, cores
from simulator.planner.jobs.work import Work
from simulator.planner.plan import plan
from simulator.scenario import load_scenario
from simulator.simulation import simulate
from simulator.yamlio import parse_yaml

STUDY = "study-gpu-for-chat"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=cores())
    workers = parser.parse_args().workers
    study = load_plan(STUDY)
    space = study.plan.space.model_copy(update={"hardware": "priced"})
    asked = Asked(study.plan.model_copy(update={"space": space}), study.scenario, study.located)
    started = time.perf_counter()
    with Work(LocalBackend(workers)) as work:
        report = plan(asked, work)
        done = work.standing
    wall_s = time.perf_counter() - started
    started = time.perf_counter()
    winner, _ = parse_yaml(report["winner"]["scenario"], Path("winner"))
    simulate(load_scenario(winner), intervals=False).summary()
    one_s = time.perf_counter() - started
    found = report["space"]
    count = found["deployments"]
    print(f"{count:,} deployments of {found['kinds_that_run']} kinds, {workers} workers")
    print(f"ruled out by bounds: {found['ruled_out_by_bounds']:,}")
    print(f"simulations: {done.simulated:,} ({done.hopeless} ended early)")
    print(f"wall: {wall_s:.1f} s, {count / wall_s:,.0f} deployments/s")
    each_s = one_s * count / workers
    print(f"one simulation: {one_s:.2f} s; each deployment once: {each_s:,.0f} s")
    print(f"speed-up over that: {each_s / wall_s:.0f}")
    print(f"winner: {report['winner']['label']}")


if __name__ == "__main__":
    main()
