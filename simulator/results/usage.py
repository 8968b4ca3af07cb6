"""How the replicas were used: queue, batch, KV cache, and what their time went to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.deployment import ResolvedDeployment
from simulator.results.fleet import Part, added, response_s
from simulator.results.lanes import active_s
from simulator.results.moved import moved_section
from simulator.results.record import LANES_APART, TIMED_OUT, RunRecord
from simulator.results.totals import PhaseTotals, Totals
from simulator.results.waste import waste_section
from simulator.results.window import Window, end_of_run
from simulator.workload.requests import Floats

RESOURCES = {
    "compute": "compute-bound",
    "memory": "bound by memory bandwidth",
    "network": "bound by the link between devices",
    "host": "bound by the host",
    "stall": "bound by waiting for transfers, for other devices or for a slow replica",
    "latency": "bound by kernel launches and latencies",
}
"""What to say when a resource binds most of the time."""


def scheduling_section(parts: Sequence[Part], window: Window) -> dict[str, Any]:
    """Batch, queue and preemptions; figures of one replica, averaged over all of them."""
    sums = added(parts)
    span = sum(part.held_s for part in parts)
    computed = sums.prefill_tokens
    waiting = sum(waiting_time_s(part.deployment, part.record, window) for part in parts)
    preempted = np.concatenate([part.record.preemptions[part.counted_rows] for part in parts])
    return {
        "steps": sums.steps,
        "step_ms_mean": 1e3 * sums.busy_s / sums.steps if sums.steps else None,
        "batch_size_mean": sums.sequences / sums.steps if sums.steps else None,
        "batch_size_max": sums.most_sequences,
        "running_mean": sums.running_s / span if span > 0 else None,
        "running_max": sums.most_running,
        "waiting_mean": waiting / span if span > 0 else None,
        "waiting_max": sums.most_waiting,
        "preemptions": int(preempted.sum()),
        "preempted_requests": int((preempted > 0).sum()),
        "prefill_tokens_computed": computed,
        "wasted_prefill_tokens": sums.wasted_tokens,
        "wasted_prefill_share": sums.wasted_tokens / computed if computed else None,
    }


def waiting_time_s(deployment: ResolvedDeployment, record: RunRecord, window: Window) -> float:
    """Request-seconds within the window spent in a queue before the first step, exactly."""
    until = np.where(np.isfinite(record.start_s), record.start_s, left_s(deployment, record))
    start = np.maximum(record.queued_s, window.start_s)
    waited = np.minimum(until, window.end_s) - start
    return float(np.maximum(waited[np.isfinite(waited)], 0.0).sum())


def left_s(deployment: ResolvedDeployment, record: RunRecord) -> Floats:
    """When each request left its replica: with its last token, at the end of the step in which its
    client gave up or its replica crashed, or never before the end of the run."""
    back_s = response_s(deployment)
    left = np.where(np.isfinite(record.finish_s), record.finish_s - back_s, end_of_run(record))
    ended_by_crash = np.zeros(len(left), dtype=np.bool_)
    if record.lives is not None:
        crashed = record.lives.gone[:, 0].astype(np.int64)
        left[crashed] = record.lives.gone[:, 1]
        ended_by_crash[crashed] = True
    timeout_s = deployment.scenario.deployment.timeout_s
    gave_up = (record.outcome == TIMED_OUT) & ~ended_by_crash
    if timeout_s is None or not gave_up.any():
        return left
    deadline = np.maximum(record.sent_s + timeout_s, record.queued_s)
    steps = record.steps
    lanes, row_lanes = record.replica, steps.replica
    if record.lane is not None:
        lanes = lanes + LANES_APART * record.lane
        row_lanes = row_lanes + LANES_APART * steps.lane
    for lane in np.unique(lanes[gave_up]):
        mine = np.flatnonzero(gave_up & (lanes == lane))
        rows = np.flatnonzero(row_lanes == lane)
        left[mine] = deadline[mine]
        if len(rows):
            end = (steps.start_s + steps.duration_s)[rows]
            under_way = np.minimum(np.searchsorted(end, deadline[mine]), len(rows) - 1)
            busy = steps.start_s[rows][under_way] <= deadline[mine]
            left[mine] = np.where(busy, np.maximum(end[under_way], deadline[mine]), deadline[mine])
    return left


def kv_section(parts: Sequence[Part]) -> dict[str, Any]:
    """KV blocks in use on a replica, what they hold, and what the prefix cache saved."""
    sums = added(parts)
    prompt = cached = 0
    started = np.zeros(len(parts[0].record.start_s), dtype=np.bool_)
    for part in parts:
        if part.role == "decode":  # its prompts were computed, or found, elsewhere
            continue
        own = part.counted_rows & np.isfinite(part.record.start_s)
        prompt += int(part.record.requests.input_tokens[own].sum())
        cached += int(part.record.cached_tokens[own].sum())
        started |= own
    usable = sum(part.held_s * part.record.kv_blocks for part in parts)
    allocated = sum(part.sums.kv_blocks_s * part.record.block_size for part in parts)
    return {
        "blocks": _only([part.record.kv_blocks for part in parts]),
        "block_tokens": _only([part.record.block_size for part in parts]),
        "use_mean": sums.kv_blocks_s / usable if usable > 0 else None,
        "use_max": max(part.sums.most_kv_blocks / part.record.kv_blocks for part in parts),
        "stored_over_allocated_tokens": sums.kv_tokens_s / allocated if allocated else None,
        "fragmentation": _fragmentation(parts, sums, allocated),
        "prefix_hit_rate": cached / prompt if prompt else None,
        **moved_section(
            parts[0].record.moved, prompt, cached, started, end_of_run(parts[0].record)
        ),
        **_waste(parts),
    }


def _waste(parts: Sequence[Part]) -> dict[str, Any]:
    """Of the pools with contiguous runs."""
    mine = [part for part in parts if part.deployment.limits.kv_reserve]
    return waste_section(
        parts[0].record.waste,
        parts[0].window,
        sum(part.held_s * part.record.kv_blocks for part in mine),
        sum(part.sums.kv_blocks_s for part in mine),
        sum(part.sums.kv_tokens_s for part in mine),
    )


def _only(values: list[int]) -> int | None:
    """The value that all have; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _fragmentation(parts: Sequence[Part], sums: Totals, allocated: float) -> float | None:
    """Share of the allocated slots that hold no token. Undefined where a token does not take one
    slot of its own: blocks of shared prefixes hold it for several sequences, and layers with local
    attention drop it, and recurrent layers take blocks without tokens."""
    for part in parts:
        deployment = part.deployment
        shared = deployment.limits.prefix_caching and bool(part.record.cached_tokens.any())
        local = any(group.span.kind != "full" for group in deployment.model.groups)
        dropped = local and deployment.engine.hybrid_kv
        if shared or dropped or deployment.model.recurrent:
            return None
    return max(0.0, 1.0 - sums.kv_tokens_s / allocated) if allocated else None


