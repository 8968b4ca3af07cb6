"""Which part of a run counts: requests after the warm-up, and the time in which rates are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.results.record import COMPLETED, RunRecord
from simulator.scenario.measurement import Measurement
from simulator.workload.requests import Ints

LEAST_SHARE = 0.1
"""Rates up to the last arrival mean something only if at least this share of the counted requests
completed by then; else the drain counts (bursts, a handful of requests, a much too short run)."""


@dataclass(frozen=True, slots=True)
class Window:
    """Latencies are those of the counted requests, whenever they end; rates, utilization, energy
    and cost are those of the time from ``start_s`` to ``end_s``.

    Args:
        counted: which requests count. Shape (n,).
        sent: how many were sent at all.
        cut: how many were sent before the window and do not count.
        start_s: when the first counted request was sent.
        end_s: when the last request was sent, or the end of the run.
        drain_counts: whether the time after the last request was sent belongs to the window.
        notes: what is unusual, in sentences.
    """

    counted: npt.NDArray[np.bool_]
    sent: int
    cut: int
    start_s: float
    end_s: float
    drain_counts: bool
    notes: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length, seconds."""
        return self.end_s - self.start_s

    @property
    def requests(self) -> int:
        """How many requests count."""
        return int(self.counted.sum())

    def holds(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the times lie in the window, its start left out (NaN does not). Shape as given.

        The start is the moment of an arrival, and nothing else of interest happens then; leaving
        it out lets adjacent windows share no event.
        """
        inside: npt.NDArray[np.bool_] = (times > self.start_s) & (times <= self.end_s)
        return inside


def window_of(record: RunRecord, measurement: Measurement) -> Window:
    """Cuts warm-up and drain.

    The first ``warmup_fraction`` of the requests, in sending order, do not count; requests sent at
    the same instant as the first that counts do, so that a burst is never torn apart. The window
    ends when the last request is sent, unless ``include_drain``, or unless fewer than a tenth of
    the counted requests completed by then.
    """
    sent_s = record.sent_s
    answers = record.requests.answers
    requests = np.ones(len(sent_s), dtype=np.bool_) if answers is None else answers.leads
    sent: Ints = np.flatnonzero(np.isfinite(sent_s) & requests)
    end_s = end_of_run(record)
    if not len(sent):
        nothing = np.zeros(len(sent_s), dtype=np.bool_)
        return Window(nothing, 0, 0, 0.0, end_s, True, ("No request was sent.",))
    times = np.sort(sent_s[sent])
    wanted_cut = min(int(measurement.warmup_fraction * len(sent)), len(sent) - 1)
    start_s = float(times[wanted_cut])
    counted: npt.NDArray[np.bool_] = requests & (sent_s >= start_s)  # NaN compares false
    cut = len(sent) - int(counted.sum())
    notes = []
    if cut < wanted_cut:
        notes.append(
            f"The warm-up cuts {cut} instead of {wanted_cut} requests, because requests that were "
            "sent at the same instant stay together."
        )
    last_s = float(times[-1])
    drain = measurement.include_drain
    if not drain:
        early = (record.outcome == COMPLETED) & counted & (record.finish_s <= last_s)
        drain = last_s <= start_s or int(early.sum()) < LEAST_SHARE * int(counted.sum())
        if drain:
            notes.append(
                f"Rates include the time after the last request was sent, because only "
                f"{int(early.sum())} of {int(counted.sum())} counted requests completed before."
            )
    return Window(counted, len(sent), cut, start_s, end_s if drain else last_s, drain, tuple(notes))


def end_of_run(record: RunRecord) -> float:
    """When the last thing happened, at the client too."""
    return max(record.end_s, float(np.nanmax(record.finish_s, initial=0.0)))
