"""A run over time, in intervals of equal length: what a chart of a day or a week needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulator.results.fleet import Part, parts_of
from simulator.results.lives import DOWN, DRAINING, RECLAIMED, STARTING, UP
from simulator.results.presence import HELD
from simulator.results.record import UNFINISHED, RunRecord
from simulator.results.slo import has_limits, judge, slo_of_classes
from simulator.results.stretches import rows
from simulator.results.totals import chunks
from simulator.results.window import end_of_run
from simulator.workload.requests import Floats, Ints

if TYPE_CHECKING:
    from simulator.results.result import Result

BINS = 240

STATES = {
    "up": (UP,), "starting": STARTING, "draining": (DRAINING, RECLAIMED), "down": (DOWN,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """What befell a replica: ``crash``, ``interruption`` (spot devices taken back) or ``start``,
    which began ``took_s`` before it was up at ``at_s``."""

    kind: str
    at_s: float
    pool: str
    replica: int
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """A run in intervals of equal length, from 0 to its end; means over each interval.

    Args:
        edges_s: where the intervals begin and end; one more than there are of each series.
        sent_per_s, completed_per_s: requests/s.
        waiting: requests in queues, or before any replica takes them; those that get a first step
            at last, or are still waiting at the end.
        met_share: of the requests sent in the interval, those that met every SLO of their class;
            None where none was sent. Empty where there are no limits.
        replicas: by pool and state (``up``, ``starting``, ``draining``, ``down``), how many.
        devices: held, idle and starting ones included.
        usd_per_hour, usd: price of those, and what was spent up to the end of the interval; empty
            where a price is not known. The last of ``usd`` is ``cost.whole_run_usd``.
        power_w: of all devices held, times PUE. Times the intervals: ``energy.whole_run_kwh``.
        gco2e: emitted up to the end of the interval; empty without the grid's intensity.
        events: in order of time.
    """

    edges_s: tuple[float, ...]
    sent_per_s: tuple[float, ...]
    completed_per_s: tuple[float, ...]
    waiting: tuple[float, ...]
    met_share: tuple[float | None, ...]
    replicas: dict[str, dict[str, tuple[float, ...]]]
    devices: tuple[float, ...]
    usd_per_hour: tuple[float, ...]
    usd: tuple[float, ...]
    power_w: tuple[float, ...]
    gco2e: tuple[float, ...]
    events: tuple[FleetEvent, ...]


def history(result: Result, bins: int = BINS) -> History:
    """The run of a result over time, see ``History``."""
    record, times = result.record, result.times
    edges = np.linspace(0.0, max(end_of_run(record), 1e-9), bins + 1)
    hours = float(edges[1] - edges[0]) / 3600.0
    parts = parts_of(result.members, record, result.window)
    held = [held_over_time(record, n, edges) / part.sharing for n, part in enumerate(parts)]
    devices = [part.devices_per_replica * mine for part, mine in zip(parts, held, strict=True)]
    usd = _usd_per_hour(parts, devices)
    power_w = _power_w(parts, held, edges)
    intensity = result.deployment.scenario.energy.grid_gco2e_per_kwh
    sent_s = np.where(times.is_request, record.sent_s, np.nan)
    return History(
        edges_s=_plain(edges),
        sent_per_s=_plain(rate(sent_s, edges)),
        completed_per_s=_plain(rate(np.where(times.is_request, times.finish_s, np.nan), edges)),
        waiting=_plain(_waiting(record, edges)),
        met_share=_met(result, sent_s, edges),
        replicas={
            group.name: replicas_over_time(record, n, edges)
            for n, group in enumerate(record.groups)
        },
        devices=_plain(np.sum(devices, axis=0)),
        usd_per_hour=() if usd is None else _plain(usd),
        usd=() if usd is None else _plain(np.cumsum(usd) * hours),
        power_w=_plain(power_w),
        gco2e=() if intensity is None
        else _plain(np.cumsum(power_w) / 1e3 * hours * intensity),
        events=_events(record),
    )  # fmt: skip


# --- replicas ------------------------------------------------------------------------------------


def replicas_over_time(
    record: RunRecord, number: int, edges: Floats
) -> dict[str, tuple[float, ...]]:
    """How many replicas of the group of that number are in which state, as means."""
    group, lives = record.groups[number], record.lives
    if lives is None:
        there = _plain(np.full(len(edges) - 1, float(group.count)))
        return {"up": there} | {
            state: _plain(np.zeros(len(edges) - 1)) for state in STATES if state != "up"
        }
    numbers, end_s = range(group.first, group.end), end_of_run(record)
    return {
        name: _plain(mean_of_steps(*lives.counts(states, end_s, numbers), edges))
        for name, states in STATES.items()
    }


def held_over_time(record: RunRecord, number: int, edges: Floats) -> Floats:
    """Replicas of the group of that number whose devices are held, as means. Shape (bins,)."""
    group = record.groups[number]
    if record.held is None:
        return np.full(len(edges) - 1, float(group.count))
    if record.lives is not None:
        numbers = range(group.first, group.end)
        return mean_of_steps(*record.lives.counts(HELD, end_of_run(record), numbers), edges)
    mine = (record.held[:, 0] >= group.first) & (record.held[:, 0] < group.end)
    return mean_of_spans(record.held[mine, 1], record.held[mine, 2], edges)


def _events(record: RunRecord) -> tuple[FleetEvent, ...]:
    lives = record.lives
    if lives is None:
        return ()
    found = [
        FleetEvent(kind, float(lives.at_s[i]), *_of(record, int(lives.replica[i])))
        for kind, state in (("crash", DOWN), ("interruption", RECLAIMED))
        for i in np.flatnonzero(lives.state == state)
    ]
    found += [
        FleetEvent("start", up, *_of(record, int(replica)), took_s=up - begun)
        for replica, begun, up in lives.starts().tolist()
    ]
    return tuple(sorted(found, key=lambda event: (event.at_s, event.replica)))


def _of(record: RunRecord, replica: int) -> tuple[str, int]:
    """Name of a replica's pool, and its number within it."""
    group = next(group for group in record.groups if replica < group.end)
    return group.name, replica - group.first


