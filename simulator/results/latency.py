"""Per-request times at the client, and how a column of numbers is summed up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.results.quantiles import GapDistribution
from simulator.results.record import COMPLETED, RunRecord
from simulator.workload.requests import Floats, Ints

Statistics = dict[str, float | int | None]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class RequestTimes:
    """Times of each request in ms, NaN where undefined. Shapes (n,).

    Latencies are those of completed requests; one that timed out has none. Where rows are not
    requests, see ``simulator.results.answers``.
    """

    record: RunRecord

    @cached_property
    def is_request(self) -> npt.NDArray[np.bool_]:
        """Which rows stand for a request."""
        return np.ones(len(self.record.sent_s), dtype=np.bool_)

    @cached_property
    def outcome(self) -> Ints:
        """How each request ended, an index into OUTCOMES."""
        return self.record.outcome

    @cached_property
    def start_s(self) -> Floats:
        """Start of the first step that worked on it."""
        return self.record.start_s

    @cached_property
    def first_token_s(self) -> Floats:
        """First token at the client."""
        return self.record.first_token_s

    @cached_property
    def answer_s(self) -> Floats:
        """First token of the answer at the client, after any thinking."""
        return self.record.first_token_s

    @cached_property
    def finish_s(self) -> Floats:
        """Last token at the client."""
        return self.record.finish_s

    @cached_property
    def tokens(self) -> Ints:
        """Output tokens that the client gets."""
        return self.record.requests.output_tokens

    @cached_property
    def completed(self) -> npt.NDArray[np.bool_]:
        """Which requests ended with their last token."""
        flags: npt.NDArray[np.bool_] = self.record.outcome == COMPLETED
        return flags

    @cached_property
    def queueing_ms(self) -> Floats:
        """From arrival at the replica to the first step that works on it."""
        return self._between(self.record.queued_s, self.start_s)

    @cached_property
    def ttft_ms(self) -> Floats:
        """From sending to the first token at the client."""
        return self._between(self.record.sent_s, self.first_token_s)

    @cached_property
    def ttfat_ms(self) -> Floats:
        """From sending to the first token of the answer, after any thinking."""
        return self._between(self.record.sent_s, self.answer_s)

    @cached_property
    def e2e_ms(self) -> Floats:
        """From sending to the last token at the client."""
        return self._between(self.record.sent_s, self.finish_s)

    @cached_property
    def tpot_ms(self) -> Floats:
        """(E2E − TTFT) / (output tokens − 1); undefined for one token."""
        more = self.record.requests.output_tokens - 1
        total = self._between(self.record.first_token_s, self.record.finish_s)
        return np.where(more > 0, total / np.maximum(more, 1), np.nan)

    @cached_property
    def normalized_ms(self) -> Floats:
        """E2E / output tokens, ms a token."""
        tokens = self.tokens
        return np.where(tokens > 0, self.e2e_ms / np.maximum(tokens, 1), np.nan)

    def _between(self, start_s: Floats, end_s: Floats) -> Floats:
        return np.where(self.completed, 1e3 * (end_s - start_s), np.nan)


def statistics(values: Floats) -> Statistics:
    """Mean, spread and percentiles of the values that are defined (not NaN); null if none is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return _empty()
    quantiles = np.percentile(values, PERCENTILES)
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        **{f"p{p}": float(q) for p, q in zip(PERCENTILES, quantiles, strict=True)},
        "max": float(values.max()),
    }


def gap_statistics(gaps: GapDistribution | None) -> Statistics:
    """The same of inter-token gaps, in ms, over tokens."""
    if gaps is None or not gaps.count:
        return _empty()
    quantiles = gaps.quantiles([p / 100 for p in PERCENTILES])
    return {
        "n": gaps.count,
        "mean": 1e3 * gaps.mean,
        "std": 1e3 * gaps.std,
        "min": 1e3 * gaps.min,
        **{f"p{p}": 1e3 * q for p, q in zip(PERCENTILES, quantiles, strict=True)},
        "max": 1e3 * gaps.max,
    }


def speed_statistics(tpot_ms: Floats) -> Statistics:
    """Tokens/s that single users see, 1000 / TPOT; the slow end is what counts: p10, p1, min."""
    tpot_ms = tpot_ms[tpot_ms > 0]
    if not len(tpot_ms):
        return {"n": 0, "mean": None, "p50": None, "p10": None, "p1": None, "min": None}
    speed = 1e3 / tpot_ms
    middle, slow, slowest = np.percentile(speed, (50, 10, 1))
    return {
        "n": len(speed),
        "mean": float(speed.mean()),
        "p50": float(middle),
        "p10": float(slow),
        "p1": float(slowest),
        "min": float(speed.min()),
    }


def _empty() -> Statistics:
    names = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
    return {"n": 0, **dict.fromkeys(names)}
