"""The replicas of one group as they come and go: each slot is a number under which one replica
after the other lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from simpy import Environment, Event

from simulator.cluster.journal import Journal
from simulator.cluster.replica import Replica
from simulator.cluster.slot import Attempt, Crash, Slot
from simulator.cluster.starting import Life, Loading
from simulator.results.lives import (
    AWAY,
    BOOTING,
    DOWN,
    DRAINING,
    LOADING,
    OFF,
    PROVISIONING,
    RECLAIMED,
    UP,
    WARMING,
)

_ENDING = (DRAINING, RECLAIMED)

REPAIR_S = 30.0
"""Until devices work again after a crash on demand, where the scenario has none at random: about
what it takes to notice that a process is gone, and to start another one."""

_CRASHES, _INTERRUPTIONS = 0x6372617368, 0x73706F74
"""Set the streams of random numbers apart from all others of the seed."""


class Host(Protocol):
    """What a group needs of the cluster."""

    env: Environment
    journal: Journal
    loads: list[int]
    over: bool

    def refresh(self, slot: Slot) -> None:
        """A slot may take requests now, or no longer."""
        ...

    def risen(self, replica: Replica) -> None:
        """A replica begins to live."""
        ...

    def idled(self, slot: Slot) -> None:
        """All requests of a slot were lost at once."""
        ...

    def retire(self, replica: Replica) -> None:
        """A replica has nothing left to do and is gone."""
        ...

    def lose(self, attempt: Attempt) -> None:
        """A request is on no replica any more, and everybody knows."""
        ...


class SlotGroup:
    """The slots of one group.

    Args:
        number: of the group.
        first: number of its first slot.
        life: why replicas come and go.
        host: the cluster.
        make: makes a replica with a number.
        seed: of crashes and interruptions.

    Attributes:
        wanted: how many replicas there should be, starting ones included.
    """

    def __init__(
        self,
        number: int,
        first: int,
        life: Life,
        host: Host,
        make: Callable[[int], Replica],
        seed: int,
    ) -> None:
        self.number = number
        self.life = life
        self.slots = [Slot(first + i) for i in range(life.numbers)]
        self.wanted = life.at_start
        self._first = first
        self._host = host
        self._make = make
        self._seed = seed
        self._loading = Loading(life.start.weights) if life.start.weights else None
        self._streams: dict[tuple[int, int], np.random.Generator] = {}

    def open(self) -> None:
        """The run begins."""
        for slot in self.slots[: self.life.at_start]:
            self._rise(slot)
        failures = self.life.failures
        for outage in failures.outages if failures else ():
            self._strike_at(outage.at_s, self.slots[outage.replica], outage.for_s)

    def _strike_at(self, at_s: float, slot: Slot, for_s: float) -> None:
        def strike(_: Event) -> None:
            if not self._host.over:
                self.strike(slot, for_s)

        self._host.env.timeout(at_s).callbacks.append(strike)

    def strike(self, slot: Slot, for_s: float | None) -> bool:
        """A replica crashes now, and another one is up ``for_s`` later; None: as after a crash at
        random. Nothing happens if it is not up; says whether it was."""
        if slot.state != UP:
            return False
        self._crash(slot)
        if for_s is None:
            self._later(self._repair_s, slot, self._boot)
        else:
            self._later(for_s, slot, self._rise)
        return True

    @property
    def _repair_s(self) -> float:
        failures = self.life.failures
        return REPAIR_S if failures is None or failures.mtbf_h is None else failures.repair_s

    # --- how many there are ----------------------------------------------------------------------

    def scale(self, wanted: int) -> None:
        """So many replicas are wanted from now on."""
        self.wanted = wanted
        self._host.journal.decide(self._now, self.number, wanted)
        self.reconcile()

    def reconcile(self, away_s: float = 0.0) -> None:
        """Starts or stops replicas until there are as many as wanted; if no number is free, when
        one is. ``away_s``: until devices for new ones are found."""
        missing = self.wanted - len(self._there())
        for slot in [slot for slot in self.slots if slot.state == OFF][: max(0, missing)]:
            if away_s:
                self._enter(slot, AWAY)
                self._later(away_s, slot, self._provision)
            else:
                self._provision(slot)
        # One by one, because one that goes at once may bring this function here again.
        while len(there := self._there()) > self.wanted:
            slot = min(there, key=self._dispensable)
            if slot.state == UP:
                self._drain(slot)
            else:
                self._release(slot)

    def _there(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.state not in (OFF, *_ENDING)]

    @staticmethod
    def _dispensable(slot: Slot) -> tuple[int, int, int]:
        """Who goes first: what does not serve yet, the last begun before others; then the replica
        with the fewest requests, the highest number on a tie."""
        order = (AWAY, PROVISIONING, BOOTING, LOADING, WARMING, DOWN, UP)
        return order.index(slot.state), len(slot.live), -slot.number

    # --- starting --------------------------------------------------------------------------------

    def _provision(self, slot: Slot) -> None:
        self._for(slot, PROVISIONING, self.life.start.provisioning_s, self._boot)

    def _boot(self, slot: Slot) -> None:
        self._for(slot, BOOTING, self.life.start.boot_s, self._load)

    def _load(self, slot: Slot) -> None:
        seconds = 0.0
        if self._loading is not None:
            seconds = self._loading.done(slot.number - self._first, self._now) - self._now
        self._for(slot, LOADING, seconds, self._warm)

    def _warm(self, slot: Slot) -> None:
        self._for(slot, WARMING, self.life.start.warmup_s, self._rise)

    def _rise(self, slot: Slot) -> None:
        """A replica is ready; it takes requests as soon as what lived here before has ended."""
        if slot.crash is not None:
            self._notice(slot, slot.crash)
        if slot.live or slot.leaving:
            slot.ready = True
            return
        slot.ready = False
        slot.life += 1
        slot.replica = self._make(slot.number)
        self._host.risen(slot.replica)
        slot.routable = True
        self._enter(slot, UP)
        failures, spot = self.life.failures, self.life.spot
        if failures is not None and failures.mtbf_h is not None:
            up_s = self._draw(_CRASHES, slot) * failures.mtbf_h * 3600.0
            self._later(up_s, slot, self._fail, whole_life=True)
        if spot is not None:
            up_s = self._draw(_INTERRUPTIONS, slot) * 3600.0 / spot.interruptions_per_hour
            self._later(up_s, slot, self._interrupt, whole_life=True)
        self._host.refresh(slot)

    def _draw(self, what: int, slot: Slot) -> float:
        """From an exponential distribution with mean 1."""
        key = (what, slot.number)
        if key not in self._streams:
            self._streams[key] = np.random.default_rng([self._seed, what, slot.number])
        return float(self._streams[key].standard_exponential())

    # --- ending ----------------------------------------------------------------------------------

    def _drain(self, slot: Slot) -> None:
        slot.routable = False
        self._enter(slot, DRAINING)
        self._host.refresh(slot)
        self.emptied(slot)

    def emptied(self, slot: Slot) -> None:
        """A request has left a slot, perhaps the last one."""
        if slot.live or slot.leaving:
            return
        if slot.ready:
            self._rise(slot)
        elif slot.state in _ENDING:
            self._release(slot)
            self.reconcile()

    def _release(self, slot: Slot) -> None:
        """The devices go."""
        if slot.crash is not None:
            self._notice(slot, slot.crash)
        if slot.replica is not None and not slot.leaving:
            self._host.retire(slot.replica)
        slot.replica = None
        slot.ready = False
        self._enter(slot, OFF)

    def _fail(self, slot: Slot) -> None:
        drained = slot.state in _ENDING
        if slot.state != UP and not drained:
            return
        self._crash(slot)
        if drained:
            self._release(slot)
            self.reconcile()
        else:
            self._later(self._repair_s, slot, self._boot)

    def _crash(self, slot: Slot) -> None:
        """All that is here is lost; the gateway does not know yet."""
        failures = self.life.failures
        crash = slot.crash = Crash(slot.replica, noticed=False)
        self._enter(slot, DOWN)
        self._doom(slot, crash)

        def detect(_: Event) -> None:
            if slot.crash is crash:
                self._notice(slot, crash)

        detection_s = failures.detection_s if failures is not None else 0.0
        self._host.env.timeout(detection_s).callbacks.append(detect)

    def _interrupt(self, slot: Slot) -> None:
        """The owner wants the devices back."""
        spot = self.life.spot
        assert spot is not None
        if slot.state not in (UP, DRAINING):
            return
        slot.routable = False
        self._enter(slot, RECLAIMED)
        self._host.refresh(slot)
        if spot.notice_s and slot.live:
            self.reconcile(spot.replacement_s)
            self._later(spot.notice_s, slot, self._take, whole_life=True)
        else:
            self._take(slot, spot.replacement_s)

    def _take(self, slot: Slot, away_s: float = 0.0) -> None:
        """The devices are gone."""
        if slot.state == RECLAIMED:
            self._enter(slot, OFF)
            self._doom(slot, Crash(slot.replica, noticed=True))
            self.reconcile(away_s)

    def _doom(self, slot: Slot, crash: Crash) -> None:
        """What is on a replica is lost; it leaves at the end of the step under way."""
        replica = slot.replica
        assert replica is not None
        slot.replica = None
        doomed = [attempt for attempt in slot.live.values() if not attempt.gone]
        slot.leaving += len(doomed)
        for attempt in doomed:
            attempt.crash = crash
            del slot.live[attempt.sequence.index]
        if doomed and not slot.live:
            self._host.idled(slot)
        if not doomed and not slot.live:
            self._host.retire(replica)
        for attempt in doomed:
            replica.expire(attempt.sequence, np.inf)

    def _notice(self, slot: Slot, crash: Crash) -> None:
        """The gateway knows of a crash now."""
        crash.noticed = True
        slot.crash = None
        slot.routable = False
        lost, crash.lost = crash.lost, []
        self._host.loads[slot.number] -= len(lost)
        self._host.refresh(slot)
        for attempt in lost:
            self._host.lose(attempt)

    # --- timers ----------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return float(self._host.env.now)

    def _enter(self, slot: Slot, state: int) -> None:
        slot.epoch += 1
        slot.state = state
        self._host.journal.state(self._now, slot.number, state)

    def _for(self, slot: Slot, state: int, seconds: float, then: Callable[[Slot], None]) -> None:
        """Stays in a state for some time; no time is no state."""
        if seconds <= 0.0:
            then(slot)
            return
        self._enter(slot, state)
        self._later(seconds, slot, then)

    def _later(
        self,
        seconds: float,
        slot: Slot,
        action: Callable[[Slot], None],
        *,
        whole_life: bool = False,
    ) -> None:
        """Does something unless the slot's state, or its replica, is another one by then."""
        mark = slot.life if whole_life else slot.epoch

        def act(_: Event) -> None:
            now = slot.life if whole_life else slot.epoch
            if now == mark and not self._host.over:
                action(slot)

        self._host.env.timeout(seconds).callbacks.append(act)
