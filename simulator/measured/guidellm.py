"""What guidellm writes: ``benchmarks.json``, one benchmark for each load it tried.

Facts from guidellm's schemas (0.8.1: guidellm/benchmark/schemas, guidellm/schemas/base; 0.2 and
0.3: guidellm/benchmark/benchmark.py): times of requests in seconds since 1970, latencies in ms but
``request_latency`` in s. Its ``inter_token_latency_ms`` is the mean gap of each request, which is
called TPOT here, but its statistics count a request once for each of its gaps, so that their mean
is that of all gaps; ``time_per_output_token_ms`` counts the first token too and is not used. There
are no single gaps. ``sample_size`` lets it keep a part of the requests alone. Reports have
``metadata.version`` 1 or 2 from 0.4 on, and times under ``info.timings``; older ones have neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from simulator.measured.node import Node
from simulator.measured.runs import (
    Lengths,
    Load,
    MeasuredRun,
    Record,
    Records,
    Statistics,
    definitions_of,
    figures_of,
    records_of,
)

CLIENT = "guidellm"

_VERSIONS = (1, 2)

_METRICS = {
    "ttft_ms": ("time_to_first_token_ms", 1.0),
    "tpot_ms": ("inter_token_latency_ms", 1.0),
    "e2e_ms": ("request_latency", 1e3),
}
"""Its names, and how many ms one of its units is."""


def is_report(value: Any) -> bool:
    """Whether this is a report."""
    return isinstance(value, dict) and isinstance(value.get("benchmarks"), list)


def read_report(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """A run a benchmark."""
    report = documents[0]
    layout = report.at("metadata", "version")
    if layout is not None and layout.value not in _VERSIONS:
        raise layout.error(
            f"is a report of guidellm in layout {layout.value}, which is not known",
            "known are 1 and 2, and the older one without a number",
        )
    version = report.at("metadata", "guidellm_version")
    said = version.text() if version is not None else None
    return [
        _run(file, node, said, _model(node, report), i)
        for i, node in enumerate(report["benchmarks"])
    ]


def _model(node: Node, report: Node) -> str | None:
    for where, keys in (
        (node, ("config", "backend", "model")),
        (node, ("worker", "backend_model")),
        (report, ("args", "model")),
    ):
        found = where.at(*keys)
        if found is not None and isinstance(found.value, str) and found.value:
            return found.text()
    return None


def _run(file: Path, node: Node, version: str | None, model: str | None, i: int) -> MeasuredRun:
    load, word = _load(node)
    metrics = node["metrics"]
    latency = {name: _statistics(metrics, name) for name in _METRICS}
    latency["itl_ms"] = {"mean": mean} if (mean := latency["tpot_ms"].get("mean")) else {}
    counted = metrics.at("request_latency", "successful", "count")
    completed = counted.count() if counted is not None else len(node["requests"]["successful"])
    failed = sum(
        len(part) for key in ("errored", "incomplete") if (part := node["requests"].get(key))
    )
    records, notes = _records(node, completed)
    duration = node.get("duration")
    seconds = duration.number() if duration is not None else None
    definitions: tuple[str, ...] = (
        "TPOT is what guidellm calls inter-token latency: (last token − first token) / (output "
        "tokens − 1), each request counted as often as it has gaps",
    )
    inputs, outputs = (
        _lengths(metrics, key) for key in ("prompt_token_count", "output_token_count")
    )
    rate, tokens = (
        _rate(metrics, key) for key in ("requests_per_second", "output_tokens_per_second")
    )
    if records is not None:
        found = figures_of(records, seconds)
        inputs, outputs, latency = found.inputs, found.outputs, found.latency
        rate, tokens = found.requests_per_s, found.output_tokens_per_s
        definitions = definitions_of(records)
    return MeasuredRun(
        client=CLIENT,
        version=version,
        file=str(file),
        name=f"{word} {i + 1}",
        model=model,
        measured_on=_day(node),
        load=load,
        completed=completed,
        failed=failed,
        duration_s=seconds,
        inputs=inputs,
        outputs=outputs,
        latency=latency,
        requests_per_s=rate,
        output_tokens_per_s=tokens,
        records=records,
        definitions=definitions,
        notes=tuple(notes),
    )


def _load(node: Node) -> tuple[Load, str]:
    """How it sent requests, and what guidellm calls that."""
    strategy = node.at("config", "strategy") or node.at("args", "strategy")
    if strategy is None:
        raise node.error(
            "has no 'config.strategy'", "the file may be of another version of guidellm"
        )
    kind = strategy["type_"].text()
    users = strategy.get("streams") or strategy.get("max_concurrency")
    rate = strategy.get("rate")
    if kind == "synchronous":
        return Load("closed_loop", concurrency=1), kind
    if kind == "concurrent" and users is not None:
        return Load("closed_loop", concurrency=users.count(1)), kind
    if kind == "throughput":
        most = strategy.get("max_concurrency")
        return (
            Load("burst") if most is None else Load("closed_loop", concurrency=most.count(1))
        ), kind
    if rate is not None:
        cv = {"constant": 0.0, "poisson": 1.0}.get(kind)
        return Load("rate", rate_per_s=rate.number(1e-9), words=kind, cv=cv), kind
    return Load("unknown", words=kind), kind


def _day(node: Node) -> str | None:
    start = node.get("start_time") or node.at("run_stats", "start_time")
    if start is None or not 0 < start.number(-1.0) < 1e11:
        return None
    return datetime.fromtimestamp(start.number(), UTC).date().isoformat()


def _statistics(metrics: Node, name: str) -> Statistics:
    """Of answered requests; empty where there were none, which it writes as zeros."""
    key, ms = _METRICS[name]
    found = metrics.at(key, "successful")
    if found is None or (count := found.get("count")) is None or not count.count():
        return {}
    shares = found["percentiles"]
    return {
        "mean": ms * found["mean"].number(),
        "p50": ms * found["median"].number(),
        **{p: ms * shares[p].number() for p in ("p90", "p95", "p99")},
    }


def _lengths(metrics: Node, key: str) -> Lengths | None:
    found = metrics.at(key, "successful")
    if found is None or (mean := found["mean"].number()) <= 0.0:
        return None
    return Lengths(mean, found["std_dev"].number())


def _rate(metrics: Node, key: str) -> float | None:
    found = metrics.at(key, "successful", "mean")
    return found.number() if found is not None else None


def _records(node: Node, completed: int) -> tuple[Records | None, list[str]]:
    answered = node["requests"]["successful"]
    notes = []
    incomplete = node["requests"].get("incomplete")
    if incomplete is not None and len(incomplete):
        notes.append(f"{len(incomplete):,} requests were under way when the client stopped")
    if len(answered) < completed:
        return None, [
            *notes,
            f"the file keeps {len(answered):,} of {completed:,} answered requests, so that they "
            "cannot be replayed",
        ]
    warm = node.get("warmup_duration")
    if warm is not None and warm.number(-1e9) > 0.0:
        notes.append(f"{warm.number():.3g} s of warm-up are not in the file")
    found, left_out = records_of([_record(item) for item in answered], np.empty(0))
    return (found if len(found) else None), notes + left_out


def _record(item: Node) -> Record:
    """One answered request, of a layout with ``info.timings`` or of the older one."""
    times = item.at("info", "timings")
    if times is not None:
        start, end = times["request_start"].number(), times["request_end"].number()
        first, last = times.get("first_token_iteration"), times.get("last_token_iteration")
    else:
        start, end = item["start_time"].number(), item["end_time"].number()
        first, last = item.get("first_token_time"), item.get("last_token_time")
    ttft = first.number() - start if first is not None else math.nan
    e2e = (last.number() if last is not None else end) - start
    if e2e < 0.0 or ttft < 0.0 or ttft > e2e:
        raise item.error("its times are out of order: sent, first token, last token")
    conversation = item.at("info", "conversation_id")
    prompt, output = item.get("prompt_tokens"), item.get("output_tokens")
    cached = item.get("cached_tokens")
    return Record(
        arrival_s=start,
        input_tokens=prompt.count() if prompt is not None else 0,
        output_tokens=output.count() if output is not None else 0,
        ttft_s=ttft,
        e2e_s=e2e,
        session=conversation.text() if conversation is not None else "",
        cached_tokens=cached.number() if cached is not None else math.nan,
    )
