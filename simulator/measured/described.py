"""A measured run for people."""

from __future__ import annotations

from simulator.measured.runs import LATENCIES, STATISTICS, Lengths, MeasuredRun
from simulator.results.format import NOTHING, duration, milliseconds, number, percent

TITLES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "E2E"}

LATENCY_HEAD = ["ms", *STATISTICS]


def heading(run: MeasuredRun) -> str:
    """benchmarks.json, concurrent 1: guidellm 0.8.1."""
    version = f" {run.version}" if run.version else ""
    return f"{run.file}, {run.name}: {run.client}{version}"


def facts(run: MeasuredRun) -> list[list[str]]:
    """What was run, as rows of a label and a text."""
    failed = "" if run.failed is None else f", {run.failed:,} failed"
    lasted = "" if run.duration_s is None else f", in {duration(run.duration_s)}"
    rates = [
        f"{number(value)} {what}"
        for value, what in (
            (run.requests_per_s, "requests/s"), (run.output_tokens_per_s, "output tokens/s"),
        )
        if value is not None
    ]  # fmt: skip
    return [
        ["model", run.model or "not stated"],
        *([["measured on", run.measured_on]] if run.measured_on else []),
        ["load", run.load.text],
        ["requests", f"{run.completed:,} answered{failed}{lasted}"],
        ["tokens", f"{_length(run.inputs)} of a prompt, {_length(run.outputs)} of an answer"],
        *_cached(run),
        ["throughput", ", ".join(rates) or NOTHING],
        ["records", _records(run)],
    ]


def latency_rows(run: MeasuredRun) -> list[list[str]]:
    """A row a latency that was measured; see ``LATENCY_HEAD``."""
    return [
        [TITLES[name], *(milliseconds(run.latency[name].get(key)) for key in STATISTICS)]
        for name in LATENCIES
        if run.latency.get(name)
    ]


def remarks(run: MeasuredRun) -> list[str]:
    """What the figures are, and what was left out; whole sentences."""
    return [f"{text[:1].upper()}{text[1:]}." for text in (*run.definitions, *run.notes)]


def _length(lengths: Lengths | None) -> str:
    if lengths is None:
        return "unknown number"
    spread = "" if not lengths.std else f" ± {number(lengths.std)}"
    return f"{number(lengths.mean)}{spread}"


def _cached(run: MeasuredRun) -> list[list[str]]:
    share = run.records.cached_share if run.records is not None else None
    said = f"{percent(share)} of prompt tokens came out of the server's prefix cache"
    return [] if share is None else [["cached", said]]


def _records(run: MeasuredRun) -> str:
    if run.records is None:
        return "none: statistics alone"
    times = "with" if run.records.arrival_s is not None else "without"
    return f"{len(run.records):,} requests, {times} the times at which they were sent"
