"""What clients send: sequences made of requests, and who waits for whom."""

from __future__ import annotations

import numpy as np

from simulator.serving.sequence import Sequence
from simulator.workload.growing import GrowingRequests
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests


class Sequences:
    """Makes the sequence of a request, with the texts that its prompt shares with others."""

    def __init__(self, requests: Requests) -> None:
        self._prompt = requests.input_tokens.tolist()
        self._output = requests.output_tokens.tolist()
        self._prefixes = requests.prefixes

    def make(self, index: int) -> Sequence:
        """A new sequence of request ``index``."""
        prompt, output = self._prompt[index], self._output[index]
        prefixes = self._prefixes
        if prefixes is None:
            return Sequence(index, prompt, output)
        low, high = int(prefixes.offsets[index]), int(prefixes.offsets[index + 1])
        if low == high:
            return Sequence(index, prompt, output)
        ends = prefixes.end[low:high].tolist()
        streams = tuple(zip(prefixes.stream[low:high].tolist(), ends, strict=True))
        return Sequence(index, prompt, output, streams, bool(prefixes.continues[index]))


class ComingSequences(Sequences):
    """The same for requests that are not known beforehand, whose texts have keys already."""

    def __init__(self, requests: GrowingRequests) -> None:
        self._asked = requests.asked

    def make(self, index: int) -> Sequence:
        """A new sequence of request ``index``."""
        asked = self._asked[index]
        if asked.keys is None:
            sequence = Sequence(index, asked.input_tokens, asked.output_tokens)
        else:
            sequence = Sequence(index, asked.input_tokens, asked.output_tokens, ())
            sequence.chain = list(asked.keys)
        sequence.follows = asked.follows
        return sequence


class Dependents:
    """Requests that wait for another one: later turns of a session, users of a closed loop."""

    def __init__(self, requests: Requests) -> None:
        self._pause = requests.arrival_s.tolist()
        self._pool = requests.pool.tolist()
        self._children: dict[int, list[int]] = {}
        for child in np.flatnonzero(requests.parent != ROOT).tolist():
            self._children.setdefault(int(requests.parent[child]), []).append(child)
        self._pools = [
            iter(np.flatnonzero((requests.pool == pool) & (requests.parent == ROOT)).tolist())
            for pool in range(len(requests.pool_concurrency))
        ]
        self._concurrency = requests.pool_concurrency

    def first(self) -> list[tuple[int, float]]:
        """The requests with which the users of the closed loops begin, and when they send them."""
        return [
            (index, self._pause[index])
            for pool, users in zip(self._pools, self._concurrency, strict=True)
            for _, index in zip(range(users), pool, strict=False)
        ]

    def released_by(self, index: int, *, served: bool) -> list[tuple[int, float]]:
        """Requests that follow the end of ``index``, with their pause after it. The rest of a
        session whose turn failed is dropped; a closed-loop user goes on."""
        released = []
        if served:
            for child in self._children.pop(index, ()):
                released.append((child, self._pause[child]))
        pool = self._pool[index]
        if pool != OPEN_LOOP:
            following = next(self._pools[pool], None)
            if following is not None:
                released.append((following, self._pause[following]))
        return released
