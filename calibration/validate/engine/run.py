"""Runs a scenario on the micro-engine and in the simulator, rate by rate."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from calibration.engine.build import Engine, build_engine
from calibration.engine.clock import Pace, ThreadClock
from calibration.engine.serve import DoneStep
from calibration.measure.machine import choose_device
from calibration.validate.engine.kept import KeptRuns, run_key
from calibration.validate.engine.machine import (
    STEP_REPEATS,
    calibrated_pace,
    check_memory,
    description,
)
from calibration.validate.engine.metrics import SHARES, Figure, figures_of, spread_of
from calibration.validate.engine.rates import Load, at_once, loads_of
from calibration.validate.engine.replay import replay
from calibration.validate.engine.steps import StepErrors, errors, table_of
from simulator import __version__, simulate
from simulator.errors import UserError
from simulator.resolve import Resolved, resolve
from simulator.results import Result
from simulator.scenario.dump import compact
from simulator.scenario.scenario import Scenario
from simulator.workload.requests import Requests

Progress = Callable[[int, int], None]
"""Called with requests served and requests to serve."""

_REHEARSED = 32
"""Requests served before anything is measured: they touch every kind of step once."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A load, served and predicted.

    Args:
        load: what was sent.
        figures: metrics.
        measured, predicted: quantiles of TTFT and TPOT, ms, at ``SHARES``.
        steps: one row a step of all rounds; see ``table_of``, with ``multiple``, ``rate_per_s``
            and ``round`` before.
        predicted_steps: how many the predicted run took.
    """

    load: Load
    figures: tuple[Figure, ...]
    measured: dict[str, list[float]]
    predicted: dict[str, list[float]]
    steps: pd.DataFrame
    predicted_steps: int


@dataclass(frozen=True, slots=True)
class EngineValidation:
    """The outcome.

    Args:
        scenario: at its own rate.
        resolved: the same.
        machine: see ``description``.
        capacity_per_s: predicted; None for traffic without a rate.
        rounds: how often each load was served.
        checkpoint: whether weights were real.
        loads: in the order of serving.
        served: runs of this call; the others were found in the folder.
    """

    scenario: Scenario
    resolved: Resolved
    machine: dict[str, Any]
    capacity_per_s: float | None
    rounds: int
    checkpoint: bool
    loads: tuple[Compared, ...]
    served: int

    @property
    def steps(self) -> pd.DataFrame:
        """Of all loads."""
        return pd.concat([load.steps for load in self.loads], ignore_index=True)

    @property
    def step_errors(self) -> list[StepErrors]:
        """Over all loads."""
        return errors(self.steps)


def validate_engine(
    scenario: Scenario,
    folder: Path,
    *,
    base: Path | None = None,
    device: str | None = None,
    multiples: Sequence[float] | None = None,
    rounds: int | None = None,
    checkpoint: bool = False,
    progress: Progress | None = None,
) -> EngineValidation:
    """Serves and predicts a scenario at every rate. The prediction uses nothing of the real run.

    Args:
        scenario: for the micro-engine.
        folder: keeps real runs, and gets ``steps.parquet`` and ``engine.json``.
        base: folder that relative paths in the scenario start from.
        device: ``cpu`` or ``cuda``; default: the better one there is.
        multiples: rates, as multiples of the predicted capacity.
        rounds: how often each rate is served.
        checkpoint: read the weights beside the model's config.json instead of making them up.
        progress: see ``Progress``.

    Raises:
        UserError: the engine cannot run it.
        PlansDifferError: engine and simulator planned different steps.
        KeyboardInterrupt: Ctrl-C; what was served is kept.
    """
    chosen = choose_device(device)
    resolved = resolve(scenario, base)
    machine = description(chosen)
    loads, capacity = loads_of(scenario, resolved, multiples, base)
    turns = rounds or 1
    kept = KeptRuns(folder)
    keys = [
        [run_key(resolved, load.requests, machine, checkpoint=checkpoint, turn=turn)
         for turn in range(turns)]
        for load in loads
    ]  # fmt: skip
    missing = {key: load.requests for load, row in zip(loads, keys, strict=True) for key in row
               if kept.find(key) is None}  # fmt: skip
    host = _Host(resolved, chosen, base, checkpoint, sum(map(len, missing.values())), progress)
    compared = []
    for load, row in zip(loads, keys, strict=True):
        for key in row:
            if key in missing:
                kept.keep(key, host.serve(load.requests))
        found = [kept.find(key) for key in row]
        compared.append(_compare(load, resolved, [steps for steps in found if steps], base))
    outcome = EngineValidation(
        scenario, resolved, machine, capacity, turns, checkpoint, tuple(compared), len(missing)
    )
    _save(outcome, folder)
    return outcome


class _Host:
    """The engine, built when the first run is wanted."""

    def __init__(
        self,
        resolved: Resolved,
        device: torch.device,
        base: Path | None,
        checkpoint: bool,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._resolved, self._device, self._base = resolved, device, base
        self._checkpoint, self._total, self._progress = checkpoint, total, progress
        self._engine: Engine | None = None
        self._pace: Pace | None = None
        self._done = 0

    def serve(self, requests: Requests) -> list[DoneStep]:
        """All requests, for real; the steps."""
        with _quiet(self._device):
            engine = self._engine = self._engine or self._build(requests)
            if self._device.type == "cpu":
                clock = ThreadClock(self._pace)
                steps, _ = engine.serve(requests, clock, repeats=STEP_REPEATS, progress=self._tell)
            else:
                steps, _ = engine.serve(requests, progress=self._tell)
        self._done += len(requests)
        return steps

    def _build(self, requests: Requests) -> Engine:
        check_memory(self._resolved, self._device)
        deployment = self._resolved.deployment
        try:
            engine = build_engine(
                deployment, self._resolved.layout, self._device,
                base=self._base, checkpoint=self._checkpoint,
            )  # fmt: skip
            engine.executor.warm_up(deployment.limits.max_num_batched_tokens)
        except torch.OutOfMemoryError:
            raise UserError(
                "weights and KV cache do not fit into the memory of this device",
                where="engine.kv_cache_tokens",
                hint="set it, or engine.memory_fraction, lower",
            ) from None
        probe_s = calibrated_pace(self._resolved, description(self._device)["device"])
        if probe_s is not None:
            self._pace = Pace(probe_s)
        engine.serve(at_once(requests.first(_REHEARSED)))
        return engine

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(self._done + done, self._total)


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """On CPUs one thread, whose time the clock counts; garbage that was there before is not looked
    through again while steps are timed."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)


