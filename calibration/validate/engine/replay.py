"""Measured durations put on the simulator's clock: a real run becomes a record like any other, and
every step is checked on the way to be the one that the simulator plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calibration.engine.serve import DoneStep
from simulator.cluster import run_cluster
from simulator.costs.protocol import Chunk, StepCost
from simulator.errors import UserError
from simulator.resolve import Resolved
from simulator.results.record import RunRecord
from simulator.workload.requests import Requests

CLOSE_S = 1e-6
"""Two clocks that add the same durations may differ by rounding, and by nothing else."""


class PlansDifferError(UserError):
    """Engine and simulator planned different steps though both saw the same times: our mistake."""

    exit_code = 1


class _Shape(NamedTuple):
    """What a cost model is asked with."""

    decode: int
    context: int
    local_context: int
    chunks: tuple[Chunk, ...]
    sampled: int

    @classmethod
    def of(cls, step: DoneStep) -> _Shape:
        return cls(step.decode, step.context, step.local_context, step.chunks, step.sampled)

    def told(self) -> str:
        """3 decoding over 120 tokens, prompts of 16 after 0 and 5 after 32, 4 sampled."""
        parts = []
        if self.decode:
            local = f" ({self.local_context} in windows)" if self.local_context else ""
            parts.append(f"{self.decode} decoding over {self.context} tokens{local}")
        if self.chunks:
            chunks = " and ".join(f"{new} after {past}" for new, past in self.chunks)
            parts.append(f"prompts of {chunks}")
        return ", ".join([*parts, f"{self.sampled} sampled"])


class Replay:
    """Answers the n-th question with the n-th measured duration (``StepCost``).

    Args:
        steps: as they ran.
        predicted: the cost model that is replaced.

    Raises:
        PlansDifferError: from a question about another step than the one that ran.
    """

    def __init__(self, steps: Sequence[DoneStep], predicted: StepCost) -> None:
        self.local_span = predicted.local_span
        self.local_is_chunked = predicted.local_is_chunked
        self._steps = steps
        self._asked = 0

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; no straight line goes through two measurements."""
        return self._answer(sequences, context, local_context, (), sequences), 0.0, 1

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        return self._answer(sequences, context, local_context, tuple(chunks), sampled)

    def check_all_asked(self) -> None:
        """Raises a PlansDifferError if the simulator was done before the engine."""
        if self._asked < len(self._steps):
            ran = _Shape.of(self._steps[self._asked]).told()
            raise _differ(self._asked, f"ran {ran}", "planned nothing more")

    def _answer(
        self,
        decode: int,
        context: int,
        local_context: int,
        chunks: tuple[Chunk, ...],
        sampled: int,
    ) -> float:
        number = self._asked
        planned = _Shape(decode, context, local_context, chunks, sampled)
        if number == len(self._steps):
            raise _differ(number, "was done", f"planned {planned.told()}")
        ran = _Shape.of(self._steps[number])
        if planned != ran:
            raise _differ(number, f"ran {ran.told()}", f"planned {planned.told()}")
        self._asked += 1
        return self._steps[number].seconds


def replay(requests: Requests, resolved: Resolved, steps: Sequence[DoneStep]) -> RunRecord:
    """The record of a real run.

    Args:
        requests: what was served.
        resolved: the deployment that served it, alone and without a front end.
        steps: all steps in their order.

    Raises:
        PlansDifferError: the simulator plans other steps, or counts other times.
        KeyboardInterrupt: Ctrl-C.
    """
    cost = Replay(steps, resolved.cost)
    scenario = resolved.deployment.scenario
    record = run_cluster(
        requests,
        resolved.deployment.limits,
        resolved.layout.blocks,
        cost,
        layout=resolved.layout,
        router=scenario.deployment.router,
        seed=scenario.measurement.seed,
    )
    if record.interrupted:
        raise KeyboardInterrupt
    cost.check_all_asked()
    _check_times(record, steps)
    return record


def _check_times(record: RunRecord, steps: Sequence[DoneStep]) -> None:
    """All tokens come at ends of steps, so equal steps mean equal times of all requests."""
    table = record.steps
    for name, ran, counted in (
        ("starts", [step.start_s for step in steps], table.start_s),
        ("ends", [step.end_s for step in steps], table.start_s + table.duration_s),
    ):
        away = np.abs(np.asarray(ran) - counted)
        if len(away) and away.max() > CLOSE_S:
            worst = int(away.argmax())
            raise _differ(
                worst, f"{name} it at {ran[worst]:.9f} s", f"at {float(counted[worst]):.9f} s"
            )
    ends = np.array([step.end_s for step in steps])
    finished = record.finish_s[np.isfinite(record.finish_s)]
    nearest = ends[np.clip(np.searchsorted(ends, finished - CLOSE_S), 0, len(ends) - 1)]
    if len(finished) and np.abs(nearest - finished).max() > CLOSE_S:
        raise PlansDifferError("a request ended at no end of a step of the engine")


def _differ(number: int, ran: str, planned: str) -> PlansDifferError:
    return PlansDifferError(
        f"the plans differ at step {number}: the engine {ran}, the simulator {planned}"
    )
