"""The place of every request in a queue that is not first come, first served."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass
from math import exp, inf, isnan, log, nan, sqrt

import numpy as np

from simulator.cluster.alone import Alone
from simulator.errors import ScenarioError
from simulator.resolution.terms import Terms
from simulator.scenario.queue import (
    DeadlineQueue,
    FairQueue,
    PriorityQueue,
    Queue,
    ShortestFirstQueue,
)
from simulator.serving.sequence import Sequence
from simulator.workload.growing import GrowingRequests
from simulator.workload.requests import Floats, Requests

_PREDICTIONS = 0x70726564
"""Sets the stream of random numbers of predictions apart from all others of the seed."""

Rank = Callable[[Sequence], None]
"""Gives a sequence its place; called once, when the request reaches the server."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What places depend on.

    Args:
        requests: the traffic.
        terms: of its classes.
        sent_s: when each was sent, by index; known when ``Rank`` is called.
        seed: of the predictions.
        alone: least times.
        response_s: from the end of a step to the client.
    """

    requests: Requests
    terms: Terms
    sent_s: List[float]
    seed: int
    alone: Alone
    response_s: float


def predicted_output(requests: Requests, error: float, seed: int) -> Floats:
    """Output tokens as a predictor sees them: true ones times a log-normal factor with mean 1 and
    standard deviation ``error``. Shape (n,); longer traffic begins with the same draws."""
    outputs = requests.output_tokens.astype(np.float64)
    if error == 0.0:
        return outputs
    spread = sqrt(log(1.0 + error * error))
    drawn = np.random.default_rng([seed, _PREDICTIONS]).standard_normal(len(requests))
    predicted: Floats = outputs * np.exp(spread * drawn - spread * spread / 2.0)
    return predicted


class _Guesses:
    """``predicted_output`` of requests as they come, each drawn once.

    Args:
        requests: the traffic.
        error, seed: see ``predicted_output``.
    """

    def __init__(self, requests: GrowingRequests, error: float, seed: int) -> None:
        self._asked = requests.asked
        self._known: array[float] = requests.column(nan)
        self._spread = sqrt(log(1.0 + error * error))
        self._rng = np.random.default_rng([seed, _PREDICTIONS])

    def __getitem__(self, index: int) -> float:
        known = self._known[index]
        if isnan(known):
            spread = self._spread
            drawn = self._rng.standard_normal()
            known = self._asked[index].output_tokens * exp(spread * drawn - spread * spread / 2.0)
            self._known[index] = known
        return known


def predictions(requests: Requests, error: float, seed: int) -> List[float] | _Guesses:
    """See ``predicted_output``, by the index of the request."""
    if isinstance(requests, GrowingRequests):
        return _Guesses(requests, error, seed)
    predicted: list[float] = predicted_output(requests, error, seed).tolist()
    return predicted


def _by_priority(queue: Queue, sent: Sent) -> Rank:
    class_id = sent.requests.class_id
    priority = [float(terms.priority) for terms in sent.terms]

    def rank(sequence: Sequence) -> None:
        sequence.rank = priority[class_id[sequence.index]]

    return rank


def _by_work(queue: Queue, sent: Sent) -> Rank:
    """Aging at a constant rate changes all ranks alike as time goes by, so that it is enough to
    put later ones back by what earlier ones have aged: work + rate × time of sending."""
    assert isinstance(queue, ShortestFirstQueue)
    sent_s, aging = sent.sent_s, queue.aging_tokens_per_s
    on_input, on_output = queue.input_weight, queue.output_weight
    outputs = predictions(sent.requests, queue.prediction_error, sent.seed)

    def rank(sequence: Sequence) -> None:
        index = sequence.index
        work = on_input * sequence.prompt + on_output * outputs[index]
        sequence.rank = work + aging * sent_s[index]

    return rank


def _by_deadline(queue: Queue, sent: Sent) -> Rank:
    assert isinstance(queue, DeadlineQueue)
    by_ttft = queue.limit == "ttft"
    limits = [terms.ttft_s if by_ttft else terms.e2e_s for terms in sent.terms]
    if all(limit is None for limit in limits):
        raise ScenarioError(
            f"no class of traffic has a limit {queue.limit}_ms, so that nothing has a deadline",
            where="engine.queue",
            hint=f"set slo.{queue.limit}_ms, or another engine.queue.limit",
        )
    class_id, sent_s, alone = sent.requests.class_id, sent.sent_s, sent.alone
    defers = queue.defer_hopeless

    def rank(sequence: Sequence) -> None:
        index = sequence.index
        limit = limits[class_id[index]]
        if limit is None:
            sequence.rank = sequence.latest = inf
            return
        sequence.rank = deadline = sent_s[index] + limit
        if defers:
            needs = alone.prefill_s(sequence.prompt) + sent.response_s
            if not by_ttft:
                needs += alone.decode_s(sequence.prompt, sequence.output - 1)
            sequence.latest = deadline - needs

    return rank


def _by_class(queue: Queue, sent: Sent) -> Rank:
    class_id = sent.requests.class_id

    def rank(sequence: Sequence) -> None:
        sequence.rank = float(class_id[sequence.index])

    return rank


RANKS: dict[str, Callable[[Queue, Sent], Rank]] = {
    PriorityQueue().kind: _by_priority,
    ShortestFirstQueue().kind: _by_work,
    DeadlineQueue().kind: _by_deadline,
    FairQueue().kind: _by_class,
}
"""Register an order of your own here under the ``kind`` of its settings."""


def make_rank(queue: Queue, sent: Sent) -> Rank | None:
    """How requests get their places; None for first come, first served.

    Raises:
        ScenarioError: deadlines are asked for where no class has any.
    """
    return RANKS[queue.kind](queue, sent) if queue.kind in RANKS else None
