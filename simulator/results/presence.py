"""How many replicas there were, why, and what their coming and going cost requests and money."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from simulator.results.fleet import Part
from simulator.results.latency import statistics
from simulator.results.lives import DOWN, NOT_HELD, RECLAIMED, STATES, UP, Floats, Ints, Lives
from simulator.results.record import FAILED, RunRecord
from simulator.results.window import Window, end_of_run

HELD = tuple(state for state in range(len(STATES)) if state not in NOT_HELD)


def fleet_section(parts: Sequence[Part], record: RunRecord, window: Window) -> dict[str, Any]:
    """Replicas over the window and requests that lost or waited for one; nothing if all replicas
    are up all the time."""
    lives = record.lives
    if lives is None:
        return {}
    pools = {
        part.name: _pool(part, number, lives, record, window) for number, part in enumerate(parts)
    }
    each = list(pools.values())

    def total(key: str) -> Any:
        values = [pool[key] for pool in each]
        return None if None in values else sum(values)

    held, peak = total("device_hours"), total("peak_device_hours")
    return {
        **{key: total(key) for key in _SUMMED},
        "start_s": statistics(_start_times(lives, window)),
        "replicas_started_at_once": _at_once(lives, window),
        "saved_share": 1.0 - held / peak if peak else None,
        **_requests(lives, record, window),
        "pools": pools,
    }


_SUMMED = (
    "replicas_mean", "up_mean", "starts", "crashes", "interruptions", "device_hours",
    "peak_device_hours", "peak_usd",
)  # fmt: skip


def _pool(
    part: Part, number: int, lives: Lives, record: RunRecord, window: Window
) -> dict[str, Any]:
    group = record.groups[number]
    numbers = range(group.first, group.end)
    end_s = end_of_run(record)
    held = lives.counts(HELD, end_s, numbers)
    up = lives.counts((UP,), end_s, numbers)
    span = window.duration_s
    mine = (lives.replica >= group.first) & (lives.replica < group.end)
    inside = mine & window.holds(lives.at_s)
    starts = lives.starts()
    started = (starts[:, 0] >= group.first) & (starts[:, 0] < group.end)
    hours = part.held_s * part.devices_per_replica / 3600.0
    peak = lives.most[number] * span * part.devices_per_replica / 3600.0
    price = part.deployment.usd_per_device_hour
    return {
        "replicas_mean": part.held_s / span if span > 0 else None,
        "replicas_max": _highest(held, window),
        "up_mean": _mean(up, window),
        "starts": int((started & window.holds(starts[:, 2])).sum()),
        "crashes": int((inside & (lives.state == DOWN)).sum()),
        "interruptions": int((inside & (lives.state == RECLAIMED)).sum()),
        "device_hours": hours,
        "peak_replicas": lives.most[number],
        "peak_device_hours": peak,
        "peak_usd": None if price is None else price * peak,
        "availability": {
            str(least): share_of_time(up, least, window)
            for least in range(1, lives.most[number] + 1)
        },
    }


def _start_times(lives: Lives, window: Window) -> Floats:
    starts = lives.starts()
    return (starts[:, 2] - starts[:, 1])[window.holds(starts[:, 2])]


def _at_once(lives: Lives, window: Window) -> int:
    """Replicas that were up the moment they were wanted, those of the beginning left out."""
    rises = (lives.state == UP) & window.holds(lives.at_s) & (lives.at_s > 0)
    starts = int(window.holds(lives.starts()[:, 2]).sum())
    return int(rises.sum()) - starts - int(_back(lives, window))


def _back(lives: Lives, window: Window) -> int:
    """Rises straight from a crash: a repair, or the end of an outage."""
    back = 0
    for replica in np.unique(lives.replica):
        mine = np.flatnonzero(lives.replica == replica)
        back += sum(
            lives.state[a] == DOWN and lives.state[b] == UP and bool(window.holds(lives.at_s[b]))
            for a, b in pairwise(mine)
        )
    return back


def _requests(lives: Lives, record: RunRecord, window: Window) -> dict[str, Any]:
    waited = np.zeros(len(record.outcome))
    np.add.at(waited, lives.waited[:, 0].astype(np.int64), lives.waited[:, 2] - lives.waited[:, 1])
    retries = np.zeros(len(record.outcome), dtype=np.int64)
    np.add.at(retries, lives.lost.request, 1)
    tokens = np.zeros(len(record.outcome), dtype=np.int64)
    np.add.at(tokens, lives.lost.request, lives.lost.tokens)
    counted = window.counted
    return {
        "waited_requests": int((counted & (waited > 0)).sum()),
        "waited_ms": statistics(1e3 * waited[counted & (waited > 0)]),
        "retried_requests": int((counted & (retries > 0)).sum()),
        "retries": int(retries[counted].sum()),
        "failed_requests": int((counted & (record.outcome == FAILED)).sum()),
        "lost_tokens": int(tokens[counted].sum()),
    }


# --- numbers over time ---------------------------------------------------------------------------

Steps = tuple[Floats, Ints]
"""Times of changes, ascending from 0, and the value from each on."""


def _pieces(steps: Steps, window: Window) -> tuple[Floats, Ints]:
    """Seconds within the window for which each value held."""
    times, values = steps
    begin = np.clip(times, window.start_s, window.end_s)
    end = np.clip(np.append(times[1:], np.inf), window.start_s, window.end_s)
    return end - begin, values


def _mean(steps: Steps, window: Window) -> float | None:
    seconds, values = _pieces(steps, window)
    return float((seconds * values).sum()) / window.duration_s if window.duration_s > 0 else None


def _highest(steps: Steps, window: Window) -> int:
    seconds, values = _pieces(steps, window)
    return int(values[seconds > 0].max(initial=0))


def share_of_time(steps: Steps, least: int, window: Window) -> float | None:
    """Share of the window in which the value was at least ``least``; None of an empty one."""
    seconds, values = _pieces(steps, window)
    if window.duration_s <= 0:
        return None
    return float(seconds[values >= least].sum()) / window.duration_s
