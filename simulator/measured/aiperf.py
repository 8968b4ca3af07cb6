"""What AIPerf writes: ``profile_export.jsonl`` with a request a line, and its summary,
``profile_export_aiperf.json``.

Facts from AIPerf 0.13.0 (aiperf/common/models/record_models.py and export_models.py,
aiperf/metrics/types): every figure stands with its unit. ``inter_token_latency`` is
(request latency − TTFT) / (output tokens − 1) of each request, which is called TPOT here;
``inter_chunk_latency`` has the gaps between streamed events. Latency ends with the last event that
holds text. Tokens are counted by the client unless ``usage_*`` says what the server counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.measured.files import beside, read_documents
from simulator.measured.node import Node
from simulator.measured.runs import (
    GAPS,
    Lengths,
    Load,
    MeasuredRun,
    Record,
    Statistics,
    recorded_run,
    records_of,
)
from simulator.workload.requests import Floats

CLIENT = "AIPerf"

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}

_METRICS = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "inter_token_latency",
    "itl_ms": "inter_chunk_latency",
    "e2e_ms": "request_latency",
}

_STATISTICS = {"mean": "avg", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}

_RECORDS = ".jsonl"
_SUMMARIES = ("_aiperf.json", ".json")
"""Endings of the summary; the second where a prefix was chosen for all files."""


def is_record(value: Any) -> bool:
    """Whether this is one request."""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return isinstance(metadata, dict) and "request_start_ns" in metadata and "metrics" in value


def is_summary(value: Any) -> bool:
    """Whether this is a run's summary."""
    if not isinstance(value, dict):
        return False
    return "aiperf_version" in value or (
        "input_config" in value and isinstance(value.get("request_latency"), dict)
    )


