"""A trace or a table of rates with what its curves show, condensed: rates, lengths, gaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from simulator.errors import UserError
from simulator.scenario.document import Places
from simulator.scenario.workload import TraceSlice
from simulator.workload.describe import TraceDescription, described
from simulator.workload.describe_rates import RatesDescription, describe_table, is_rate_table
from simulator.workload.rates import RateTable, read_rates
from simulator.workload.requests import Floats, Ints
from simulator.workload.traces import Trace, read_trace
from simulator.yamlio import validation_sentence

RATE_BINS = 240
"""Intervals of the rate over time."""

LENGTH_BINS = 48

_MOST_STEPS = 2_000
"""Intervals of a table of rates that are kept as they are; longer tables are averaged."""

_GAPS = 200


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie between edges. ``edges`` has one entry more than ``values``."""

    edges: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TraceProfile:
    """What a file of recorded traffic is like.

    Args:
        description: what ``simulate trace`` prints; of a table of rates, if it is one.
        rate_per_s: requests/s between times in s since the first row; None where the file has no
            times, or all requests come at once.
        input_tokens, output_tokens: requests by length, edges in equal ratios; None of a table.
        gap_s, gap_share: gaps between arrivals in s, ascending, and the share of all gaps that are
            at most that long; empty where there are none.
        poisson_share: the same share if the same number came independently of each other.
    """

    description: TraceDescription | RatesDescription
    rate_per_s: Histogram | None
    input_tokens: Histogram | None
    output_tokens: Histogram | None
    gap_s: tuple[float, ...] = ()
    gap_share: tuple[float, ...] = ()
    poisson_share: tuple[float, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether it is a table of rates, not of requests."""
        return isinstance(self.description, RatesDescription)

    def to_dict(self) -> dict[str, Any]:
        """The description as plain data: what ``simulate trace --json`` prints."""
        return self.description.to_dict()


def profile_trace(
    path_or_name: str,
    format: str = "auto",
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    requests: int | None = None,
    base: Path | None = None,
) -> TraceProfile:
    """Reads a trace, a slice of it, or a table of rates over time, and sums it up.

    Args:
        path_or_name: a file relative to ``base``, or a shipped trace or table.
        format: how it is laid out; ``auto``: by its columns, which may be those of a table of
            rates.
        start_s, duration_s, requests: the part of a trace to look at, in seconds since its first
            row, and the most requests of it; default: all of it.
        base: folder that a relative path starts from; default: the current one.

    Raises:
        UnknownNameError: there is no such file.
        TraceError: it is malformed, or the slice holds no request.
        UserError: a part that is none, or one of a table of rates.
    """
    part = _part(path_or_name, start_s=start_s, duration_s=duration_s, requests=requests)
    if format == "auto" and is_rate_table(path_or_name, base):
        if part != TraceSlice():
            raise UserError(
                "is a table of rates, which is described as a whole",
                where=path_or_name,
                hint="leave out start, duration and number of requests",
            )
        table = read_rates(path_or_name, base=base)
        return TraceProfile(describe_table(table), _rate_of_table(table), None, None)
    trace = read_trace(path_or_name, format, part, base)
    return TraceProfile(
        described(trace), _rate(trace, part), _lengths(trace.input_tokens),
        _lengths(trace.output_tokens), *_gaps(trace),
    )  # fmt: skip


def _part(name: str, **given: float | None) -> TraceSlice:
    try:
        return TraceSlice.model_validate(given)
    except ValidationError as error:
        places: Places = {(key,): f"{key} {value}" for key, value in given.items()}
        raise validation_sentence(error, name, places, TraceSlice) from None


def _rate(trace: Trace, part: TraceSlice) -> Histogram | None:
    arrival_s = trace.arrival_s
    if arrival_s is None or arrival_s[-1] <= arrival_s[0]:
        return None
    edges = np.linspace(part.start_s, float(arrival_s[-1]), RATE_BINS + 1)
    if (np.diff(edges) <= 0).any():  # so short and so late that floats cannot tell
        return None
    counts, _ = np.histogram(arrival_s, edges)
    return Histogram(tuple(edges.tolist()), tuple((counts / np.diff(edges)).tolist()))


def _rate_of_table(table: RateTable) -> Histogram:
    edges = np.append(table.start_s, table.end_s)
    rates = table.rate_per_s
    if len(rates) > _MOST_STEPS:
        through = np.concatenate([[0.0], np.cumsum(rates * table.length_s)])
        coarse = np.linspace(0.0, table.end_s, _MOST_STEPS + 1)
        rates = np.diff(np.interp(coarse, edges, through)) / np.diff(coarse)
        edges = coarse
    return Histogram(tuple(edges.tolist()), tuple(rates.tolist()))


def _lengths(tokens: Ints) -> Histogram:
    """Edges lie half way between whole numbers, so that no length lies on one."""
    low, high = int(tokens.min()), int(tokens.max())
    edges = np.unique(np.rint(np.geomspace(low, high + 1, LENGTH_BINS + 1))) - 0.5
    counts, _ = np.histogram(tokens, edges)
    return Histogram(tuple(edges.tolist()), tuple(map(float, counts.tolist())))


def _gaps(trace: Trace) -> tuple[tuple[float, ...], ...]:
    """Gaps, how many are at most that long, and how many of exponential ones would be."""
    if trace.arrival_s is None or len(trace) < 2:
        return (), (), ()
    gaps: Floats = np.diff(trace.arrival_s)
    mean = float(gaps.mean())
    if mean == 0.0:
        return (), (), ()
    shares = np.linspace(0.0, 1.0, min(_GAPS, len(gaps)) + 1)[1:]
    at = np.quantile(gaps, shares, method="inverted_cdf")
    return tuple(at.tolist()), tuple(shares.tolist()), tuple((-np.expm1(-at / mean)).tolist())
