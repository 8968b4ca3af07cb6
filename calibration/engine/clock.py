"""What time it is while the engine serves."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Protocol

import torch
from torch.nn.functional import linear


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

    def between_steps(self) -> None:
        """Nothing is timed just now: a moment for the clock's own work, which does not count."""
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

    def between_steps(self) -> None:
        """Real time needs no care."""


class Pace:
    """How fast this processor is just now, by the time of two products that never change: one that
    computes, of numbers in the nearest cache, and one that reads a matrix from memory.

    Cores that are shared with other machines' work speed up and slow down by a tenth within a
    minute. What is measured is told in seconds at a reference pace: a calibration takes its first
    moments as reference and keeps ``reference_s``; whoever compares with it scales to the same.

    Args:
        reference_s: time of the probe at the reference pace; None: at the present one.
    """

    _RECENT, _FIRST = 8, 48
    _EVERY_S = 0.06
    _CACHE_BYTES = 48 << 20

    def __init__(self, reference_s: float | None = None) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).bfloat16()

        self._near = drawn(128, 512), drawn(1024, 512)
        self._far = drawn(1, 1024), drawn(8192, 1024)
        self._others = torch.ones(self._CACHE_BYTES // 4)
        for _ in range(3):
            self._seconds()
        first = [self._seconds() for _ in range(self._FIRST)]
        self.reference_s = reference_s or median(first)
        self._recent = deque(first[-self._RECENT :], maxlen=self._RECENT)
        self._looked = time.thread_time()

    def probe(self) -> bool:
        """Looks at the pace once more, in a few milliseconds, if the last time is long enough ago;
        says whether it did. Not too often: what runs next finds nothing in the caches."""
        if time.thread_time() - self._looked < self._EVERY_S:
            return False
        self._recent.append(self._seconds())
        self._looked = time.thread_time()
        return True

    @property
    def factor(self) -> float:
        """Seconds at the reference pace for a second now."""
        return self.reference_s / median(self._recent)

    @torch.inference_mode()
    def _seconds(self) -> float:
        self._others.sum()  # whatever ran before, the matrix comes from memory
        linear(*self._near)  # and these numbers are near
        start = time.thread_time()
        for _ in range(3):
            linear(*self._near)
        linear(*self._far)
        return time.thread_time() - start


class ThreadClock:
    """Time that this thread has computed, idle time jumped over: what others do on the machine
    stays out as far as it can.

    Args:
        pace: tells time at its reference pace; None: as it passes.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace
        self._factor = pace.factor if pace else 1.0
        self.start()

    def start(self) -> None:
        """It is 0 now."""
        self._passed = 0.0
        self._mark = time.thread_time()

    def now(self) -> float:
        """Seconds since the start."""
        return self._passed + (time.thread_time() - self._mark) * self._factor

    def wait_until(self, at: float) -> None:
        """Nobody computes while everybody waits."""
        self._passed += max(0.0, at - self.now())

    def take_back(self, seconds: float) -> None:
        """The last ``seconds`` do not count."""
        self._passed -= seconds

    def between_steps(self) -> None:
        """Looks at the pace now and then."""
        if self._pace is None:
            return
        passed = self.now()
        if self._pace.probe():
            self._passed, self._factor = passed, self._pace.factor
            self._mark = time.thread_time()
