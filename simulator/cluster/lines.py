"""Requests that wait at the gateway for the same replicas, and what a group has to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.cluster.routers import Fleet
from simulator.cluster.scaling import Observed
from simulator.cluster.slot import Attempt
from simulator.cluster.slots import SlotGroup


@dataclass(slots=True)
class Line:
    """Requests that may go to the same replicas.

    Args:
        fleet: the replicas that take requests now.
        groups: whose they are.
        scaled: the first of them that scales with its load; None: none does.
        waiting: at the gateway, by their index, in order of arrival.
    """

    fleet: Fleet
    groups: tuple[int, ...]
    scaled: Meter | None
    waiting: dict[int, Attempt] = field(default_factory=dict)


class Meter:
    """What a group has to do, integrated over time, for the decisions about it.

    Attributes:
        slots: of the group.
        requests: on its replicas, lost ones that nobody has noticed included.
        held: at the gateway for it.
        busy: replicas with requests.
        came: requests since the last decision.
    """

    def __init__(self, slots: SlotGroup) -> None:
        self.slots = slots
        self.requests = self.held = self.busy = self.came = 0
        self._since_s = 0.0
        self._begun_s = 0.0
        self._requests_s = self._busy_s = 0.0

    def note(self, now: float, *, requests: int = 0, held: int = 0, busy: int = 0) -> None:
        """Something changes by so much."""
        passed = now - self._since_s
        self._requests_s += (self.requests + self.held) * passed
        self._busy_s += self.busy * passed
        self._since_s = now
        self.requests += requests
        self.held += held
        self.busy += busy

    def read(self, now: float, waiting: int) -> Observed:
        """The interval that ends now; the next one begins."""
        self.note(now)
        span = now - self._begun_s
        observed = Observed(
            now, self.slots.wanted, self._requests_s / span, self.requests + self.held,
            waiting + self.held, self._busy_s / span, self.came / span,
        )  # fmt: skip
        self._begun_s, self.came = now, 0
        self._requests_s = self._busy_s = 0.0
        return observed
