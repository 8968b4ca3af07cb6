"""What inference-perf writes: ``per_request_lifecycle_metrics.json``, and
``summary_lifecycle_metrics.json`` or ``stage_N_lifecycle_metrics.json``.

Facts from inference_perf/reportgen/base.py and inference_perf/apis/base.py: all times in seconds,
of a clock that counts from any moment. TPOT is (last token − first token) / (output tokens − 1) of
each request; ``inter_token_latency`` is over the gaps of all requests; tokens of one event share
its time. Events without text are not recorded; those of the thinking before an answer stand in
``reasoning_chunk_times``, if at all. Requests have their token times under
``info.response_metrics``, older ones under ``info``. Tokens are counted by the client unless
``server_usage`` says what the server counted. There is no version in these files, and no model but
in the requests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.measured.node import Node, printable
from simulator.measured.runs import (
    Lengths,
    Load,
    MeasuredRun,
    Record,
    Statistics,
    recorded_run,
    records_of,
)
from simulator.workload.requests import Floats

CLIENT = "inference-perf"

_METRICS = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "time_per_output_token",
    "itl_ms": "inter_token_latency",
    "e2e_ms": "request_latency",
}

_STATISTICS = {"mean": ("mean",), "p50": ("median", "p50"), "p90": ("p90",), "p95": ("p95",),
               "p99": ("p99",)}  # fmt: skip


def is_request_list(value: Any) -> bool:
    """Whether this is a list of requests."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and {"start_time", "end_time"} <= set(first) and (
        "info" in first or "computed_metrics" in first
    )  # fmt: skip


def is_summary(value: Any) -> bool:
    """Whether this is a summary, of the run or of a stage."""
    return isinstance(value, dict) and {"load_summary", "successes", "failures"} <= set(value)


