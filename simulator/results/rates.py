"""Counts of requests and tokens within the window, and the rates that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.results.answers import undelivered
from simulator.results.latency import RequestTimes, speed_statistics
from simulator.results.record import OUTCOMES, RunRecord
from simulator.results.totals import Totals
from simulator.results.window import Window


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came out within the window, whenever it was sent.

    Args:
        requests: completed.
        output_tokens: generated, those of requests that never completed included.
        input_tokens: prompt tokens of the requests whose first token came.
    """

    requests: int
    output_tokens: int
    input_tokens: int

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens


def delivered(times: RequestTimes, window: Window, sums: Totals) -> Delivered:
    """Counts what came out within the window. Answers that no client gets are taken off where they
    end, and what a crash throws away where it happens."""
    record = times.record
    first = window.holds(times.first_token_s) & times.is_request
    return Delivered(
        requests=int((window.holds(times.finish_s) & times.is_request).sum()),
        output_tokens=sums.output_tokens
        - undelivered(record, window)
        - _thrown_away(record, window),
        input_tokens=int(record.requests.input_tokens[first].sum()),
    )


def _thrown_away(record: RunRecord, window: Window) -> int:
    if record.lives is None:
        return 0
    lost = record.lives.lost
    mine = (lost.replica >= record.groups[0].first) & (lost.replica < record.groups[-1].end)
    return int(lost.tokens[mine & window.holds(lost.left_s)].sum())


def request_section(times: RequestTimes, window: Window) -> dict[str, Any]:
    """How many requests there were, how many count, and how those ended."""
    record, everyone = times.record, times.is_request
    ends = np.bincount(times.outcome[window.counted], minlength=len(OUTCOMES))
    everything = np.bincount(times.outcome[everyone], minlength=len(OUTCOMES))
    unsent = int((everyone & ~np.isfinite(record.sent_s)).sum())
    rows = record.requests.rows_of(window.counted)
    return {
        "total": int(everyone.sum()),
        "sent": window.sent,
        "not_sent": unsent,
        "cut_by_warmup": window.cut,
        "counted": window.requests,
        "counted_by_outcome": _by_name(ends),
        "all_by_outcome": _by_name(everything, unsent),
        "input_tokens": int(record.requests.input_tokens[window.counted].sum()),
        "refusals": record.refusals,
        "output_tokens": int(record.generated[rows].sum()),
    }


def _by_name(counts: np.ndarray, unsent: int = 0) -> dict[str, int]:
    named = {name: int(count) for name, count in zip(OUTCOMES, counts, strict=True)}
    named["unfinished"] -= unsent
    return named


def throughput_section(
    devices: float, times: RequestTimes, window: Window, out: Delivered
) -> dict[str, Any]:
    """Rates over the window, in which ``devices`` were held on average; null if the window has no
    length."""
    record = times.record
    span = window.duration_s
    sent = (record.sent_s >= window.start_s) & (record.sent_s <= window.end_s) & times.is_request

    def rate(count: float) -> float | None:
        return count / span if span > 0 else None

    return {
        "sent_requests_per_s": rate(int(sent.sum())),
        "requests_per_s": rate(out.requests),
        "output_tokens_per_s": rate(out.output_tokens),
        "total_tokens_per_s": rate(out.total_tokens),
        "output_tokens_per_s_per_device": rate(out.output_tokens / devices) if devices else None,
        "total_tokens_per_s_per_device": rate(out.total_tokens / devices) if devices else None,
        "output_tokens_per_s_per_user": speed_statistics(times.tpot_ms[window.counted]),
        "requests": out.requests,
        "output_tokens": out.output_tokens,
        "input_tokens": out.input_tokens,
    }
