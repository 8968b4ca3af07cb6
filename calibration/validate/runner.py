"""Reruns the points of a dataset, on all cores, keeping every result at once."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType

from calibration.validate.formats import Target, target
from calibration.validate.loads import unsaid
from calibration.validate.measured import Dataset, Skipped
from calibration.validate.metrics import Comparison
from calibration.validate.offline import limited
from calibration.validate.point import Point
from calibration.validate.prediction import Prediction, code_digest, predict
from calibration.validate.protocol import exclusion, scenario_of, trace_name, trace_text
from calibration.validate.splits import group_seen, half_of
from calibration.validate.store import Store
from simulator import Scenario, __version__
from simulator.errors import UserError

_WORTH_A_PROCESS = 16
"""Simulations that take about as long as a process takes to start."""

Progress = Callable[[int, int], None]
"""Called with points done and points in all."""

Alive = Callable[[], None]
"""Called every fraction of a second; what it raises ends the run, and what is finished is kept."""

_PATIENCE_S = 0.2

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Validation:
    """The outcome.

    Args:
        dataset: its name.
        comparisons: points that were simulated, in the order of the file.
        skipped: rows that were not, and why.
        computed: simulations of this run; the others were found in the folder.
    """

    dataset: str
    comparisons: tuple[Comparison, ...]
    skipped: tuple[Skipped, ...]
    computed: int


@dataclass(frozen=True, slots=True)
class _Job:
    """A simulation that is wanted."""

    key: str
    scenario: Scenario
    effort: float


def validate(
    dataset: Dataset,
    folder: Path,
    *,
    split: str = "all",
    where: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
    each: Callable[[Comparison], None] | None = None,
    alive: Alive | None = None,
) -> Validation:
    """Simulates every point and pairs it with its measurement.

    Args:
        dataset: from ``read_dataset``.
        folder: where predictions are kept; those of an earlier run with the same program are used.
        split: ``fit``, ``validation`` or ``all``; rows that the file's reader skipped belong to
            ``all`` alone.
        where: pairs of a point's field and the value it must have.
        limit: at most so many points, the first ones.
        processes: default: one for each core. Results do not depend on it.
        progress: hears of finished points.
        each: is given every point as it is finished, those of an earlier run first.
        alive: may end the run.

    Raises:
        UserError: the folder cannot be used, or ``where`` names no field.
        KeyboardInterrupt: Ctrl-C; what was simulated is kept.
    """
    points = [p for p in dataset.points if _wanted(p, split, where)][:limit]
    skipped = list(dataset.skipped) if not where and split == "all" else []
    jobs: dict[str, _Job] = {}
    keys: list[tuple[Point, str]] = []
    with Store(folder) as store:
        for point in points:
            try:
                found = target(point)
                reason = exclusion(point, found) or unsaid(point, found)
                scenario = scenario_of(limited(point, found), found)
            except UserError as error:
                reason = str(error)
            if reason:
                skipped.append(Skipped(point.id, reason))
                continue
            key = _key(scenario, found)
            keys.append((point, key))
            if key not in store.found:
                jobs.setdefault(key, _Job(key, scenario, point.osl * (point.concurrency or 64)))
                write_trace(point, folder)
        done, total = len(keys) - len(jobs), len(keys)
        if each is not None:
            _tell(each, [(point, store.found[key]) for point, key in keys if key not in jobs])
        for key, prediction in _results(list(jobs.values()), folder, processes, alive):
            store.add(key, prediction)
            if each is not None:
                _tell(each, [(point, prediction) for point, other in keys if other == key])
            done += 1
            if progress is not None:
                progress(done, total)
        comparisons = []
        for point, key in keys:
            prediction = store.found[key]
            if "refused" in prediction:
                skipped.append(
                    Skipped(point.id, f"the simulator refuses it: {prediction['refused']}")
                )
            else:
                comparisons.append(_compared(point, prediction))
    return Validation(dataset.name, tuple(comparisons), tuple(skipped), len(jobs))


def _compared(point: Point, prediction: Prediction) -> Comparison:
    return Comparison(point, prediction, half_of(point), group_seen(point))


def _tell(each: Callable[[Comparison], None], found: Sequence[tuple[Point, Prediction]]) -> None:
    for point, prediction in found:
        if "refused" not in prediction:
            each(_compared(point, prediction))


def _wanted(point: Point, split: str, where: Sequence[tuple[str, str]]) -> bool:
    if split != "all" and half_of(point) != split:
        return False
    for field, value in where:
        if field not in FIELDS:
            raise UserError(
                f"there is no field '{field}'",
                where="--where",
                hint=f"known are {', '.join(FIELDS)}",
            )
        own = getattr(point, field)
        text = f"{own:g}" if isinstance(own, float) else str(own)
        if value not in (text, text.rpartition("/")[2]):
            return False
    return True


FIELDS = (
    "id", "model", "system", "engine", "version", "precision", "isl", "osl", "concurrency", "tp",
    "attention_dp", "moe_ep",
    "group",
)  # fmt: skip
"""What ``where`` can ask for."""


def _key(scenario: Scenario, found: Target) -> str:
    """Hash of all that a prediction depends on."""
    digest = hashlib.sha256()
    for part in (
        __version__,
        code_digest(),
        scenario.model_dump_json(),
        repr(found.model),
        found.hardware.model_dump_json(),
        found.engine.model_dump_json(),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def write_trace(point: Point, folder: Path) -> None:
    """The requests of a replayed point, as a file that its scenario names."""
    if point.trace is None:
        return
    file = folder / trace_name(point)
    if not file.exists():
        file.write_text(trace_text(point), encoding="utf-8")


# --- processes -----------------------------------------------------------------------------------


def _results(
    jobs: list[_Job], folder: Path, processes: int | None, alive: Alive | None
) -> Iterator[tuple[str, Prediction]]:
    jobs.sort(key=lambda job: (-job.effort, job.key))  # the longest first, so that none ends last
    with pool_for(len(jobs), processes) as pool:
        if pool is None:
            for job in jobs:
                yield job.key, predict(job.scenario, folder, intervals=True, alive=alive)
            return
        pending: dict[Future[Prediction], str] = {
            pool.submit(predict, job.scenario, folder, intervals=True): job.key for job in jobs
        }
        for future in _as_completed(pending, alive):
            yield pending[future], future.result()


def _as_completed(
    futures: Iterable[Future[Prediction]], alive: Alive | None
) -> Iterator[Future[Prediction]]:
    left = set(futures)
    while left:
        done, left = wait_for(left, _PATIENCE_S, FIRST_COMPLETED)
        if alive is not None:
            alive()
        yield from done


@contextmanager
def pool_for(jobs: int, processes: int | None = None) -> Iterator[ProcessPoolExecutor | None]:
    """Processes for so many simulations; None if they are not worth any.

    Raises:
        UserError: a process was ended from outside.
    """
    count = min(processes or min(cores(), jobs // _WORTH_A_PROCESS), jobs)
    if count <= 1:
        yield None
        return
    for name in _THREADS:  # before the processes start, which inherit it
        os.environ.setdefault(name, "1")
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start)
    try:
        with _without_main():
            for _ in range(count):  # one process for each, because none is idle yet
                pool.submit(_nothing)
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a process ended in the middle of its work, for lack of memory perhaps",
            hint="use fewer --processes; what is finished is kept",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started now do not run the program's main file again, which in the
    dashboard is a page."""
    own, blank = sys.modules["__main__"], ModuleType("__main__")
    sys.modules["__main__"] = blank
    try:
        yield
    finally:
        if sys.modules["__main__"] is blank:  # the dashboard's threads set it, too
            sys.modules["__main__"] = own


def _nothing() -> None:
    pass


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start() -> None:
    """A worker leaves Ctrl-C to its parent and ends when the parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "workers are started by a parent"

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
