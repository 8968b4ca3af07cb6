"""Figures of a run that decide what it would cost if it were paid for otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulator.errors import ScenarioError, UserError
from simulator.resolution.pools import group_of, resolve_pools
from simulator.results.presence import HELD, share_of_time
from simulator.results.result import Result


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures of a run that decide what it costs otherwise; power without PUE.

    Args:
        title: of the device.
        replica_devices: devices of one replica.
        held_shares: share of the window in which at least 1, 2, … replicas were held.
        replicas: held on average.
        device_w: mean power of a device that is held.
        idle_w, tdp_w: of a device.
        start_h: a cold start of a replica.
        requests_per_s: completed.
        input_tokens, cached_tokens, output_tokens: of a request, on average.
        slo_held: None where no limit is given.
        spread: lowest and highest cost per token (80%) over the predicted one; None: unknown.
    """

    title: str
    replica_devices: int
    held_shares: tuple[float, ...]
    replicas: float
    device_w: float
    idle_w: float
    tdp_w: float
    start_h: float
    requests_per_s: float
    input_tokens: float
    cached_tokens: float
    output_tokens: float
    slo_held: bool | None
    spread: tuple[float, float] | None


def facts_of(result: Result) -> Facts:
    """See ``Facts``.

    Raises:
        UserError: the run has several kinds of replicas, or nothing was completed.
    """
    summary, scenario = result.summary(), result.deployment.scenario
    pools = resolve_pools(scenario)
    if len(pools) > 1:
        raise ScenarioError(
            "break-even points are those of one kind of replica, and this deployment has "
            f"{len(pools)} pools",
            where="deployment.pools",
            hint="compare scenarios with one pool each",
        )
    resolved = pools[0].resolved
    hardware = resolved.deployment.hardware
    group = group_of(pools[0], resolved.cost, resolved.front_end)
    out, window = summary["throughput"], summary["run"]["window"]
    if not out["requests"] or window["duration_s"] <= 0:
        raise UserError("no request was completed, so nothing can be compared")
    devices = summary["simulated"]["hardware"]["devices_per_replica"]
    shares = _held_shares(result, group.replicas)
    power = hardware.power
    per_request = 1.0 / out["requests"]
    inputs = out["input_tokens"] * per_request
    hit_rate = summary["kv_cache"].get("prefix_hit_rate") or 0.0
    slo = summary["slo"]
    return Facts(
        title=hardware.title,
        replica_devices=devices,
        held_shares=shares,
        replicas=float(sum(shares)),
        device_w=summary["energy"]["power_w_mean_per_device"] / summary["energy"]["pue"],
        idle_w=power.idle_w.value,
        tdp_w=power.tdp_w.value,
        start_h=group.life.start.alone_s / 3600.0 if group.life is not None else 0.0,
        requests_per_s=out["requests_per_s"],
        input_tokens=inputs,
        cached_tokens=inputs * hit_rate,
        output_tokens=out["output_tokens"] * per_request,
        slo_held=slo["held"] if slo["limits_given"] else None,
        spread=_spread(summary),
    )


def _held_shares(result: Result, replicas: int) -> tuple[float, ...]:
    record = result.record
    if record.lives is None:
        return (1.0,) * replicas
    group = record.groups[0]
    steps = record.lives.counts(HELD, record.end_s, range(group.first, group.end))
    shares = [share_of_time(steps, k, result.window) for k in range(1, record.lives.most[0] + 1)]
    return tuple(float(share) for share in shares if share)


def _spread(summary: dict[str, Any]) -> tuple[float, float] | None:
    intervals = (summary.get("uncertainty") or {}).get("intervals", {})
    pair = intervals.get("cost.usd_per_million_output_tokens")
    value = summary["cost"]["usd_per_million_output_tokens"]
    return None if not pair or not value else (pair[0] / value, pair[1] / value)
