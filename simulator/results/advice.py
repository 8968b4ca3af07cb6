"""What a reader must know before believing a figure: warnings, and notes on what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from simulator.deployment import ResolvedDeployment
from simulator.results.record import RunRecord
from simulator.results.slo import has_limits, slo_of_classes
from simulator.results.window import Window

FEW = 100
"""With fewer completed requests than this, p99 is little more than the slowest one."""

_BACKLOG_GROWTH = 1.3
_BACKLOG_SHARE = 0.05
_BACKLOG_LEAST = 5


def warnings(record: RunRecord, window: Window, summary: dict[str, Any]) -> Iterator[str]:
    """Sentences that say the deployment, or the run, is not what the reader may think."""
    if record.interrupted:
        why = f" ({record.reason})" if record.reason else ""
        yield (
            f"The run was interrupted after {record.end_s:,.1f} simulated seconds{why}; what "
            "follows describes the part before."
        )
    backlog = growing_backlog(record, window)
    if backlog is not None:
        yield (
            f"Overloaded: {backlog[1]} requests were waiting when the last one was sent, "
            f"{backlog[0]} halfway. Latencies grow with the length of the run."
        )
    ends = summary["requests"]["counted_by_outcome"]
    if ends["timed_out"]:
        yield f"{_requests(ends['timed_out'])} timed out; latencies leave them out."
    if ends["rejected"]:
        why = "could never fit"
        if summary["fleet"]:
            why += ", or found the gateway's queue full,"
        why += " and were rejected"
        if record.refusals:
            why = "were rejected: refused by admission control, or too large to ever fit"
        yield f"{_requests(ends['rejected'])} {why}."
    if ends["failed"]:
        yield f"{_requests(ends['failed'])} failed with a replica; latencies leave them out."
    if ends["unfinished"]:
        yield f"{_requests(ends['unfinished'])} had not ended when the run did."
    dropped = summary["requests"]["not_sent"]
    if dropped and not record.interrupted:
        yield (
            f"{_requests(dropped)} never sent, because the turn of the conversation before failed."
        )
    preempted = summary["scheduling"]["preempted_requests"]
    if preempted > 0.01 * max(1, summary["requests"]["counted"]):
        yield (
            f"The KV cache ran full: {_requests(preempted)} lost their blocks and were "
            f"computed again ({summary['scheduling']['preemptions']} preemptions)."
        )
    if summary["checks"]["violations"]:
        yield "The run breaks conservation laws, which is a bug: " + "; ".join(
            summary["checks"]["violations"]
        )


def notes(
    deployment: ResolvedDeployment, record: RunRecord, window: Window, summary: dict[str, Any]
) -> Iterator[str]:
    """Sentences on how to read the figures, and why some are null."""
    yield from window.notes
    yield from record.requests.notes
    completed = summary["requests"]["counted_by_outcome"]["completed"]
    if completed == 0:
        yield "No counted request completed: latencies are null."
    elif completed < FEW:
        few = f"{_requests(completed)} that count{'s' if completed == 1 else ''}"
        yield f"Only {few} completed: p99 is close to the slowest one."
    no_tpot = summary["latency"]["ttft_ms"]["n"] - summary["latency"]["tpot_ms"]["n"]
    if no_tpot:
        yield f"TPOT leaves out {_requests(no_tpot)} of one output token, which have none."
    if not any(has_limits(slo) for slo in slo_of_classes(deployment.scenario).values()):
        yield "No SLO limit is given: goodput is null."
    fleet = summary["fleet"]
    if fleet and fleet["replicas_started_at_once"]:
        yield (
            f"{fleet['replicas_started_at_once']} replicas started in no time: "
            "deployment.cold_start is not given."
        )
    if deployment.usd_per_device_hour is None:
        yield f"Cost is null: {deployment.price_note}."
    yield from _unmeasured(deployment)
    if not deployment.engine.fitted:
        yield (
            f"The overheads of {deployment.engine.title} are estimates, fitted to no measurement."
        )


def _unmeasured(deployment: ResolvedDeployment) -> Iterator[str]:
    """Kernels that nobody measured on this device, where a format or a layer asks for them."""
    efficiency = deployment.hardware.efficiency.seen_by(deployment.engine.name)
    spec, kv = deployment.model, deployment.precision.kv_cache
    title = deployment.hardware.title
    kinds = {group.attention.kind for group in spec.groups if group.attention is not None}
    for kind in sorted(kinds):
        if not efficiency.decode_measured(kv, latent=kind == "mla"):
            yield (
                f"No attention with a KV cache in {kv} was measured on {title}: it is taken from "
                "16 bits with the work of widening, and counts as known to ±25%."
            )
    states = {group.recurrent.kind for group in spec.groups if group.recurrent is not None}
    for state in sorted(states - set(efficiency.recurrent_update)):
        yield (
            f"No recurrent layers of type {state} were measured on {title}: they are estimates, "
            "known to ±25%."
        )
    if spec.sparse:
        yield (
            "Products with 2:4 sparse weights are estimates: 1.5 times as fast as dense ones where "
            "arithmetic binds, known to ±25%."
        )


def growing_backlog(record: RunRecord, window: Window) -> tuple[int, int] | None:
    """Requests waiting at half of the window and at its end, if the queue still grew there; only
    for open arrivals, because a closed loop limits itself."""
    if window.drain_counts or not record.requests.open_loop:
        return None
    half = (window.start_s + window.end_s) / 2
    middle, end = _waiting_at(record, half), _waiting_at(record, window.end_s)
    grown = end >= max(_BACKLOG_LEAST, _BACKLOG_GROWTH * middle)
    return (middle, end) if grown and end >= _BACKLOG_SHARE * window.requests else None


def _waiting_at(record: RunRecord, at_s: float) -> int:
    started = np.where(np.isfinite(record.start_s), record.start_s, np.inf)
    return int(((record.queued_s <= at_s) & (started > at_s)).sum())


def _requests(count: int) -> str:
    return f"{count:,} request" + ("s" if count != 1 else "")
