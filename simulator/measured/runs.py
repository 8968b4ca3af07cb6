"""What a load generator measured, in the simulator's terms, whichever client wrote it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from simulator.results.format import number
from simulator.workload.requests import Floats, Ints

Statistics = dict[str, float]
"""Figures by statistic: mean, p50, p90, p95, p99, as far as they are known."""

STATISTICS = ("mean", "p50", "p90", "p95", "p99")

LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")

RECOMPUTED = (
    "TPOT is (E2E − TTFT) / (output tokens − 1) of each request, worked out from the records"
)
GAPS = "ITL is over the gaps between streamed events of all requests"


PLAIN = "Answers were not streamed, so there is no TTFT, TPOT or ITL"


class Record(NamedTuple):
    """One answered request, times in seconds; nan where a time is not known."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    ttft_s: float
    e2e_s: float
    session: str = ""
    cached_tokens: float = math.nan


@dataclass(frozen=True, slots=True)
class Records:
    """Answered requests in the order in which they were sent, ``n`` of them.

    Args:
        arrival_s: (n,) when each was sent, since the first; None where the file does not say.
        input_tokens: (n,), at least 1.
        output_tokens: (n,), at least 1.
        ttft_s: (n,) nan where no first token was seen on its own.
        e2e_s: (n,) from sending to the last token.
        session: (n,) number of the conversation, -1 for none.
        cached_tokens: (n,) prompt tokens that the server found in its prefix cache; nan where it
            did not say.
        gaps_s: gaps between streamed events, of all requests; empty where the file has none.
    """

    arrival_s: Floats | None
    input_tokens: Ints
    output_tokens: Ints
    ttft_s: Floats
    e2e_s: Floats
    session: Ints
    cached_tokens: Floats
    gaps_s: Floats

    def __len__(self) -> int:
        return len(self.input_tokens)

    @property
    def tpot_s(self) -> Floats:
        """(n,) (E2E − TTFT) / (output tokens − 1); nan for a single token."""
        more = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return np.asarray((self.e2e_s - self.ttft_s) / more, dtype=np.float64)

    @property
    def cached_share(self) -> float | None:
        """Of the prompt tokens of requests whose server said it; None where none did."""
        known = np.isfinite(self.cached_tokens)
        total = int(self.input_tokens[known].sum())
        return float(self.cached_tokens[known].sum()) / total if total else None

    @property
    def span_s(self) -> float | None:
        """From the first request sent to the last token seen."""
        if self.arrival_s is None:
            return None
        return float((self.arrival_s + self.e2e_s).max())


