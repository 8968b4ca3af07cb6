"""Whole steps as the engine serves them, with planning, packing and handing out.

All requests of a burst arrive at once, so that the plans do not depend on how long anything takes:
every round runs the same steps, and what differs from round to round is disturbance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibration.engine.build import Engine
from calibration.engine.clock import Pace, ThreadClock
from calibration.engine.serve import DoneStep
from calibration.measure.rows import Row, chunks_text
from calibration.measure.stage import summary
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests


def burst(number: int, prompt: int, output: int, seed: int) -> Requests:
    """Requests at time 0 with lengths from half to one and a half of the given ones."""
    rng = np.random.default_rng(seed)
    none = np.zeros(number, dtype=np.int64)
    return Requests(
        arrival_s=np.zeros(number),
        input_tokens=rng.integers(max(1, prompt // 2), 3 * prompt // 2 + 1, number),
        output_tokens=rng.integers(max(1, output // 2), 3 * output // 2 + 1, number),
        class_id=none,
        parent=none + ROOT,
        pool=none + OPEN_LOOP,
        session=none - 1,
    )


def step_rows(
    engine: Engine,
    bursts: list[Requests],
    rounds: int,
    labels: dict[str, str],
    pace: Pace | None = None,
) -> Iterator[Row]:
    """Every step of every burst, the median over rounds; on a CPU at the reference of ``pace``."""
    runs: list[list[list[DoneStep]]] = [[] for _ in bursts]
    for _ in range(rounds):
        for run, requests in zip(runs, bursts, strict=True):
            clock = ThreadClock(pace) if pace else None
            run.append(engine.serve(requests, clock)[0])
    for number, run in enumerate(runs):
        for at, same in enumerate(zip(*run, strict=True)):
            step = same[0]
            yield Row(
                "step", f"burst-{number}", *summary([s.seconds for s in same]),
                rows=step.tokens, decode=step.decode, context=step.context,
                local_context=step.local_context, chunks=chunks_text(step.chunks),
                sampled=step.sampled, host_s=summary([s.host_s for s in same])[0],
                idle=at == 0, **labels,
            )  # fmt: skip