def utilization_section(parts: Sequence[Part], window: Window) -> dict[str, Any]:
    """Shares of the time in which devices were held, of the peaks, and what binds."""
    sums = added(parts)
    span = sum(part.held_s for part in parts)
    busy = sums.worked_s

    def over(amount: float, whole: float) -> float | None:
        return amount / whole if whole > 0 else None

    def of_peak(amount: str, peak: str, *, held: bool) -> float | None:
        done = sum(getattr(part.sums, amount) for part in parts)
        most = sum(
            getattr(part.accountant, peak) * (part.held_s if held else part.sums.worked_s)
            for part in parts
        )
        return over(done, most)

    return {
        "busy_share": over(min(busy, span), span),  # sums of times are rounded
        "bubble_share": over(_bubbles_s(parts, window), span),
        "mfu": of_peak("model_flops", "peak_flops", held=True),
        "mbu": of_peak("hbm_bytes", "peak_bytes_per_s", held=True),
        "mfu_while_busy": of_peak("model_flops", "peak_flops", held=False),
        "mbu_while_busy": of_peak("hbm_bytes", "peak_bytes_per_s", held=False),
        "link_gb_per_s_per_device_mean": over(sums.link_bytes / 1e9, span),
        "link_busy_share": over(sum(_network_s(part) for part in parts), span),
        "steps_with_prompts": _phase(sums.phases["prefill"], sums.busy_s),
        "decode_only_steps": _phase(sums.phases["decode"], sums.busy_s),
        "verdict": verdict(sums),
    }


