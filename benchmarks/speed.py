"""Simulated requests a second, against a naive stepper of the same semantics in the same process.

    python benchmarks/speed.py                    # the table of docs/speed.md
    python benchmarks/speed.py --scale            # 10,000 to 1,000,000 requests, memory
    python benchmarks/speed.py --startup          # time of the command's first answers
    python benchmarks/speed.py --drafts           # with and without speculative decoding

Times of different machines cannot be compared, so every figure stands beside the naive stepper's
(tests/oracle.py: every sequence is looked at in every step, every token gets a time stamp).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulator.cluster import run_cluster  # noqa: E402
from simulator.resolve import Resolved, resolve  # noqa: E402
from simulator.results.record import RunRecord  # noqa: E402
from simulator.scenario import Scenario  # noqa: E402
from simulator.scenario.routers import LeastOutstandingRouter  # noqa: E402
from simulator.workload.requests import OPEN_LOOP, Requests  # noqa: E402
from simulator.workload.requests import ROOT as NO_PARENT  # noqa: E402

SHAPES = ((512, 128), (2000, 500))
LOAD = 0.7
NAIVE_REQUESTS = 1500
ROUNDS = 5
"""Everything is run so often, in turn, and the fastest run counts: what else the machine does only
ever makes a run slower."""


def deployment(
    *, model: str = "llama-3.1-8b", parallelism: dict[str, int] | None = None, **engine: object
) -> Resolved:
    """A model on H100s with vLLM's defaults, and what else the engine is told."""
    return resolve(
        Scenario.model_validate(
            {
                "model": model,
                "hardware": "h100-sxm",
                "parallelism": parallelism or {},
                "engine": {"profile": "vllm", **engine},
                "workload": {
                    "kind": "synthetic",
                    "requests": 1,
                    "arrivals": {"kind": "burst"},
                    "lengths": {
                        "kind": "independent",
                        "input": {"kind": "fixed", "tokens": 1},
                        "output": {"kind": "fixed", "tokens": 1},
                    },
                },
            }
        )
    )


def poisson(n: int, rate: float, prompt: int, output: int) -> Requests:
    """N requests of one shape at a Poisson rate; all at once for an infinite one."""
    gaps = np.random.default_rng(0).exponential(1.0, n)
    return Requests(
        arrival_s=np.cumsum(gaps) / rate if np.isfinite(rate) else np.zeros(n),
        input_tokens=np.full(n, prompt),
        output_tokens=np.full(n, output),
        class_id=np.zeros(n, dtype=np.int64),
        parent=np.full(n, NO_PARENT),
        pool=np.full(n, OPEN_LOOP),
        session=np.full(n, -1),
    )


def run(resolved: Resolved, requests: Requests, replicas: int) -> RunRecord:
    """One simulation with everything recorded."""
    return run_cluster(
        requests,
        resolved.deployment.limits,
        resolved.layout.blocks,
        resolved.cost,
        layout=resolved.layout,
        replicas=replicas,
        router=LeastOutstandingRouter(),
        front_end=resolved.front_end,
    )


def capacity(resolved: Resolved, prompt: int, output: int) -> float:
    """Requests/s that one replica sustains: the rate at which a saturated one lets them go,
    between a quarter and three quarters of the way."""
    record = run(resolved, poisson(4000, np.inf, prompt, output), 1)
    finish = np.sort(record.finish_s)
    return 2000 / float(finish[3000] - finish[1000])


def naive_rate(resolved: Resolved, requests: Requests) -> float:
    """Requests/s of the naive stepper."""
    from oracle import run_oracle

    started = perf_counter()
    limits, blocks = resolved.deployment.limits, resolved.layout.blocks
    run_oracle(requests, limits, blocks, resolved.cost, front_end=resolved.front_end)
    return len(requests) / (perf_counter() - started)


def table(n: int) -> None:
    """The benchmark of docs/speed.md."""
    resolved = deployment()
    print(f"{n:,} requests, Poisson at {LOAD:.0%} of capacity, all metrics recorded, one core")
    print(f"fastest of {ROUNDS} interleaved rounds")
    print("shape      replicas  sim. requests/s  naive stepper  ratio  rows/request  steps/request")
    for prompt, output in SHAPES:
        rate = LOAD * capacity(resolved, prompt, output)
        naive = 0.0
        fast = dict.fromkeys((1, 4, 16), 0.0)
        sizes = {}
        for _ in range(ROUNDS):
            few = poisson(NAIVE_REQUESTS, rate, prompt, output)
            naive = max(naive, naive_rate(resolved, few))
            for replicas in fast:
                record = run(resolved, poisson(n, rate * replicas, prompt, output), replicas)
                fast[replicas] = max(fast[replicas], n / record.wall_s)
                sizes[replicas] = len(record.steps) / n, record.steps.steps.sum() / n
        for replicas, speed in fast.items():
            rows, steps = sizes[replicas]
            print(
                f"{prompt}/{output:<7} {replicas:>6}  {speed:>15,.0f}  {naive:>13,.0f}  "
                f"{speed / naive:>4.0f}×  {rows:>12.2f}  {steps:>13.2f}",
                flush=True,
            )


