"""Workers that take requests from a queue outside the server, so many at a time."""

from __future__ import annotations

from collections import deque

from simulator.workload.requests import Requests


class Workers:
    """Sets of workers, each with a queue of its own, first come, first served.

    Args:
        requests: the traffic, some of which waits for workers.
    """

    def __init__(self, requests: Requests) -> None:
        assert requests.workers is not None
        self._of: list[int] = requests.workers.tolist()
        self._free = list(requests.worker_limits)
        self._waiting: list[deque[int]] = [deque() for _ in self._free]

    def take(self, index: int) -> bool:
        """A request comes: whether it may go to the server now; else it waits."""
        own = self._of[index]
        if own < 0:
            return True
        if self._free[own]:
            self._free[own] -= 1
            return True
        self._waiting[own].append(index)
        return False

    def released_by(self, index: int) -> int | None:
        """The request that is next now that ``index`` is over, if any waits."""
        own = self._of[index]
        if own < 0:
            return None
        if self._waiting[own]:
            following: int = self._waiting[own].popleft()
            return following
        self._free[own] += 1
        return None
