"""Times and counts of requests with several answers, or with thinking before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.results.latency import RequestTimes
from simulator.results.record import COMPLETED, RunRecord
from simulator.results.window import Window
from simulator.workload.answers import Answers
from simulator.workload.requests import Floats, Ints


def times_of(record: RunRecord) -> RequestTimes:
    """The times of a run's requests, as their clients see them."""
    if record.requests.answers is None:
        return RequestTimes(record)
    return AnswerTimes(record)


@dataclass(frozen=True)
class AnswerTimes(RequestTimes):
    """The same where rows are answers: the first row of a request has the request's figures, the
    others have none.

    The first token is that of the answer that begins first, the last one that of the answer that
    ends last. Hidden thinking comes to no client, and a best-of delivers nothing before its last
    answer has ended. TPOT is the mean pace of a request's answers, each by itself.
    """

    @property
    def _answers(self) -> Answers:
        assert self.record.requests.answers is not None
        return self.record.requests.answers

    @cached_property
    def is_request(self) -> npt.NDArray[np.bool_]:
        """Which rows stand for a request."""
        return self._answers.leads

    @cached_property
    def outcome(self) -> Ints:
        """How each request ended: completed if all its answers did."""
        found = self.record.outcome.copy()
        found[self.is_request] = np.maximum.reduceat(found, self._starts)
        return found

    @cached_property
    def completed(self) -> npt.NDArray[np.bool_]:
        """Which rows stand for a request all of whose answers ended with their last token."""
        flags: npt.NDArray[np.bool_] = self.is_request & (self.outcome == COMPLETED)
        return flags

    @cached_property
    def start_s(self) -> Floats:
        """Start of the first step that worked on the request."""
        return self._earliest(self.record.start_s)

    @cached_property
    def first_token_s(self) -> Floats:
        """The first token that a client sees."""
        return np.where(self._answers.at_once, self.finish_s, self._earliest(self._first_seen_s))

    @cached_property
    def answer_s(self) -> Floats:
        """The first token after the thinking."""
        return np.where(self._answers.at_once, self.finish_s, self._earliest(self._first_answer_s))

    @cached_property
    def finish_s(self) -> Floats:
        """The last token of the last answer."""
        found = np.full(len(self._answers), np.nan)
        found[self.is_request] = np.maximum.reduceat(self.record.finish_s, self._starts)
        return found

    @cached_property
    def tpot_ms(self) -> Floats:
        """Time between the tokens of an answer that a client may see, mean over all of them."""
        more = self._seen - 1
        took = np.where(more > 0, self.record.finish_s - self._first_seen_s, 0.0)
        gaps = self._summed(np.maximum(more, 0).astype(np.float64))
        pace = 1e3 * self._summed(took) / np.where(gaps > 0, gaps, np.nan)
        return np.where(self.completed, pace, np.nan)

    @cached_property
    def tokens(self) -> Ints:
        """Tokens that the client gets."""
        return self._summed(self._seen * self._answers.delivered).astype(np.int64)

    # --- rows ------------------------------------------------------------------------------------

    @cached_property
    def _starts(self) -> Ints:
        return np.flatnonzero(self.is_request)

    @cached_property
    def _seen(self) -> Ints:
        """Tokens of each answer that are shown."""
        answers = self._answers
        return self.record.requests.output_tokens - answers.thinking * answers.hidden

    @cached_property
    def _first_answer_s(self) -> Floats:
        thought = self._answers.thinking > 0
        if self.record.answer_s is None:
            return self.record.first_token_s
        return np.where(thought, self.record.answer_s, self.record.first_token_s)

    @cached_property
    def _first_seen_s(self) -> Floats:
        return np.where(self._answers.hidden, self._first_answer_s, self.record.first_token_s)

    def _earliest(self, times: Floats) -> Floats:
        """The earliest that is defined of a request's rows."""
        found = np.full(len(times), np.nan)
        found[self.is_request] = np.fmin.reduceat(times, self._starts)
        return found

    def _summed(self, values: npt.NDArray[Any]) -> Floats:
        found = np.zeros(len(values))
        found[self.is_request] = np.add.reduceat(values, self._starts)
        return found


def undelivered(record: RunRecord, window: Window) -> int:
    """Tokens of answers that no client gets and that ended within the window."""
    answers = record.requests.answers
    if answers is None:
        return 0
    lost = ~answers.delivered & window.holds(record.finish_s)
    return int(record.generated[lost].sum())


def answers_section(record: RunRecord, window: Window, times: RequestTimes) -> dict[str, Any]:
    """Of the counted requests that completed: how many answers they had, and what of them."""
    counted = window.counted & times.completed
    requests = int(counted.sum())
    answers = record.requests.answers
    rows = counted if answers is None else answers.of_requests(counted)
    answers = answers or Answers.plain(len(record.sent_s))
    tokens, count = int(record.generated[rows].sum()), int(rows.sum())
    thinking = int(answers.thinking[rows].sum())
    lost = int(record.generated[rows & ~answers.delivered].sum())
    silent = (answers.thinking > 0) & (answers.thinking == record.requests.output_tokens)

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "per_request": share(count, requests),
        "thinking_tokens": thinking,
        "thinking_share": share(thinking, tokens),
        "truncated_share": share(int(answers.truncated[rows].sum()), count),
        "without_answer_share": share(int(silent[rows].sum()), count),
        "undelivered_tokens": lost,
        "undelivered_share": share(lost, tokens),
    }