def _bubbles_s(parts: Sequence[Part], window: Window) -> float:
    """Replica-seconds in which a lane has a step under way, but devices wait for other stages or
    ranks. Replicas with one lane have none."""
    return sum(
        max(0.0, active_s(part.record.steps, window.start_s, window.end_s) - part.sums.worked_s)
        for part in parts
        if part.lanes > 1
    )


def _network_s(part: Part) -> float:
    """Replica-seconds of operators bound by the link; each lane has its share of the devices."""
    phases = part.sums.phases.values()
    return sum(phase.resource_s.get("network", 0.0) for phase in phases) / part.lanes


def _phase(phase: PhaseTotals, busy_s: float) -> dict[str, Any]:
    def shares(seconds: dict[str, float]) -> dict[str, float]:
        whole = sum(seconds.values())
        ordered = sorted(seconds.items(), key=lambda item: -item[1])
        return {name: part / whole for name, part in ordered if part > 0} if whole > 0 else {}

    resources = shares(phase.resource_s)
    return {
        "steps": phase.steps,
        "step_ms_mean": 1e3 * phase.busy_s / phase.steps if phase.steps else None,
        "share_of_busy_time": phase.busy_s / busy_s if busy_s > 0 else None,
        "binding_resource": next(iter(resources), None),
        "time_by_resource": resources,
        "time_by_operator": shares(phase.operator_s),
    }


def verdict(sums: Totals) -> str:
    """One line: which resource binds steps with prompts and steps that only decode."""
    parts = []
    for title, phase in (
        ("steps with prompts", sums.phases["prefill"]),
        ("decode-only steps", sums.phases["decode"]),
    ):
        whole = sum(phase.resource_s.values())
        if whole > 0:
            name = max(phase.resource_s, key=lambda key: phase.resource_s[key])
            share = phase.resource_s[name] / whole
            binding = RESOURCES.get(name, f"bound by {name}")
            parts.append(f"{title} are {binding} ({share:.0%} of their time)")
    return "; ".join(parts) if parts else "no step ran within the window"


def littles_law(parts: Sequence[Part], record: RunRecord) -> dict[str, Any]:
    """Requests in service on average over the whole run, counted in two independent ways: from the
    steps (L) and from the requests' own times (arrival rate λ × mean stay W). The stay runs from
    the first step to the end, so λ·W exceeds L by the time that preempted requests wait."""
    span = end_of_run(record)
    stays = [left_s(part.deployment, part.record) - part.record.start_s for part in parts]
    stay = np.concatenate(stays)
    if record.lives is not None:  # stays that a crash ended, and that were followed by others
        stay = np.append(stay, record.lives.lost.left_s - record.lives.lost.start_s)
    stay = np.maximum(stay[np.isfinite(stay)], 0.0)
    if span <= 0 or not len(stay):
        return {"l": None, "lambda_per_s": None, "w_s": None, "lambda_w": None}
    return {
        "l": added(parts).run_running_s / span,
        "lambda_per_s": len(stay) / span,
        "w_s": float(stay.mean()),
        "lambda_w": float(stay.sum()) / span,
    }
