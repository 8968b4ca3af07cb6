"""Events that call one function and can be used again, and what comes first at one instant."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

from simpy import Environment, Event
from simpy.events import EventPriority

LAST = EventPriority(3)
LATE = EventPriority(2)
NORMAL = EventPriority(1)
"""Step boundaries come after all else at the same time, so that a request that arrives exactly at
a boundary is seen by it (simpy runs lower numbers first; 1 is normal)."""


class Wake(Event):
    """An event that calls one function when the clock reaches it, and can then be used again."""

    def __init__(
        self,
        env: Environment,
        callback: Callable[[Event], None],
        priority: EventPriority = LATE,
    ) -> None:
        self.env = env
        self.priority = priority
        self.callbacks = None  # type: ignore[assignment]  # as simpy leaves an event that is over
        self._value = None
        self._ok = True
        self._calls = [callback]

    def after(self, delay: float) -> None:
        """Happens ``delay`` seconds from now; of events at that time, as its priority says."""
        self.callbacks = self._calls
        self.env.schedule(self, self.priority, delay)

    def at(self, time: float) -> None:
        """Happens at a time: to the last bit, which a sum of now and a delay may miss."""
        self.callbacks = self._calls
        env = self.env
        heappush(env._queue, (time, self.priority, next(env._eid), self))
