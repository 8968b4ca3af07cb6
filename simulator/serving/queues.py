"""Who of the waiting goes first, where that is not who came first.

First come, first served is a plain ``deque``. The queues here have the same few operations:
``append`` a newcomer, look at the head ``[0]``, ``popleft`` it, ``appendleft`` who lost its blocks,
``remove`` who gave up, iterate in the order of ``popleft``. Every sequence gets a ``ticket`` when
it comes and keeps it, so that one that lost its blocks goes back to its own place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Protocol

from simulator.scenario.queue import DeadlineQueue, FairQueue, FcfsQueue, Queue
from simulator.serving.fair import FairOrder
from simulator.serving.sequence import Sequence

Entry = tuple[float, int, Sequence]
"""(rank, ticket, sequence), both numbers negated: the last of ascending entries is the head."""


class Waiting(Protocol):
    """The operations that schedulers use."""

    def append(self, sequence: Sequence, /) -> None:
        """Queues a newcomer."""
        ...

    def appendleft(self, sequence: Sequence, /) -> None:
        """Takes back a sequence that was admitted and lost its blocks."""
        ...

    def popleft(self) -> Sequence:
        """Takes out the head, which is admitted."""
        ...

    def remove(self, sequence: Sequence, /) -> None:
        """Takes out a sequence whose client gave up."""
        ...

    def __getitem__(self, index: int, /) -> Sequence:
        """The head, for 0."""
        ...

    def __iter__(self) -> Iterator[Sequence]:
        """In the order of ``popleft``."""
        ...

    def __len__(self) -> int: ...


class RankedQueue:
    """Lowest ``rank`` first, then in order of arrival; ranks stay as they are."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._tickets = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sequence:
        return self._entries[-1 - index][2]

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[2] for entry in reversed(self._entries))

    def append(self, sequence: Sequence) -> None:
        """Queues a newcomer."""
        sequence.ticket = self._tickets
        self._tickets += 1
        insort(self._entries, (-sequence.rank, -sequence.ticket, sequence))

    def appendleft(self, sequence: Sequence) -> None:
        """Takes back a sequence that lost its blocks, to where its rank and ticket belong."""
        insort(self._entries, (-sequence.rank, -sequence.ticket, sequence))

    def popleft(self) -> Sequence:
        """Takes out the head."""
        return self._entries.pop()[2]

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence.

        Raises:
            ValueError: it does not wait here.
        """
        if not _take_out(self._entries, sequence):
            raise ValueError(f"{sequence} does not wait here")

    def refresh(self, now: float) -> None:
        """Before every plan: what depends on the time."""

    def until(self) -> float:
        """When the head changes without anybody coming or going, if time alone does that."""
        return inf

    def may_lead(self, sequence: Sequence) -> bool:
        """Whether a newcomer, queued already or not, could be the head. True is always safe."""
        if not self._entries:
            return True
        head = self._entries[-1]
        return head[2] is sequence or -sequence.rank > head[0]

    def ahead_of(self, sequence: Sequence, now: float) -> int:
        """How many would go before a newcomer with that rank."""
        return len(self._entries) - bisect_left(
            self._entries, -sequence.rank, key=lambda entry: entry[0]
        )

    def oldest(self) -> Sequence:
        """Who came first of all that wait."""
        return min(self, key=lambda sequence: sequence.ticket)


def _take_out(entries: list[Entry], sequence: Sequence) -> bool:
    at = bisect_left(entries, (-sequence.rank, -sequence.ticket), key=lambda entry: entry[:2])
    if at < len(entries) and entries[at][2] is sequence:
        del entries[at]
        return True
    return False


class DeferringQueue(RankedQueue):
    """Ranked, but who is past its ``latest`` start goes behind all who are not (by rank again)."""

    def __init__(self) -> None:
        super().__init__()
        self._late: list[Entry] = []
        self._now = -inf

    def __len__(self) -> int:
        return len(self._entries) + len(self._late)

    def __getitem__(self, index: int) -> Sequence:
        self._settle()
        assert index == 0, "only the head can be looked at"
        return (self._entries or self._late)[-1][2]

    def __iter__(self) -> Iterator[Sequence]:
        late = list(self._late)
        for entry in reversed(self._entries):
            if entry[2].latest < self._now:
                insort(late, entry)
            else:
                yield entry[2]
        for entry in reversed(late):
            yield entry[2]

    def appendleft(self, sequence: Sequence) -> None:
        """Takes back a sequence that lost its blocks; who has begun is not deferred."""
        sequence.latest = inf
        super().appendleft(sequence)

    def popleft(self) -> Sequence:
        """Takes out the head."""
        self._settle()
        return (self._entries or self._late).pop()[2]

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence.

        Raises:
            ValueError: it does not wait here.
        """
        if not _take_out(self._late, sequence):
            super().remove(sequence)

    def refresh(self, now: float) -> None:
        """Before every plan: who is late by now."""
        self._now = now

    def _settle(self) -> None:
        """Moves late ones away from the front."""
        entries = self._entries
        while entries and entries[-1][2].latest < self._now:
            insort(self._late, entries.pop())

    def until(self) -> float:
        """When the head will be late."""
        self._settle()
        return self._entries[-1][2].latest if self._entries else inf

    def may_lead(self, sequence: Sequence) -> bool:
        """Whether a newcomer could be the head."""
        return not self._entries or super().may_lead(sequence)

    def ahead_of(self, sequence: Sequence, now: float) -> int:
        """How many would go before a newcomer with that rank that is not late."""
        entries = self._entries[len(self._entries) - super().ahead_of(sequence, now) :]
        return sum(1 for entry in entries if entry[2].latest >= now)


Order = RankedQueue | FairOrder
"""Queues in which a newcomer may become the head."""


def make_queue(queue: Queue, weights: tuple[float, ...]) -> deque[Sequence] | Order:
    """An empty queue; ``weights`` of the traffic classes."""
    if isinstance(queue, FcfsQueue):
        return deque()
    if isinstance(queue, FairQueue):
        return FairOrder(queue, weights)
    if isinstance(queue, DeadlineQueue) and queue.defer_hopeless:
        return DeferringQueue()
    return RankedQueue()