@dataclass(frozen=True, slots=True)
class Load:
    """How requests were sent.

    Args:
        kind: ``closed_loop``: ``concurrency`` users, each waits for its answer; ``rate``: on
            average ``rate_per_s``, whatever the server does; ``burst``: all at once; ``unknown``:
            the file does not say.
        words: what the client calls it.
        cv: coefficient of variation of the gaps between requests, with ``rate``: 0 for equal
            gaps, 1 for Poisson; None where the file does not say.
    """

    kind: Literal["closed_loop", "rate", "burst", "unknown"]
    rate_per_s: float | None = None
    concurrency: int | None = None
    words: str = ""
    cv: float | None = None

    @property
    def text(self) -> str:
        """For tables."""
        if self.kind == "closed_loop":
            return f"{self.concurrency:,} at a time"
        if self.kind == "rate" and self.rate_per_s is not None:
            return f"{number(self.rate_per_s)} requests/s" + (f" ({self.words})" * bool(self.words))
        return {"burst": "all at once"}.get(self.kind, self.words or "not stated")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts: their mean, and their spread where it is known."""

    mean: float
    std: float | None = None

    @property
    def cv(self) -> float | None:
        """Standard deviation over mean."""
        return None if self.std is None or not self.mean else self.std / self.mean


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run of a load generator.

    Args:
        client, version: who wrote the file; the version where it says so.
        file, name: the file, and the run's own name in it.
        model: as it was asked for.
        measured_on: the day, ISO.
        load: how requests were sent.
        completed: requests answered in full.
        failed: all others; None where the file does not say.
        duration_s: how long the client measured.
        inputs, outputs: tokens of a prompt and of an answer.
        latency: ``LATENCIES`` by statistic, ms; an empty mapping where nothing was measured, as
            TTFT without streaming.
        requests_per_s, output_tokens_per_s: answered.
        records: requests one by one, where the file has all of them.
        definitions: what the figures are.
        notes: what was left out.
    """

    client: str
    version: str | None
    file: str
    name: str
    model: str | None
    measured_on: str | None
    load: Load
    completed: int
    failed: int | None
    duration_s: float | None
    inputs: Lengths | None
    outputs: Lengths | None
    latency: dict[str, Statistics]
    requests_per_s: float | None
    output_tokens_per_s: float | None
    records: Records | None = None
    definitions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the single records."""
        return {
            "client": self.client,
            "version": self.version,
            "file": self.file,
            "run": self.name,
            "model": self.model,
            "measured_on": self.measured_on,
            "load": {
                "kind": self.load.kind,
                "rate_per_s": self.load.rate_per_s,
                "concurrency": self.load.concurrency,
            },
            "completed": self.completed,
            "failed": self.failed,
            "duration_s": self.duration_s,
            "input_tokens_mean": self.inputs.mean if self.inputs else None,
            "output_tokens_mean": self.outputs.mean if self.outputs else None,
            "latency": {
                name: {key: self.latency.get(name, {}).get(key) for key in STATISTICS}
                for name in LATENCIES
            },
            "throughput": {
                "requests_per_s": self.requests_per_s,
                "output_tokens_per_s": self.output_tokens_per_s,
            },
            "cached_share_of_prompts": self.records.cached_share if self.records else None,
            "records": None if self.records is None else len(self.records),
            "arrivals": self.records is not None and self.records.arrival_s is not None,
            "definitions": list(self.definitions),
            "notes": list(self.notes),
        }


def statistics(values_s: Floats) -> Statistics:
    """Of the values that are known, in ms; empty without any."""
    known = values_s[np.isfinite(values_s)]
    if not len(known):
        return {}
    found = [known.mean(), *np.percentile(known, (50, 90, 95, 99))]
    return {name: 1e3 * float(value) for name, value in zip(STATISTICS, found, strict=True)}


def records_of(
    found: Sequence[Record], gaps_s: Floats, *, arrivals: bool = True
) -> tuple[Records, list[str]]:
    """Answered requests, sorted by when they were sent, and notes about those left out.

    Requests without a single prompt or output token cannot be replayed and are left out.
    """
    kept = [record for record in found if record.input_tokens > 0 and record.output_tokens > 0]
    notes = []
    if len(kept) < len(found):
        notes.append(
            f"{len(found) - len(kept):,} of {len(found):,} answered requests count no prompt or no "
            "output tokens and are left out of the records"
        )
    if arrivals:
        kept.sort(key=lambda record: record.arrival_s)
    columns = list(zip(*kept, strict=True)) if kept else [()] * len(Record._fields)
    arrival = np.array(columns[0], dtype=np.float64)
    return (
        Records(
            arrival_s=arrival - arrival[0] if arrivals and kept else None,
            input_tokens=np.array(columns[1], dtype=np.int64),
            output_tokens=np.array(columns[2], dtype=np.int64),
            ttft_s=np.array(columns[3], dtype=np.float64),
            e2e_s=np.array(columns[4], dtype=np.float64),
            session=_sessions(columns[5]),
            cached_tokens=np.array(columns[6], dtype=np.float64),
            gaps_s=gaps_s,
        ),
        notes,
    )


def _sessions(names: Sequence[str]) -> Ints:
    """Numbers of conversations; -1 for those of a single request."""
    times: dict[str, int] = {}
    for name in names:
        times[name] = times.get(name, 0) + 1
    numbers: dict[str, int] = {}
    found = [
        numbers.setdefault(name, len(numbers)) if name and times[name] > 1 else -1 for name in names
    ]
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Figures:
    """What records say in all."""

    inputs: Lengths | None
    outputs: Lengths | None
    latency: dict[str, Statistics]
    requests_per_s: float | None
    output_tokens_per_s: float | None


def figures_of(records: Records, duration_s: float | None) -> Figures:
    """Every figure from the records themselves; rates over the time from the first request to the
    last token, or over ``duration_s`` where arrivals are not known."""
    span = records.span_s or duration_s
    return Figures(
        inputs=lengths_of(records.input_tokens),
        outputs=lengths_of(records.output_tokens),
        latency={
            "ttft_ms": statistics(records.ttft_s),
            "tpot_ms": statistics(records.tpot_s),
            "itl_ms": statistics(records.gaps_s),
            "e2e_ms": statistics(records.e2e_s),
        },
        requests_per_s=len(records) / span if span else None,
        output_tokens_per_s=float(records.output_tokens.sum()) / span if span else None,
    )


def recorded_run(
    records: Records, notes: Sequence[str], *, completed: int, failed: int, **heading: Any
) -> MeasuredRun:
    """A run whose figures come from its records; ``heading``: what they do not say."""
    found = figures_of(records, None)
    return MeasuredRun(
        **heading,
        completed=completed,
        failed=failed,
        duration_s=records.span_s,
        inputs=found.inputs,
        outputs=found.outputs,
        latency=found.latency,
        requests_per_s=found.requests_per_s,
        output_tokens_per_s=found.output_tokens_per_s,
        records=records if len(records) else None,
        definitions=definitions_of(records),
        notes=tuple(notes),
    )


def definitions_of(records: Records) -> tuple[str, ...]:
    """What ``figures_of`` are, as far as there are any."""
    if not np.isfinite(records.ttft_s).any():
        return (PLAIN,)
    return (RECOMPUTED, GAPS) if len(records.gaps_s) else (RECOMPUTED,)


def lengths_of(tokens: Ints) -> Lengths | None:
    """None without any."""
    return Lengths(float(tokens.mean()), float(tokens.std())) if len(tokens) else None
