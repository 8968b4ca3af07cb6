"""The background work of the page: validations and fits."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock

from calibration.fit.own import OwnFit, fit_own_checked, profile_text
from calibration.validate import Comparison, Validation, document, unread, validate
from dashboard.background import Report, Work
from dashboard.calibrate.points import Points
from simulator import UserError, load_engine

EVERY_S = 0.7
"""So often partial results are shown."""

_WRITING: defaultdict[Path, Lock] = defaultdict(Lock)
"""One run at a time writes to a folder."""


@dataclass(frozen=True)
class Validated:
    """What is known of a validation.

    Args:
        validation: the points that are finished.
        total: points in all, or None as long as that is not known.
        note: about columns that are not read.
    """

    validation: Validation
    total: int | None
    note: str

    @property
    def whole(self) -> bool:
        """Whether all points are finished."""
        return self.total is None


@dataclass(frozen=True)
class Fitting:
    """A fit to one's own rows.

    Args:
        fit: the outcome.
        engine: the profile that it started from.
        yaml: the new profile, as `simulate fit` writes it.
        said: what `simulate fit` prints.
    """

    fit: OwnFit
    engine: str
    yaml: str
    said: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the file, by its contents."""
        return f"{self.engine}-own-{sha256(self.yaml.encode()).hexdigest()[:8]}.yaml"


def validated(points: Points, folder: Path) -> Work[Validated]:
    """Simulates every point that ``folder`` does not hold yet.

    Args:
        points: measured.
        folder: keeps predictions.
    """

    def work(report: Report[Validated]) -> Validated:
        report.stage("reading the file")
        dataset = points.read()
        note = unread(dataset.ignored)
        found: list[Comparison] = []
        given = [time.monotonic(), len(dataset.points)]

        def each(comparison: Comparison) -> None:
            found.append(comparison)
            if time.monotonic() - given[0] > EVERY_S:
                given[0] = time.monotonic()
                partial = Validation(dataset.name, tuple(found), (), 0)
                report.give(Validated(partial, int(given[1]), note))

        def progress(done: int, total: int) -> None:
            given[1] = total
            report.progress(done, total)

        with _alone(folder, report):
            report.stage("simulating the points")
            try:
                whole = validate(
                    dataset, folder, processes=None if points.own else 1, progress=progress,
                    each=each, alive=report.alive,
                )  # fmt: skip
            except UserError as error:
                raise points.told(error) from None
        return Validated(whole, None, note)

    return work


def fitted(points: Points, engine: str, folder: Path) -> Work[Fitting]:
    """Fits the overheads of an engine to one's own rows.

    Args:
        points: measured.
        engine: name of the engine profile to start from.
        folder: for requests that are replayed.
    """

    def work(report: Report[Fitting]) -> Fitting:
        report.stage("reading the file")
        profile = load_engine(engine)
        dataset = points.read()
        said: list[str] = []
        with _alone(folder, report):
            report.stage("fitting: simulating the rows with other constants again and again")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                fit = fit_own_checked(profile, dataset.points, folder, said.append, report.progress)
            except UserError as error:
                raise points.told(error) from None
        return Fitting(fit, profile.name, profile_text(fit.profile), tuple(said))

    return work


@contextmanager
def _alone(folder: Path, report: Report[Validated] | Report[Fitting]) -> Iterator[None]:
    """Waits until a run before, cancelled perhaps, has left the folder."""
    lock = _WRITING[folder]
    while not lock.acquire(timeout=0.2):
        report.stage("waiting for the run before to end")
    try:
        yield
    finally:
        lock.release()


def figures(validation: Validation) -> dict[str, object]:
    """What `simulate validate --json` prints."""
    return document(validation.comparisons, validation.skipped)
