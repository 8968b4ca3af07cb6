"""How many requests and tokens can come out of a deployment in the time that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator.planner.traffic import Offered
from simulator.workload.requests import Floats

NONE = float("inf")

_Out = Callable[[Floats, Floats], Floats]
"""What comes out at the most, of numbers of replicas and seconds."""


@dataclass(frozen=True)
class Capacity:
    """What a replica can do at the most.

    Args:
        work_s: of its busiest machine, by each request, least. Shape (requests,).
        token_s: the same of any output token after the first of an answer.
        running: most requests under way on a replica.
        gain: most tokens that a step gives one of them.
        alone_s: least time from sending to the last token. Shape (requests,).
    """

    work_s: Floats
    token_s: float
    running: float
    gain: int
    alone_s: Floats


class Rates:
    """Most requests and tokens for each second of the window (simulator.results.window).

    What comes out within the window was under way at its start, or all of its work lies inside.

    Args:
        traffic: what is asked.
        capacity: of one replica.
    """

    def __init__(self, traffic: Offered, capacity: Capacity) -> None:
        self.traffic = traffic
        self.capacity = capacity
        self._work = np.concatenate([[0.0], np.cumsum(np.sort(capacity.work_s))])
        self._alone = np.concatenate([[0.0], np.cumsum(np.sort(capacity.alone_s))])

    def requests(self, replicas: Floats, ends_s: Floats) -> Floats:
        """Requests/s, most; ``ends_s``: when all can be done at the earliest. Shapes
        (candidates,)."""
        return self._most(replicas, ends_s, self._completed)

    def output_tokens(self, replicas: Floats, ends_s: Floats) -> Floats:
        """Output tokens/s, most."""
        return self._most(replicas, ends_s, self._written)

    def total_tokens(self, replicas: Floats, ends_s: Floats) -> Floats:
        """Tokens/s of prompts and outputs, most."""

        def all_of(machines: Floats, span_s: Floats) -> Floats:
            return self._written(machines, span_s) + self.traffic.total_input_tokens

        return self._most(replicas, ends_s, all_of)

    def _most(self, replicas: Floats, ends_s: Floats, out: _Out) -> Floats:
        traffic = self.traffic
        if traffic.timed:
            found = np.zeros(replicas.shape)
            if not traffic.include_drain and traffic.window_s > 0:
                span = np.full(replicas.shape, traffic.window_s)
                found = out(replicas, span) / span
            drained = np.maximum(ends_s - traffic.start_s, 1e-30)
            return np.maximum(found, out(replicas, drained) / drained)
        if not traffic.closed:
            return np.full(replicas.shape, NONE)
        span = self._least_span(replicas)
        rate: Floats = np.where(span > 0, out(replicas, span) / np.maximum(span, 1e-30), NONE)
        return rate

    def _least_span(self, replicas: Floats) -> Floats:
        """Of closed loops: all requests that count were sent within it, each but the users' first
        ones after another one had ended. Shape (candidates,)."""
        users = self.traffic.users
        inside = max(0, self.traffic.least_counted - 3 * users)
        longest: Floats = np.maximum(self._work[inside] / replicas, self._alone[inside] / users)
        return longest

    def _under_way(self, replicas: Floats) -> Floats:
        most: Floats = replicas * self.capacity.running
        return np.minimum(most, self.traffic.users) if self.traffic.closed else most

    def _completed(self, replicas: Floats, span_s: Floats) -> Floats:
        numbers = np.arange(len(self._work), dtype=np.float64)
        fit = _up_to(replicas * span_s, self._work, numbers)
        if self.traffic.closed:
            fit = np.minimum(fit, _up_to(self.traffic.users * span_s, self._alone, numbers))
        most: Floats = np.minimum(self.traffic.count, fit + self._under_way(replicas))
        return most

    def _written(self, replicas: Floats, span_s: Floats) -> Floats:
        all_of_them = float(self.traffic.total_output_tokens)
        if self.capacity.token_s <= 0.0:
            return np.full(replicas.shape, all_of_them)
        # A step that ends within the window may have begun before it.
        edge = self.capacity.gain * self._under_way(replicas) + len(self.traffic.requests)
        most: Floats = np.minimum(all_of_them, replicas * span_s / self.capacity.token_s + edge)
        return most


def _up_to(budget_s: Floats, sums_s: Floats, numbers: Floats) -> Floats:
    """How many of the requests, shortest first, fit into so many seconds, parts of one included."""
    found: Floats = np.interp(budget_s, sums_s, numbers)
    return found