def read_summary(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """The run, or one stage of it."""
    node = documents[0]
    good, load = node["successes"], node["load_summary"]
    if good.get("latency") is None:
        raise node.error(
            "has no latencies: it is what the server's own metrics say",
            "give the *_lifecycle_metrics.json of requests",
        )
    completed = good["count"].count()
    duration = node.get("benchmark_time_seconds")
    rate = _rate(good, "requests_per_sec")
    seconds = duration.number() if duration is not None else None
    return [
        MeasuredRun(
            client=CLIENT,
            version=None,
            file=str(file),
            name=file.name.partition("_lifecycle")[0],
            model=None,
            measured_on=None,
            load=_load(load),
            completed=completed,
            failed=node["failures"]["count"].count(),
            duration_s=seconds or (completed / rate if rate else None),
            inputs=_lengths(good, "prompt_tokens", "prompt_len"),
            outputs=_lengths(good, "output_tokens", "output_len"),
            latency={name: _statistics(good["latency"], key) for name, key in _METRICS.items()},
            requests_per_s=rate,
            output_tokens_per_s=_rate(good, "output_tokens_per_sec"),
            definitions=(
                "TPOT is (last token − first token) / (output tokens − 1) of each request, as the "
                "client worked it out",
                "ITL is over the gaps between tokens; those of one streamed event have none",
            ),
            notes=("the requests themselves are in per_request_lifecycle_metrics.json, where "
                   "report.request_lifecycle.per_request is on",),
        )
    ]  # fmt: skip


def _load(load: Node) -> Load:
    users, rate = load.get("concurrency"), load.get("requested_rate")
    if users is not None:
        return Load("closed_loop", concurrency=users.count(1))
    if rate is not None and rate.number() > 0.0:
        return Load("rate", rate_per_s=rate.number())
    return Load("unknown", words="all stages together")


def _statistics(latency: Node, key: str) -> Statistics:
    found = latency.get(key)
    if found is None:
        return {}
    values = {
        name: next((value for word in words if (value := found.get(word)) is not None), None)
        for name, words in _STATISTICS.items()
    }
    return {name: 1e3 * value.number() for name, value in values.items() if value is not None}


def _rate(good: Node, key: str) -> float | None:
    found = good.at("throughput", key)
    return found.number() if found is not None else None


def _lengths(good: Node, *keys: str) -> Lengths | None:
    found = [value for key in keys if (value := good.at(key, "mean")) is not None]
    return Lengths(found[0].number()) if found else None


def read_requests(file: Path, documents: Sequence[Node]) -> list[MeasuredRun]:
    """The run, all its stages together."""
    requests = list(documents[0])
    answered = [node for node in requests if node.get("error") is None]
    times = [_token_times(node) for node in answered]
    records, notes = records_of(
        [_record(node, at) for node, at in zip(answered, times, strict=True)],
        np.concatenate([np.empty(0), *(np.diff(at) for at in times if len(at))]),
    )
    return [
        recorded_run(
            records,
            notes,
            completed=len(answered),
            failed=len(requests) - len(answered),
            client=CLIENT,
            version=None,
            file=str(file),
            name="requests",
            model=_model(answered[0]) if answered else None,
            measured_on=None,
            load=Load("unknown", words="as recorded"),
        )
    ]


def _model(node: Node) -> str | None:
    """Out of the body that was sent, where the file keeps it."""
    body = node.get("request")
    try:
        sent = json.loads(body.value) if body is not None and isinstance(body.value, str) else None
    except (ValueError, RecursionError):
        return None
    name = sent.get("model") if isinstance(sent, dict) else None
    return printable(name[:200]) if isinstance(name, str) else None


def _response(node: Node) -> Node | None:
    """Where times and counts of the answer are."""
    info = node.get("info")
    return None if info is None else info.get("response_metrics") or info


def _token_times(node: Node) -> Floats:
    """When each token came, or each event where the file has no more; empty without streaming."""
    response = _response(node)
    for key in ("output_token_times", "chunk_times"):
        found = response.get(key) if response is not None else None
        if found is not None and len(found):
            times = found.numbers()
            if (np.diff(times) < 0.0).any():
                raise found.error("its times do not ascend")
            return times
    return np.empty(0)


def _thinking(node: Node) -> list[float]:
    """When the thinking before the answer began, and infinity, which is later than any answer."""
    response = _response(node)
    found = response.get("reasoning_chunk_times") if response is not None else None
    return [*(found.numbers()[:1].tolist() if found is not None else []), math.inf]


def _record(node: Node, times: Floats) -> Record:
    start, end = node["start_time"].number(), node["end_time"].number()
    computed = node.get("computed_metrics")
    ttft = math.nan
    output = _tokens(node, ("completion_tokens", "output_tokens"), "output_tokens")
    if len(times) > 1 or (len(times) == 1 and output == 1):
        ttft = min(float(times[0]), *_thinking(node)) - start
    elif computed is not None and (given := computed.get("time_to_first_token")) is not None:
        ttft = given.number()
    e2e = (float(times[-1]) if len(times) else end) - start
    if e2e < 0.0 or ttft < 0.0 or ttft > e2e:
        raise node.error("its times are out of order: sent, first token, last token")
    session = node.get("session_id")
    response = _response(node)
    cached = (
        response.at("server_usage", "prompt_tokens_details", "cached_tokens")
        if response is not None
        else None
    )
    return Record(
        arrival_s=start,
        input_tokens=_tokens(node, ("prompt_tokens", "input_tokens"), "input_tokens"),
        output_tokens=output,
        ttft_s=ttft,
        e2e_s=e2e,
        session=session.text() if session is not None else "",
        cached_tokens=cached.number() if cached is not None else math.nan,
    )


def _tokens(node: Node, of_server: Sequence[str], key: str) -> int:
    """As the server counted them, else the client."""
    response = _response(node)
    usage = response.get("server_usage") if response is not None else None
    candidates = [usage.get(name) for name in of_server] if usage is not None else []
    candidates += [
        node.at("computed_metrics", key),
        node.at("info", "request_metrics", "text", key),
        node.at("info", "response_metrics", key),
        node.at("info", key),
    ]
    found = next((value for value in candidates if value is not None), None)
    return found.count() if found is not None else 0
