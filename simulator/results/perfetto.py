"""The run in the Chrome trace-event format, which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0
(times in µs; "X" complete slices, "C" counters, "b"/"e" asynchronous spans, "M" names).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.results.record import OUTCOMES
from simulator.workload.requests import Ints

if TYPE_CHECKING:
    from simulator.results.result import Result

MAX_SLICES = 20_000
"""Beyond this, neighbouring rows of the step table are drawn as one slice."""

MAX_REQUESTS = 1_000
"""Beyond this, evenly chosen requests are drawn."""

Event = dict[str, Any]


def trace(result: Result) -> dict[str, Any]:
    """The whole document: one process a replica with its steps, counters and requests; lanes have
    tracks of their own."""
    record = result.record
    used = np.unique(record.steps.replica)
    events: list[Event] = []
    lanes = range(1 if record.lane is None else int(record.steps.lane.max()) + 1)
    for replica in used.tolist():
        pid = replica + 1
        events.append(_name("process_name", pid, 0, f"replica {replica}"))
        for lane in lanes:
            events.append(_name("thread_name", pid, 1 + lane, _of("steps", lane, lanes)))
    group = max(1, -(-len(record.steps) // MAX_SLICES))
    for replica in used.tolist():
        for lane in lanes:
            events += _steps(result, replica, lane, lanes, group)
    chosen = _chosen_requests(result)
    for index in chosen.tolist():
        events += _request(result, index)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "name": result.deployment.scenario.name,
            "rows_of_the_step_table": len(record.steps),
            "rows_a_slice": group,
            "slices": "equal consecutive steps of a replica are one slice"
            + (f"; {group} neighbouring stretches are merged into one" if group > 1 else ""),
            "requests_in_all": len(record.sent_s),
            "requests_shown": len(chosen),
            "requests": "all that were worked on"
            if len(chosen) < MAX_REQUESTS
            else "evenly chosen among those that were worked on, in the order of their numbers",
        },
    }


def _of(what: str, lane: int, lanes: range) -> str:
    """The name of a track, with the lane's number where there are several."""
    return what if len(lanes) == 1 else f"{what}, lane {lane}"


def _steps(result: Result, replica: int, lane: int, lanes: range, group: int) -> list[Event]:
    """Steps and counters of one lane; most replicas have one."""
    record = result.record
    steps = record.steps
    mine = np.flatnonzero((steps.replica == replica) & (steps.lane == lane))
    if not len(mine):
        return []
    first = mine[::group]
    starts = np.arange(0, len(mine), group)
    last = mine[np.minimum(starts + group, len(mine)) - 1]
    start_us = 1e6 * steps.start_s[first]
    end_us = 1e6 * (steps.start_s[last] + steps.duration_s[last])
    tokens = steps.tokens

    def summed(column: Ints) -> list[int]:
        return [int(x) for x in np.add.reduceat(column[mine], starts)]

    columns = zip(
        start_us.tolist(), (end_us - start_us).tolist(), summed(steps.steps), summed(tokens),
        summed(steps.prefill_tokens), summed(steps.wasted_tokens),
        steps.decode[last].tolist(), steps.prefill[last].tolist(),
        steps.running[last].tolist(), steps.waiting[last].tolist(),
        (steps.kv_blocks[last] / record.blocks_of(steps.replica[last])).tolist(), strict=True,
    )  # fmt: skip
    events: list[Event] = []
    pid = replica + 1
    requests, use = _of("requests", lane, lanes), _of("KV use", lane, lanes)
    for at, span, count, out, prompt, wasted, decode, prefill, running, waiting, kv in columns:
        name = f"{decode} decode" if not prompt else f"{decode} decode + {prompt} prompt tokens"
        args = {
            "steps": count, "output_tokens": out, "prompt_tokens": prompt,
            "recomputed_or_padding": wasted, "decoding": decode, "prefilling": prefill,
        }  # fmt: skip
        slice_ = {"name": name if group == 1 else f"{count} steps", "cat": "step", "ph": "X"}
        events.append(slice_ | {"ts": at, "dur": span, "pid": pid, "tid": 1 + lane, "args": args})
        counts = {"running": running, "waiting": waiting}
        events.append({"name": requests, "ph": "C", "ts": at, "pid": pid, "args": counts})
        events.append({"name": use, "ph": "C", "ts": at, "pid": pid, "args": {"%": 100 * kv}})
    return events


def _chosen_requests(result: Result) -> Ints:
    """Requests that were worked on, at most MAX_REQUESTS, evenly spread."""
    worked = np.flatnonzero(np.isfinite(result.record.start_s) & (result.record.replica >= 0))
    if len(worked) <= MAX_REQUESTS:
        return worked
    places = np.linspace(0, len(worked) - 1, MAX_REQUESTS).round().astype(np.int64)
    chosen: Ints = worked[places]
    return chosen


def _request(result: Result, index: int) -> list[Event]:
    """Spans of one request: all of it, and its queueing, prefill and decode inside."""
    record = result.record
    requests = record.requests
    marks = [
        float(column[index])
        for column in (record.queued_s, record.start_s, record.first_token_s, record.finish_s)
    ]
    end = max(mark for mark in marks if np.isfinite(mark))
    args = {
        "input_tokens": int(requests.input_tokens[index]),
        "output_tokens": int(record.generated[index]),
        "cached_tokens": int(record.cached_tokens[index]),
        "preemptions": int(record.preemptions[index]),
        "outcome": OUTCOMES[int(record.outcome[index])],
    }
    events = _span(f"request {index}", index, int(record.replica[index]), marks[0], end, args)
    phases = zip(("queued", "prefill", "decode"), marks, marks[1:], strict=False)
    for name, start, stop in phases:
        if np.isfinite(start) and np.isfinite(stop):
            events[-1:-1] = _span(name, index, int(record.replica[index]), start, stop, {})
    return events


def _span(
    name: str, index: int, replica: int, start_s: float, end_s: float, args: dict[str, Any]
) -> list[Event]:
    common = {"name": name, "cat": "request", "id": index, "pid": replica + 1, "tid": 0}
    return [
        common | {"ph": "b", "ts": 1e6 * start_s, "args": args},
        common | {"ph": "e", "ts": 1e6 * end_s},
    ]


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
