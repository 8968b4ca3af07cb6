"""A simulation's metrics as an OpenMetrics file, which Prometheus takes in as if it had scraped
them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from simulator.errors import UserError
from simulator.monitoring.exposition import head, printable
from simulator.monitoring.families import FAMILIES
from simulator.monitoring.fleet import Fleet
from simulator.monitoring.replay import replay
from simulator.monitoring.snapshot import Catalogue
from simulator.results.window import end_of_run
from simulator.workload.requests import Floats

if TYPE_CHECKING:
    from simulator.results.result import Result

STEP_S = 15.0
MOST_SAMPLES = 10_000_000
"""About a gigabyte of text."""


def openmetrics(
    result: Result,
    step_s: float = STEP_S,
    start: float | datetime | None = None,
    model_names: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """See ``Result.openmetrics``."""
    fleet = Fleet(result.members, result.record.groups, model_names)
    edges_s = _edges(end_of_run(result.record), step_s)
    epoch_s = _epoch(start, float(edges_s[-1]))
    _check_size(fleet, len(edges_s), step_s)
    return _written(result, fleet, edges_s, epoch_s)


def _edges(end_s: float, step_s: float) -> Floats:
    """0, the times a step apart, and the end of the run."""
    if not (math.isfinite(step_s) and step_s >= 0.001):
        raise UserError(
            f"must be at least a millisecond, not {step_s:g} s", where="the step of the metrics"
        )
    if end_s / step_s > MOST_SAMPLES:
        _refuse(end_s / step_s, 1, step_s)
    edges_s = np.arange(0.0, end_s, step_s)
    if len(edges_s) > 1 and end_s - edges_s[-1] < 0.001:  # Prometheus counts milliseconds
        edges_s = edges_s[:-1]
    return np.append(edges_s, max(end_s, 0.001))


def _epoch(start: float | datetime | None, end_s: float) -> float:
    """Unix time of the beginning, in whole milliseconds."""
    if start is None:
        start = time.time() - end_s
    elif isinstance(start, datetime):
        start = (start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp()
    if not (math.isfinite(start) and 0.0 <= start < 1e11):
        raise UserError(
            f"must lie between 1970 and 5138, not at {start:g} s", where="the start of the metrics"
        )
    return math.floor(start * 1e3) / 1e3


def _check_size(fleet: Fleet, times: int, step_s: float) -> None:
    catalogue = Catalogue(fleet)
    lines = sum(
        lines.count("\n")
        for name, family in FAMILIES.items()
        if not family.live_only and catalogue.has(name)
        for lines in catalogue.formats(family)
    )
    if lines * times > MOST_SAMPLES:
        _refuse(times, lines, step_s)


def _refuse(times: float, lines: int, step_s: float) -> None:
    least = step_s * times * lines / MOST_SAMPLES
    raise UserError(
        f"{times:,.0f} times of {lines:,} samples each are more than {MOST_SAMPLES:,} samples, "
        "about a gigabyte",
        where="the step of the metrics",
        hint=f"take a step of {_rounded(least):g} s or more",
    )


def _rounded(seconds: float) -> float:
    """Up to two digits."""
    scale = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / scale) * scale


def _written(result: Result, fleet: Fleet, edges_s: Floats, epoch_s: float) -> Iterator[str]:
    """Metric by metric and series by series, each in the order of time, as the format demands."""
    snapshots = list(replay(result.record, result.members, fleet, edges_s))
    stamps = [f" {epoch_s + at_s:.3f}\n" for at_s in edges_s.tolist()]
    catalogue = Catalogue(fleet)
    for name, family in FAMILIES.items():
        if family.live_only or not catalogue.has(name) or name not in snapshots[0]:
            continue
        table = np.stack([snapshot.pop(name) for snapshot in snapshots], axis=1)
        parts = []
        for line, values in zip(catalogue.formats(family), table, strict=True):
            there = np.flatnonzero(~np.isnan(values[:, 0]))
            parts += [
                (line % tuple(row)).replace("\n", stamps[at])
                for at, row in zip(there.tolist(), printable(family, values[there]), strict=True)
            ]
        if parts:
            yield head(family, openmetrics=True)
            yield "".join(parts)
    yield "# EOF\n"