# --- requests ------------------------------------------------------------------------------------


def _waiting(record: RunRecord, edges: Floats) -> Floats:
    begun = np.isfinite(record.queued_s)
    until = np.where(record.outcome == UNFINISHED, edges[-1], np.nan)
    until = np.where(np.isfinite(record.start_s), record.start_s, until)
    counts = begun & np.isfinite(until)
    mean = mean_of_spans(record.queued_s[counts], until[counts], edges)
    if record.lives is not None and len(record.lives.waited):
        mean = mean + mean_of_spans(record.lives.waited[:, 1], record.lives.waited[:, 2], edges)
    return mean


def _met(result: Result, sent_s: Floats, edges: Floats) -> tuple[float | None, ...]:
    if not any(has_limits(slo) for slo in slo_of_classes(result.deployment.scenario).values()):
        return ()
    sent = np.isfinite(sent_s)
    everyone, _ = np.histogram(sent_s[sent], edges)
    good, _ = np.histogram(sent_s[sent & judge(result.deployment, result.times).met], edges)
    return tuple(int(g) / int(n) if n else None for g, n in zip(good, everyone, strict=True))


# --- money and energy ----------------------------------------------------------------------------


def _usd_per_hour(parts: Sequence[Part], devices: list[Floats]) -> Floats | None:
    total = np.zeros(len(devices[0]))
    for part, mine in zip(parts, devices, strict=True):
        if part.deployment.usd_per_device_hour is None:
            return None
        total += part.deployment.usd_per_device_hour * mine
    return total


def _power_w(parts: Sequence[Part], held: list[Floats], edges: Floats) -> Floats:
    """Steps draw what they draw, devices that are held and do not run their idle power; those that
    pools share are idle when none of them runs."""
    width = float(edges[1] - edges[0])
    joules = np.zeros(len(edges) - 1)
    idle_s: dict[str, Floats] = {}
    idle_w: dict[str, float] = {}
    for part, mine in zip(parts, held, strict=True):
        energy, powered_s = _of_steps(part, edges)
        joules += energy
        before = idle_s.get(part.devices_of, np.zeros(len(joules)))
        idle_s[part.devices_of] = before + mine * width - powered_s
        idle_w[part.devices_of] = part.accountant.idle_w
    for name, seconds in idle_s.items():
        joules += idle_w[name] * np.maximum(seconds, 0.0)
    return parts[0].deployment.scenario.energy.pue * joules / width


def _of_steps(part: Part, edges: Floats) -> tuple[Floats, Floats]:
    """Joules of a pool's steps, and the replica-seconds that they are for. Shapes (bins,)."""
    joules, powered_s = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for start, stop in chunks(part.record):
        steps = rows(part.record.steps, start, stop)
        work = part.accountant.account(steps)
        duration = steps.duration_s
        powered = duration if work.powered_s is None else work.powered_s
        row, bins, overlap = overlaps(steps.start_s, steps.start_s + duration, edges)
        share = np.divide(overlap, duration[row], out=np.zeros(len(row)), where=duration[row] > 0)
        joules += np.bincount(bins, work.energy_j[row] * share, len(joules))
        powered_s += np.bincount(bins, powered[row] * share, len(joules))
    return joules, powered_s


# --- intervals -----------------------------------------------------------------------------------


def overlaps(begin: Floats, end: Floats, edges: Floats) -> tuple[Ints, Ints, Floats]:
    """Which spans lie in which intervals of equal length from 0 on, and for how many seconds.
    Shapes (pairs,)."""
    width, bins = edges[1] - edges[0], len(edges) - 1
    first = np.clip((begin / width).astype(np.int64), 0, bins - 1)
    last = np.clip((end / width).astype(np.int64), first, bins - 1)
    count = last - first + 1
    row = np.repeat(np.arange(len(begin)), count)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    which = np.repeat(first, count) + offset
    low = np.maximum(np.repeat(begin, count), edges[which])
    high = np.minimum(np.repeat(end, count), edges[which + 1])
    return row, which, np.maximum(high - low, 0.0)


def mean_of_spans(begin: Floats, end: Floats, edges: Floats) -> Floats:
    """How many spans hold on average. Shape (bins,)."""
    _, bins, seconds = overlaps(begin, end, edges)
    mean: Floats = np.bincount(bins, seconds, len(edges) - 1) / (edges[1] - edges[0])
    return mean


def mean_of_steps(times: Floats, values: Ints, edges: Floats) -> Floats:
    """Mean of a step function within each interval: its integral is linear between changes."""
    ends = np.maximum(np.append(times[1:], edges[-1]), times)
    integral = np.concatenate(([0.0], np.cumsum((ends - times) * values)))
    at = np.interp(edges, np.append(times, max(ends[-1], edges[-1])), integral)
    mean: Floats = np.diff(at) / (edges[1] - edges[0])
    return mean


def rate(times: Floats, edges: Floats) -> Floats:
    """Events/s within each interval. Shape (bins,)."""
    counts, _ = np.histogram(times[np.isfinite(times)], edges)
    per_s: Floats = counts / (edges[1] - edges[0])
    return per_s


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
