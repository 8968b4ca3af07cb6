"""What time it is while the engine serves."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the start of serving."""

    def start(self) -> None:
        """It is 0 now."""
        ...

    def now(self) -> float:
        """Seconds since the start."""
        ...

    def wait_until(self, at: float) -> None:
        """Returns when it is ``at``, or at once if that has passed."""
        ...


class WallClock:
    """Real time; for devices that work on their own while the host waits."""

    _SPIN_S = 5e-4

    def start(self) -> None:
        """It is 0 now."""
        self._zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._zero

    def wait_until(self, at: float) -> None:
        """Sleeps, and spins at the end because sleeping overshoots."""
        left = at - self.now() - self._SPIN_S
        if left > 0:
            time.sleep(left)
        while self.now() < at:
            pass


class ThreadClock:
    """Time that this thread has computed, and idle time jumped over: what others do on the machine
    stays out as far as it can."""

    def start(self) -> None:
        """It is 0 now."""
        self._zero = time.thread_time()

    def now(self) -> float:
        """Seconds since the start."""
        return time.thread_time() - self._zero

    def wait_until(self, at: float) -> None:
        """Nobody computes while everybody waits."""
        self._zero -= max(0.0, at - self.now())

    def take_back(self, seconds: float) -> None:
        """The last ``seconds`` do not count."""
        self._zero += seconds