def _compare(
    load: Load, resolved: Resolved, runs: Sequence[list[DoneStep]], base: Path | None
) -> Compared:
    real = [Result(resolved.deployment, replay(load.requests, resolved, run), resolved.cost)
            for run in runs]  # fmt: skip
    for result in real:
        result.check_integrity()
    predicted = simulate(load.scenario, base=base)
    summary = predicted.summary()
    if predicted.record.interrupted or summary["uncertainty"] is None:
        raise KeyboardInterrupt
    tables = []
    for turn, run in enumerate(runs):
        table = table_of(run, resolved.cost)
        for at, (name, value) in enumerate(
            {"multiple": load.multiple, "rate_per_s": load.rate_per_s, "round": turn}.items()
        ):
            table.insert(at, name, pd.Series([value] * len(table), dtype="Int64" if name == "round"
                                             else "float64"))  # fmt: skip
        tables.append(table)
    return Compared(
        load,
        tuple(figures_of([result.summary() for result in real], summary)),
        spread_of(real),
        spread_of([predicted]),
        pd.concat(tables, ignore_index=True),
        int(predicted.record.steps.steps.sum()),
    )


def document(outcome: EngineValidation) -> dict[str, Any]:
    """Everything but single steps, JSON-able; errors are 100 · (predicted / measured − 1)."""
    hardware = outcome.resolved.deployment.hardware
    return {
        "product": {"name": "servecast", "version": __version__},
        "machine": outcome.machine,
        "predicted_for": {"name": hardware.name, "title": hardware.title},
        "scenario": compact(outcome.scenario),
        "rounds": outcome.rounds,
        "checkpoint": outcome.checkpoint,
        "capacity_requests_per_s": outcome.capacity_per_s,
        "loads": [_load_document(load) for load in outcome.loads],
        "steps": [found.document() for found in outcome.step_errors],
    }


def _load_document(compared: Compared) -> dict[str, Any]:
    load = compared.load
    return {
        "multiple": load.multiple,
        "rate_per_s": load.rate_per_s,
        "requests": len(load.requests),
        "steps_measured": len(compared.steps),
        "steps_predicted": compared.predicted_steps,
        "metrics": {figure.metric.path: figure.document() for figure in compared.figures},
        "quantiles": {
            "shares": [round(float(share), 2) for share in SHARES],
            "measured": compared.measured,
            "predicted": compared.predicted,
        },
        "steps": [found.document() for found in errors(compared.steps)],
    }


def _save(outcome: EngineValidation, folder: Path) -> None:
    text = json.dumps(document(outcome), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        outcome.steps.to_parquet(folder / "steps.parquet", index=False)
        (folder / "engine.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(folder)) from None