def scale() -> None:
    """Cost a request from 10,000 to 1,000,000 requests over 16 replicas, and memory."""
    resolved = deployment()
    rate = LOAD * capacity(resolved, 512, 128)
    print("requests    sim. requests/s  peak memory")
    for n in (10_000, 100_000, 1_000_000):
        record = run(resolved, poisson(n, rate * 16, 512, 128), 16)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{n:>9,}  {n / record.wall_s:>15,.0f}  {peak:>8,.0f} MB", flush=True)
        del record


def startup() -> None:
    """Wall time of fresh processes, best of five."""
    commands = {
        "simulate --help": ["--help"],
        "simulate check": ["check", "examples/chat-8b-h100.yaml"],
        "simulate run, all files": ["run", "examples/chat-8b-h100.yaml", "--out", "{out}"],
    }
    import tempfile

    for name, arguments in commands.items():
        best = float("inf")
        for _ in range(5):
            with tempfile.TemporaryDirectory() as folder:
                words = [a.format(out=f"{folder}/out") for a in arguments]
                started = perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "simulator", *words],
                    cwd=ROOT, check=True, capture_output=True,
                )  # fmt: skip
                best = min(best, perf_counter() - started)
        print(f"{name:<26} {best:.2f} s")


def drafts(n: int) -> None:
    """With and without three drafted tokens, at shares of what one replica sustains without."""
    kinds = {
        "plain": deployment(),
        "drafts": deployment(speculative={"kind": "eagle", "tokens": 3, "acceptance": 0.7}),
    }
    print("shape      load  kind    sim. requests/s  rows/request  sequences a step")
    for prompt, output in SHAPES:
        most = capacity(kinds["plain"], prompt, output)
        for load in (0.2, LOAD, 0.9):
            requests = poisson(n, load * most, prompt, output)
            speed = dict.fromkeys(kinds, 0.0)
            said = {}
            for _ in range(ROUNDS):
                for name, resolved in kinds.items():
                    record = run(resolved, requests, 1)
                    speed[name] = max(speed[name], n / record.wall_s)
                    steps = record.steps
                    each = (steps.decode * steps.steps).sum() / steps.steps.sum()
                    said[name] = f"{len(steps) / n:>12.2f}  {each:>16.1f}"
            for name, rate in speed.items():
                print(f"{prompt}/{output:<7} {load:>4.0%}  {name:<7} {rate:>15,.0f}  {said[name]}")


def lanes(n: int) -> None:
    """Replicas with several schedulers beside those with one, each at 70% of what it sustains."""
    dense = {"tp 1": {}, "pp 2": {"pp": 2}, "pp 4": {"pp": 4}, "pp 8": {"pp": 8}}
    sparse = {"tp 4, ep 4": {"tp": 4, "ep": 4}, "dp 4, ep 4": {"dp": 4, "ep": 4}}
    print("shape      layout      sim. requests/s  rows/request  steps/request")
    for model, layouts in (("llama-3.1-8b", dense), ("qwen3-30b-a3b", sparse)):
        kinds = {
            name: deployment(model=model, parallelism=layout) for name, layout in layouts.items()
        }
        for prompt, output in SHAPES:
            traffic = {
                name: poisson(n, LOAD * capacity(resolved, prompt, output), prompt, output)
                for name, resolved in kinds.items()
            }
            speed = dict.fromkeys(kinds, 0.0)
            said = {}
            for _ in range(ROUNDS):
                for name, resolved in kinds.items():
                    record = run(resolved, traffic[name], 1)
                    speed[name] = max(speed[name], n / record.wall_s)
                    rows, steps = len(record.steps), record.steps.steps.sum()
                    said[name] = f"{rows / n:>12.2f}  {steps / n:>13.2f}"
            for name, rate in speed.items():
                print(f"{prompt}/{output:<7} {name:<10} {rate:>16,.0f}  {said[name]}", flush=True)


def main() -> None:
    """Runs the benchmark that the options name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--drafts", action="store_true")
    parser.add_argument("--lanes", action="store_true")
    options = parser.parse_args()
    if options.scale:
        scale()
    elif options.startup:
        startup()
    elif options.drafts:
        drafts(min(options.requests, 2000))
    elif options.lanes:
        lanes(min(options.requests, 2000))
    else:
        table(options.requests)


if __name__ == "__main__":
    main()
