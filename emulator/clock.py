"""Moves a simulated deployment by the time on the wall."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic

from emulator.turns import Turns
from simulator.live import Asked, Listener, LiveDeployment

LOG = logging.getLogger("servecast")

TURN_S = 0.005
"""After so long, events that are overdue let the sockets have a turn."""

AWAKE_S = 0.0005
"""So long before something is due the loop does not sleep: its timers know milliseconds only."""

LATE_S, LATE_FOR_S = 0.1, 1.0
"""Who is so late for so long cannot keep up, and is told once."""


class Clock:
    """Simulated time is the time since ``start`` times ``speed``. Nothing happens before its time,
    and nothing is skipped: where the host is too slow, things happen late.

    Args:
        deployment: moved by nobody else.
        speed: simulated seconds a second.
        lateness: told how late things were, in wall seconds, every time that something happened:
            from when the first of it should have been at its clients until all was written.

    Attributes:
        turns: of those who write what has come.
        keeps_up: the host has been quick enough.
        failure: of the simulation; None: it goes on.
        on_failure: called if it fails.
    """

    def __init__(
        self, deployment: LiveDeployment, speed: float, lateness: Callable[[float], None]
    ) -> None:
        self.deployment = deployment
        self.speed = speed
        self.keeps_up = True
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.turns = Turns()
        self._stopped = False
        self._lateness = lateness
        self._timer: asyncio.Handle | None = None
        self._due = inf
        self._late_since = inf

    def start(self) -> None:
        """Time begins, in the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._start = monotonic() - self.deployment.now_s / self.speed
        self.arm()

    def stop(self) -> None:
        """Time ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopped = True

    @property
    def over(self) -> bool:
        """Nothing happens any more: it was stopped, or the simulation has failed."""
        return self._stopped or self.failure is not None

    @property
    def now_s(self) -> float:
        """Simulated seconds since the start."""
        return (monotonic() - self._start) * self.speed

    def send(self, requests: Sequence[tuple[Asked, Listener]]) -> list[int]:
        """Clients send requests at the moment up to which ``catch_up`` let things happen; see
        ``LiveDeployment.send``."""
        numbers = [self.deployment.send(asked, listener) for asked, listener in requests]
        self.arm()
        return numbers

    def cancel(self, number: int) -> None:
        """Its client gives up at the moment up to which ``catch_up`` let things happen."""
        self.deployment.cancel(number)
        self.arm()

    def catch_up(self, moment: float = inf) -> None:
        """Lets all happen that is due, so that what comes next comes at its time.

        Args:
            moment: that time, of ``time.monotonic``, if it was a little while ago.

        Raises:
            RuntimeError: the simulation has failed, or its time has ended.
        """
        if self.over:
            raise RuntimeError("the simulation has ended") from self.failure
        try:
            self.deployment.advance((min(moment, monotonic()) - self._start) * self.speed)
        except Exception as error:
            self._fail(error)
            raise RuntimeError("the simulation has failed") from error

    def arm(self) -> None:
        """Looks anew when something happens next; whoever changes the deployment calls it."""
        due = self.deployment.next_s
        if self._timer is not None:
            if due == self._due:
                return
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due == inf:
            return
        wait = self._start + due / self.speed - monotonic()
        if wait <= AWAKE_S:
            self._timer = self.loop.call_soon(self._tick)
        else:
            self._timer = self.loop.call_later(wait - AWAKE_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        deployment, due = self.deployment, self._due
        if due > self.now_s:
            self.arm()
            return
        stop = monotonic() + TURN_S
        try:
            while True:
                now, following = self.now_s, deployment.next_s
                if following > now:
                    deployment.advance(now)
                    break
                deployment.advance(following)
                if monotonic() > stop:
                    break
        except Exception as error:
            self._fail(error)
            return
        # The clients that were told get their bytes before this call.
        wall = self._start + due / self.speed
        self.turns.add(partial(self.loop.call_soon, self._measure, wall))
        self.arm()

    def _measure(self, due: float) -> None:
        now = monotonic()
        late = now - due
        self._lateness(late)
        if late < LATE_S:
            self._late_since = inf
        elif self._late_since == inf:
            self._late_since = now
        elif self.keeps_up and now - self._late_since > LATE_FOR_S:
            self.keeps_up = False
            LOG.warning(
                "Warning: this machine cannot keep up: answers come %.1f s late. Nothing is "
                "skipped; use a lower --speed or less load.", late,
            )  # fmt: skip

    def _fail(self, error: Exception) -> None:
        self.failure = error
        LOG.error("The simulation has failed", exc_info=error)
        self.loop.call_soon(self.on_failure)