def read_records(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """The run, with what the summary beside it says about version, model and load."""
    plain = file.name.removesuffix(".gz").removesuffix(_RECORDS)
    found = (beside(file, plain + ending) for ending in _SUMMARIES)
    return [_detailed(file, documents, next((node for node in found if node), None))]


def read_summary(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """The run, with its requests where they lie beside the summary."""
    summary = documents[0]
    ending = next((ending for ending in _SUMMARIES if file.name.endswith(ending)), None)
    path = file.with_name(file.name.removesuffix(ending or "") + _RECORDS)
    if ending and path.is_file():
        return [_detailed(path, read_documents(path), summary)]
    count = summary.at("request_count", "avg")
    if count is None:
        raise summary.error("has no 'request_count': no request was answered")
    failed = summary.at("error_request_count", "avg")
    duration = summary.at("benchmark_duration", "avg")
    return [
        MeasuredRun(
            **_heading(file, summary),
            completed=count.count(),
            failed=failed.count() if failed is not None else 0,
            duration_s=duration.number() if duration is not None else None,
            inputs=_lengths(summary, "input_sequence_length"),
            outputs=_lengths(summary, "output_sequence_length"),
            latency={name: _statistics(summary, key) for name, key in _METRICS.items()},
            requests_per_s=_rate(summary, "request_throughput"),
            output_tokens_per_s=_rate(summary, "output_token_throughput"),
            definitions=(
                "TPOT is what AIPerf calls inter-token latency: (E2E − TTFT) / (output tokens − 1)",
                GAPS,
            ),
            notes=(
                *_stopped(summary),
                "the requests themselves are in profile_export.jsonl, which is not beside it",
            ),
        )
    ]


def _heading(file: Path, summary: Node | None) -> dict[str, Any]:
    """What the summary says about the run; requests say nothing about it."""
    version = summary.get("aiperf_version") if summary is not None else None
    start = summary.get("start_time") if summary is not None else None
    return {
        "client": CLIENT,
        "version": version.text() if version is not None else None,
        "file": str(file),
        "name": file.parent.name or "run",
        "model": _model(summary) if summary is not None else None,
        "measured_on": start.text()[:10] if start is not None else None,
        "load": _load(summary) if summary is not None else Load("unknown"),
    }


def _stopped(summary: Node) -> list[str]:
    """Whether the run ended before it was done."""
    cancelled, whole = summary.get("was_cancelled"), summary.get("is_complete")
    early = (cancelled and cancelled.value is True) or (whole and whole.value is False)
    return ["the run was stopped before it was done"] if early else []


def _model(summary: Node) -> str | None:
    names = summary.at("input_config", "models", "items")
    if names is not None and len(names):
        name = next(iter(names)).get("name")
        return name.text() if name is not None else None
    older = summary.at("input_config", "endpoint", "model_names")
    return next(iter(older)).text() if older is not None and len(older) else None


def _load(summary: Node) -> Load:
    """Of the profiling phase; older files have it under ``loadgen``."""
    settings = summary.at("input_config", "loadgen")
    phases = summary.at("input_config", "phases")
    if phases is not None:
        found = [p for p in phases if (kind := p.get("kind")) is None or kind.value != "warmup"]
        if len(found) != 1:
            return Load("unknown", words=f"{len(found)} phases")
        settings = found[0]
    if settings is None:
        return Load("unknown")
    rate = settings.get("rate") or settings.get("request_rate")
    users = settings.get("concurrency")
    given = settings.get("type") or settings.get("arrival_pattern")
    name = given.text() if given is not None else ""
    if rate is not None:
        return Load("rate", rate_per_s=rate.number(1e-9), words=name, cv=_cv(settings, name))
    if users is not None and name in ("", "concurrency", "concurrency_burst"):
        return Load("closed_loop", concurrency=users.count(1))
    return Load("unknown", words=name)


def _cv(settings: Node, kind: str) -> float | None:
    """Of the gaps between requests; ``smoothness`` is the shape of gamma ones, 1 / cv²."""
    shape = settings.get("smoothness") or settings.get("arrival_smoothness")
    if kind == "gamma" and shape is not None:
        return 1.0 / math.sqrt(shape.number(1e-9))
    return {"constant": 0.0, "poisson": 1.0}.get(kind)


def _seconds(node: Node) -> float:
    """How many seconds one of its units is."""
    unit = node["unit"]
    seconds = _SECONDS.get(unit.text())
    if seconds is None:
        raise unit.error(f"must be a unit of time, got '{unit.text()}'")
    return seconds


def _statistics(summary: Node, key: str) -> Statistics:
    found = summary.get(key)
    if found is None:
        return {}
    ms = 1e3 * _seconds(found)
    values = {name: found.get(word) for name, word in _STATISTICS.items()}
    return {name: ms * value.number() for name, value in values.items() if value is not None}


def _lengths(summary: Node, key: str) -> Lengths | None:
    found = summary.get(key)
    if found is None:
        return None
    spread = found.get("std")
    return Lengths(found["avg"].number(), spread.number() if spread is not None else None)


def _rate(summary: Node, key: str) -> float | None:
    found = summary.at(key, "avg")
    return found.number() if found is not None else None


def _detailed(file: Path, documents: Sequence[Node], summary: Node | None) -> MeasuredRun:
    profiled = [node for node in documents if _profiled(node)]
    answered = [node for node in profiled if not _failed(node)]
    gaps = [gap for node in answered if (gap := _gaps(node)) is not None]
    records, notes = records_of(
        [_record(node) for node in answered], np.concatenate([*gaps, np.empty(0)])
    )
    if len(profiled) < len(documents):
        warm = len(documents) - len(profiled)
        notes.append(f"{warm:,} requests of the warm-up are left out")
    notes += _stopped(summary) if summary is not None else []
    tokens, events = int(records.output_tokens.sum()) - len(records), len(records.gaps_s)
    if events and tokens > events * 1.01:
        notes.append(f"{tokens:,} further tokens came in {events:,} events")
    failed = len(profiled) - len(answered)
    return recorded_run(
        records, notes, completed=len(answered), failed=failed, **_heading(file, summary)
    )


def _profiled(node: Node) -> bool:
    phase = node["metadata"].get("benchmark_phase")
    return phase is None or phase.value != "warmup"


def _failed(node: Node) -> bool:
    marks = (node["metadata"].get(key) for key in ("was_cancelled", "context_overflow_skip"))
    return node.get("error") is not None or any(mark and mark.value for mark in marks)


def _gaps(node: Node) -> Floats | None:
    found = node["metrics"].get("inter_chunk_latency")
    return None if found is None else found["value"].numbers() * _seconds(found)


def _record(node: Node) -> Record:
    metrics, metadata = node["metrics"], node["metadata"]
    first = metrics.get("time_to_first_token")
    latency = metrics["request_latency"]
    ttft = first["value"].number() * _seconds(first) if first is not None else math.nan
    e2e = latency["value"].number() * _seconds(latency)
    if ttft > e2e * (1 + 1e-9):
        raise node.error("its first token came after its last one")
    conversation = metadata.get("x_correlation_id")
    cached = metrics.get("usage_prompt_cache_read_tokens")
    return Record(
        arrival_s=metadata["request_start_ns"].number() * 1e-9,
        input_tokens=_tokens(metrics, "usage_prompt_tokens", "input_sequence_length"),
        output_tokens=_tokens(metrics, "usage_completion_tokens", "output_sequence_length"),
        ttft_s=ttft,
        e2e_s=e2e,
        session=conversation.text() if conversation is not None else "",
        cached_tokens=cached["value"].number() if cached is not None else math.nan,
    )


def _tokens(metrics: Node, *keys: str) -> int:
    """As the server counted them, else the client."""
    found = next((value for key in keys if (value := metrics.get(key)) is not None), None)
    return found["value"].count() if found is not None else 0
