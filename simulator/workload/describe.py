"""What a trace is like: rate, burstiness, lengths, and how much text its prompts share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.scenario.workload import TraceSlice
from simulator.workload.prefixes import block_keys
from simulator.workload.requests import Floats, Ints, PrefixStreams
from simulator.workload.traces import Trace, read_trace

PEAK_WINDOW_S = 10.0
BLOCK_TOKENS = 512
CACHE_BLOCKS = (1_000, 10_000, 50_000)
_LRU_LIMIT = 5_000_000
"""Blocks up to which a finite cache is replayed, about a microsecond for each block and cache."""


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Token counts over the requests; percentiles interpolate linearly."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int
    total: int


@dataclass(frozen=True, slots=True)
class ArrivalSummary:
    """Arrivals of a trace; None where there are too few, or all come at once.

    Args:
        span_s: from the first to the last request.
        rate_per_s: one over the mean gap.
        interarrival_cv: standard deviation of the gaps over their mean (1 for Poisson).
        peak_to_mean: most requests in any 10 seconds, over what the mean rate brings in 10
            seconds; None for a span below 10 seconds.
    """

    span_s: float
    rate_per_s: float | None
    interarrival_cv: float | None
    peak_to_mean: float | None


@dataclass(frozen=True, slots=True)
class PrefixSummary:
    """Share of prompt tokens whose whole prefix came before, in full blocks of 512 tokens.

    Args:
        endless_cache: with a cache that forgets nothing.
        lru_cache: the same with a cache of so many blocks that drops the least recently used
            (key: blocks); empty where the trace is too long to replay it.
    """

    block_tokens: int
    endless_cache: float
    lru_cache: dict[int, float]


@dataclass(frozen=True, slots=True)
class TraceDescription:
    """Everything that ``simulate trace`` prints; parts that a file knows nothing about are None."""

    name: str
    format: str
    requests: int
    arrivals: ArrivalSummary | None
    input_tokens: LengthSummary
    output_tokens: LengthSummary
    prefixes: PrefixSummary | None
    sessions: int
    classes: dict[str, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not known is None, never NaN."""
        data = asdict(self)
        if self.prefixes is not None:
            lru = {str(blocks): share for blocks, share in self.prefixes.lru_cache.items()}
            data["prefixes"]["lru_cache"] = lru
        data["notes"] = list(self.notes)
        return data

    def rows(self) -> list[tuple[str, str]]:
        """Label and text of each line of the printed description."""
        rows = [("trace", self.name), ("format", self.format), ("requests", f"{self.requests:,}")]
        if self.arrivals is None:
            rows.append(("arrivals", "none in this file: a source of lengths"))
        else:
            rows += _arrival_rows(self.arrivals)
        rows += _length_rows("input tokens", self.input_tokens)
        rows += _length_rows("output tokens", self.output_tokens)
        if self.prefixes is None:
            rows.append(("shared prefixes", "not recorded"))
        else:
            rows += _prefix_rows(self.prefixes)
        if self.sessions:
            rows.append(("sessions", f"{self.sessions:,}"))
        if len(self.classes) > 1:
            rows += [
                (f"class {name}", f"{count:,} requests") for name, count in self.classes.items()
            ]
        return rows + [("note", note) for note in self.notes]


def describe_trace(
    path_or_name: str,
    format: str = "auto",
    slice: TraceSlice | None = None,
    base: Path | None = None,
) -> TraceDescription:
    """Reads a trace (or a slice of it) and sums it up.

    Raises:
        UnknownNameError, TraceError: see ``traces.read_trace``.
    """
    return described(read_trace(path_or_name, format, slice or TraceSlice(), base))


def described(trace: Trace) -> TraceDescription:
    """The same of a trace that was read."""
    counts = np.bincount(trace.class_id, minlength=len(trace.classes)).tolist()
    prefixes = trace.prefixes()
    return TraceDescription(
        name=trace.name,
        format=trace.format,
        requests=len(trace),
        arrivals=_arrivals(trace.arrival_s) if trace.arrival_s is not None else None,
        input_tokens=_lengths(trace.input_tokens),
        output_tokens=_lengths(trace.output_tokens),
        prefixes=None if prefixes is None else _prefixes(prefixes, trace),
        sessions=len(np.unique(trace.session[trace.session >= 0])),
        classes=dict(zip(trace.classes, counts, strict=True)),
        notes=trace.notes,
    )


