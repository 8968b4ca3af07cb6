"""Looks at a run from outside while it goes on, and may end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulator.cluster.recorder import Recorder
from simulator.workload.requests import Requests


@dataclass(frozen=True, slots=True)
class Watched:
    """The run that is looked at.

    Args:
        requests: its traffic.
        recorder: what is known so far.
        timeout_s: clients give up this long after sending; None: never.
        sure: every request that is sent will complete: nobody gives up, is refused or loses its
            replica.
        moves: requests may lose their replica and begin anew on another one.
    """

    requests: Requests
    recorder: Recorder
    timeout_s: float | None
    sure: bool
    moves: bool


Look = Callable[[float], str]
"""Called now and then with the simulated time in seconds; what it returns, if anything, is the
reason to end the run here."""

Watch = Callable[[Watched], Look | None]
"""Called before a run begins; None: there is nothing to look for."""

LOOKS = 30
"""How often one looks at a run, about: after each thirtieth part of its requests has ended."""

LEAST_APART = 20
"""Of short runs more than so many have to end before the next look."""


class EndedEarlyError(Exception):
    """Ends a run whose watch has seen enough."""
