"""What ``vllm bench serve --save-result`` writes, with ``--save-detailed`` or without.

Facts from vllm/benchmarks/serve.py and vllm/benchmarks/lib/endpoint_request_func.py: times in
seconds, statistics in ms; ``itls`` are the gaps between streamed events; ``start_times`` count from
any moment; a failed request has a text in ``errors``, zero tokens and zero TTFT. TPOT is
(latency − TTFT) / (output tokens − 1) of each request. ``latencies`` came later than the rest;
without them a request lasts its TTFT and all its gaps. ``--append-result`` puts one run a line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.measured.node import Node
from simulator.measured.runs import (
    GAPS,
    LATENCIES,
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
from simulator.workload.requests import Floats

CLIENT = "vllm bench serve"

_NAMES = {"ttft_ms": "ttft", "tpot_ms": "tpot", "itl_ms": "itl", "e2e_ms": "e2el"}
_STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}


def is_result(value: Any) -> bool:
    """Whether this is a run's document."""
    return isinstance(value, dict) and {"model_id", "completed", "request_throughput"} <= set(value)


def read_results(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """A run a document."""
    several = len(documents) > 1
    return [_run(file, node, i + 1 if several else 0) for i, node in enumerate(documents)]


def _run(file: Path, node: Node, index: int) -> MeasuredRun:
    if not isinstance(node.value, dict) or not is_result(node.value):
        raise node.error("is no run of `vllm bench serve` as the ones before it are")
    if "total_input_sequences" in node.value:
        raise node.error("is a run of embeddings", "runs that generate tokens can be read")
    completed = node["completed"].count()
    duration = node["duration"].number()
    records, notes = _records(node)
    latency = {name: _statistics(node, name) for name in LATENCIES}
    definitions: tuple[str, ...] = (
        "TPOT is (E2E − TTFT) / (output tokens − 1) of each request, as the client worked it out",
        GAPS,
    )
    inputs, outputs = (
        Lengths(node[key].number() / completed) if completed else None
        for key in ("total_input_tokens", "total_output_tokens")
    )
    rate, tokens = node["request_throughput"].number(), node["output_throughput"].number()
    if records is not None:
        found = figures_of(records, duration)
        definitions = definitions_of(records)
        inputs, outputs, latency = found.inputs, found.outputs, found.latency
        rate, tokens = found.requests_per_s or rate, found.output_tokens_per_s or tokens
    name = node.get("label") or node.get("backend")
    title = name.text() if name is not None else "run"
    return MeasuredRun(
        client=CLIENT,
        version=None,
        file=str(file),
        name=f"{title} {index}" if index else title,
        model=node["model_id"].text(),
        measured_on=_day(node),
        load=_load(node),
        completed=completed,
        failed=_failed(node, completed),
        duration_s=duration,
        inputs=inputs,
        outputs=outputs,
        latency=latency,
        requests_per_s=rate,
        output_tokens_per_s=tokens,
        records=records,
        definitions=definitions,
        notes=tuple(notes),
    )


def _failed(node: Node, completed: int) -> int | None:
    failed, sent, errors = node.get("failed"), node.get("num_prompts"), node.get("errors")
    if errors is not None and len(errors) < completed:
        raise errors.error(f"has {len(errors):,} entries, and 'completed' is {completed:,}")
    if failed is not None:
        return failed.count()
    if errors is not None:
        return len(errors) - completed
    return max(sent.count() - completed, 0) if sent is not None else None


def _load(node: Node) -> Load:
    users = node.get("max_concurrency")
    rate = node.get("request_rate")
    if node.get("ramp_up_strategy") is not None:
        return Load("unknown", words="a ramp")
    endless = rate is None or rate.value in ("inf", math.inf)
    if users is not None and endless:
        return Load("closed_loop", concurrency=users.count(1))
    if endless or rate is None:
        return Load("burst")
    words = f"at most {users.count(1):,} at a time" if users is not None else ""
    return Load("rate", rate_per_s=rate.number(1e-9), words=words, cv=_cv(node))


def _cv(node: Node) -> float:
    """Gaps are gamma-distributed, and ``burstiness`` is their shape, 1 / cv²."""
    shape = node.get("burstiness")
    return (
        1.0
        if shape is None
        else 0.0
        if shape.value == math.inf
        else 1.0 / math.sqrt(shape.number(1e-9))
    )


def _day(node: Node) -> str | None:
    date = node.get("date")
    found = re.match(r"(\d{4})(\d\d)(\d\d)-", date.text()) if date is not None else None
    return "-".join(found.groups()) if found else None


def _statistics(node: Node, name: str) -> Statistics:
    """As the client worked them out; it writes zeros where nothing was measured."""
    found = {}
    for statistic, word in _STATISTICS.items():
        value = node.get(f"{word}_{_NAMES[name]}_ms")
        if value is not None and (ms := value.number()) > 0.0:
            found[statistic] = ms
    return found


def _column(node: Node, key: str, n: int) -> Floats | None:
    found = node.get(key)
    if found is None:
        return None
    if len(found) != n:
        raise found.error(f"has {len(found):,} entries, 'input_lens' {n:,}")
    return found.numbers()


def _records(node: Node) -> tuple[Records | None, list[str]]:
    """Of a file with details."""
    lens = node.get("input_lens")
    outputs = _column(node, "output_lens", len(lens)) if lens is not None else None
    ttfts = _column(node, "ttfts", len(lens)) if lens is not None else None
    if lens is None or outputs is None or ttfts is None:
        return None, ["the file has no details: `--save-detailed` keeps every request"]
    n = len(lens)
    inputs = lens.numbers()
    gaps, whole = _gaps(node, n)
    lasting = _column(node, "latencies", n)
    starts = _column(node, "start_times", n)
    answered = _answered(node, outputs)
    end = lasting if lasting is not None else ttfts + whole
    records = [
        Record(
            arrival_s=float(starts[i]) if starts is not None else 0.0,
            input_tokens=Node(float(inputs[i]), node.file, f"input_lens[{i}]").count(),
            output_tokens=Node(float(outputs[i]), node.file, f"output_lens[{i}]").count(),
            ttft_s=float(ttfts[i]) or math.nan,
            e2e_s=float(end[i]),
        )
        for i in np.flatnonzero(answered).tolist()
    ]
    for i, record in zip(np.flatnonzero(answered).tolist(), records, strict=True):
        if record.ttft_s > record.e2e_s * (1 + 1e-9):
            raise node.error(f"request {i}: its first token came after its last one")
    found, notes = records_of(
        records,
        np.concatenate([gaps[i] for i in np.flatnonzero(answered)] or [np.empty(0)]),
        arrivals=starts is not None,
    )
    if starts is None:
        notes.append("the file has no 'start_times': the client was too old to write them")
    tokens, events = int(found.output_tokens.sum()) - len(found), len(found.gaps_s)
    if events and tokens > events * 1.01:
        notes.append(f"{tokens:,} further tokens came in {events:,} events")
    return (found, notes) if len(found) else (None, notes)


def _gaps(node: Node, n: int) -> tuple[list[Floats], Floats]:
    """The gaps of each request, and their sums."""
    found = node["itls"]
    if len(found) != n:
        raise found.error(f"has {len(found):,} entries, 'input_lens' {n:,}")
    gaps = [item.numbers() for item in found]
    return gaps, np.array([float(item.sum()) for item in gaps], dtype=np.float64)


def _answered(node: Node, outputs: Floats) -> np.ndarray:
    """Which requests did not fail. Shape (n,)."""
    errors = node.get("errors")
    if errors is None:
        return outputs > 0
    if len(errors) != len(outputs):
        raise errors.error(f"has {len(errors):,} entries, 'input_lens' {len(outputs):,}")
    return np.array([not item.value for item in errors], dtype=bool)