def _lengths(tokens: Ints) -> LengthSummary:
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).tolist()
    return LengthSummary(float(tokens.mean()), p50, p90, p99, int(tokens.max()), int(tokens.sum()))


def _arrivals(arrival_s: Floats) -> ArrivalSummary:
    span_s = float(arrival_s[-1] - arrival_s[0])
    if span_s == 0:
        return ArrivalSummary(span_s, None, None, None)
    gaps = np.diff(arrival_s)
    mean = span_s / len(gaps)
    peak_to_mean = None
    if span_s >= PEAK_WINDOW_S:
        until = np.searchsorted(arrival_s, arrival_s + PEAK_WINDOW_S, side="left")
        most = int((until - np.arange(len(arrival_s))).max())
        peak_to_mean = most * mean / PEAK_WINDOW_S
    return ArrivalSummary(span_s, 1 / mean, float(gaps.std()) / mean, peak_to_mean)


def _prefixes(prefixes: PrefixStreams, trace: Trace) -> PrefixSummary:
    offsets, stream, index = block_keys(prefixes, BLOCK_TOKENS)
    key = np.unique(stream * (index.max(initial=0) + 1) + index, return_inverse=True)[1]
    total = int(trace.input_tokens.sum())
    request = np.repeat(np.arange(len(trace)), np.diff(offsets))
    first = np.full(int(key.max(initial=-1)) + 1, len(trace))
    np.minimum.at(first, key, request)
    # A chained key came before only together with everything in front of it, so that the repeated
    # blocks of a prompt are always its first ones.
    endless = int((first[key] < request).sum()) * BLOCK_TOKENS / total
    lru = {}
    if len(key) <= _LRU_LIMIT:
        chains = np.split(key, offsets[1:-1])
        lru = {n: _lru_hits(chains, n) * BLOCK_TOKENS / total for n in CACHE_BLOCKS}
    return PrefixSummary(BLOCK_TOKENS, endless, lru)


def _lru_hits(chains: list[Ints], capacity: int) -> int:
    """Blocks found at the front of each prompt by a cache that drops the least recently used."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for chain in chains:
        unbroken = True
        for key in chain.tolist():
            if key in cache:
                cache.move_to_end(key)
                hits += unbroken
            else:
                unbroken = False
                cache[key] = None
                if len(cache) > capacity:
                    cache.popitem(last=False)
    return hits


def _arrival_rows(arrivals: ArrivalSummary) -> list[tuple[str, str]]:
    rows = [("span", f"{arrivals.span_s:,.1f} s")]
    if arrivals.rate_per_s is None:
        return [*rows, ("rate", "all requests arrive at once")]
    rows.append(("rate", f"{arrivals.rate_per_s:.4g} requests/s"))
    rows.append(("interarrival CV", f"{arrivals.interarrival_cv:.3g} (Poisson: 1)"))
    if arrivals.peak_to_mean is not None:
        rows.append(("busiest 10 s", f"{arrivals.peak_to_mean:.3g} x the mean rate"))
    return rows


def _length_rows(label: str, lengths: LengthSummary) -> list[tuple[str, str]]:
    spread = (
        f"mean {lengths.mean:,.1f}, p50 {lengths.p50:,.0f}, p90 {lengths.p90:,.0f}, "
        f"p99 {lengths.p99:,.0f}, max {lengths.max:,}"
    )
    return [(label, spread), (f"{label} in all", f"{lengths.total:,}")]


def _prefix_rows(prefixes: PrefixSummary) -> list[tuple[str, str]]:
    size = prefixes.block_tokens
    rows = [("repeated prompt tokens", f"{prefixes.endless_cache:.1%} with an endless cache")]
    for blocks, share in prefixes.lru_cache.items():
        rows.append(("", f"{share:.1%} with a cache of {blocks:,} blocks of {size} tokens"))
    return rows
