"""Who is let in, decided when a request reaches the replica that it was routed to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulator.cluster.replica import Replica
from simulator.errors import ScenarioError
from simulator.resolution.terms import Terms
from simulator.scenario.admission import (
    Admission,
    KvUseRule,
    PredictedTtftRule,
    QueueLengthRule,
    RateLimitRule,
    Rule,
)
from simulator.serving.sequence import Sequence
from simulator.workload.requests import Requests

_RETRIES = 0x7265747279
"""Sets the stream of random numbers of pauses apart from all others of the seed."""

_STARTS = 64
"""Starts that the pace of a replica is taken from."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What rules know of the requests: the columns, the classes' terms, and when each was sent."""

    requests: Requests
    terms: Terms
    sent_s: List[float]


class Check(Protocol):
    """A rule with its state."""

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether this rule lets the request in now."""
        ...

    def take(self, sequence: Sequence) -> None:
        """The request was let in by all rules."""
        ...


class QueueLength:
    """At most so many wait."""

    def __init__(self, rule: Rule, traffic: Traffic) -> None:
        assert isinstance(rule, QueueLengthRule)
        self._most = rule.max_waiting

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether there is room in the queue."""
        return replica.queued < self._most

    def take(self, sequence: Sequence) -> None:
        """Nothing to remember."""


class KvUse:
    """At most so much of the KV cache is in use."""

    def __init__(self, rule: Rule, traffic: Traffic) -> None:
        assert isinstance(rule, KvUseRule)
        self._most = rule.max_use

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether the step under way leaves enough blocks free."""
        return replica.kv_used <= self._most * replica.scheduler.kv.total

    def take(self, sequence: Sequence) -> None:
        """Nothing to remember."""


class Pace:
    """Mean gap between the last starts on a replica, of requests that waited when the one before
    them started: the time that each request ahead costs while there is a queue."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=_STARTS)
        self._last_s: float | None = None

    def started(self, now: float, queued_s: float) -> None:
        """A request that reached the queue at ``queued_s`` starts now."""
        if self._last_s is not None and queued_s <= self._last_s:
            self._gaps.append(now - self._last_s)
        self._last_s = now

    @property
    def gap_s(self) -> float:
        """Seconds a request; 0 as long as nobody has had to wait."""
        return sum(self._gaps) / len(self._gaps) if self._gaps else 0.0


class PredictedTtft:
    """The first token can be expected in time."""

    def __init__(self, rule: Rule, traffic: Traffic) -> None:
        assert isinstance(rule, PredictedTtftRule)
        if all(terms.ttft_s is None for terms in traffic.terms):
            raise ScenarioError(
                "no class of traffic has a limit ttft_ms, so that no TTFT is too long",
                where="deployment.admission.rules",
                hint="set slo.ttft_ms, or take another rule than predicted_ttft",
            )
        self._limits = [t.ttft_s and t.ttft_s * rule.factor for t in traffic.terms]
        self._class_id: list[int] = traffic.requests.class_id.tolist()
        self._sent_s = traffic.sent_s
        self._paces: dict[int, Pace] = {}

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether time passed, queue, prompt and way back stay within the limit."""
        pace = self._paces.get(replica.number)
        if pace is None:
            pace = self._paces[replica.number] = Pace()
        if replica.started is None:
            replica.started = pace.started
        index = sequence.index
        limit = self._limits[self._class_id[index]]
        if limit is None:
            return True
        predicted = now - self._sent_s[index] + replica.alone.prefill_s(sequence.prompt)
        predicted += replica.ahead_of(sequence) * pace.gap_s + replica.response_s
        return predicted <= limit

    def take(self, sequence: Sequence) -> None:
        """Nothing to remember."""


class RateLimit:
    """A token bucket for each class."""

    def __init__(self, rule: Rule, traffic: Traffic) -> None:
        assert isinstance(rule, RateLimitRule)
        names = traffic.requests.classes
        for name in rule.classes or ():
            if name not in names:
                raise ScenarioError(
                    f"there is no traffic class '{name}'",
                    where="deployment.admission.rules",
                    hint=f"classes are {', '.join(names)}",
                )
        self._limited = [rule.classes is None or name in rule.classes for name in names]
        self._rate, self._burst = rule.requests_per_s, float(rule.burst)
        self._tokens = [self._burst] * len(names)
        self._filled_s = [0.0] * len(names)
        self._class_id: list[int] = traffic.requests.class_id.tolist()

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether the bucket holds a token."""
        number = self._class_id[sequence.index]
        if not self._limited[number]:
            return True
        more = (now - self._filled_s[number]) * self._rate
        self._tokens[number] = min(self._burst, self._tokens[number] + more)
        self._filled_s[number] = now
        return self._tokens[number] >= 1.0

    def take(self, sequence: Sequence) -> None:
        """Takes the token."""
        number = self._class_id[sequence.index]
        if self._limited[number]:
            self._tokens[number] -= 1.0


CHECKS: dict[str, Callable[[Rule, Traffic], Check]] = {
    "queue_length": QueueLength,
    "kv_use": KvUse,
    "predicted_ttft": PredictedTtft,
    "rate_limit": RateLimit,
}
"""Register a rule of your own here under the ``kind`` of its settings."""


class Gate:
    """Lets requests in or refuses them, and says when a refused one comes again.

    Args:
        admission: the rules and the clients' patience.
        traffic: the requests.
        seed: of the pauses before retries.

    Raises:
        ScenarioError: a rule means nothing for this traffic.
    """

    def __init__(self, admission: Admission, traffic: Traffic, seed: int) -> None:
        answers = traffic.requests.answers
        if answers is not None and answers.several:
            raise ScenarioError(
                "admission control cannot yet decide for several answers to a prompt together",
                where="deployment.admission",
                hint="leave it out, or ask for one answer",
            )
        self._checks = [CHECKS[rule.kind](rule, traffic) for rule in admission.rules]
        self._admission = admission
        self._rng = np.random.default_rng([seed, _RETRIES])
        self._refused: dict[int, int] = {}

    def admits(self, sequence: Sequence, replica: Replica, now: float) -> bool:
        """Whether the request may queue on the replica."""
        if not all(check.admits(sequence, replica, now) for check in self._checks):
            return False
        for check in self._checks:
            check.take(sequence)
        return True

    def comes_again_after(self, index: int) -> float | None:
        """Pause of the client of a refused request, seconds; None if it gives up."""
        refused = self._refused.get(index, 0)
        if refused == self._admission.retries:
            return None
        self._refused[index] = refused + 1
        around = self._admission.jitter * float(self._rng.uniform(-1.0, 1.0))
        return self._admission.backoff_s * 2.0**refused * (1.0 + around)
