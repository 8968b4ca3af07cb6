"""A replica whose layers are cut into stages, with a lane for each micro-batch in flight.

A step passes machines one after the other: stages, and the links between them. Each machine works
on one step at a time, in the order in which steps enter the first one, so that with ``free`` the
time at which a machine has passed its last step on

    enter(m) = max(exit(m - 1), free(m)),    exit(m) = enter(m) + time(m)

(the recurrence of a permutation flow shop). Steps therefore end in the order in which they begin,
and everything about a step is known when it begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as List
from math import inf

from simpy import Environment, Event

from simulator.cluster.front_end import FrontEnd
from simulator.cluster.lanes import LaneGroup, LaneLoads, lane_number
from simulator.cluster.micro_batches import PipelineLane
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import Recorder
from simulator.cluster.wake import Wake
from simulator.costs.protocol import PipelineCost
from simulator.deployment import FrontEndTimes
from simulator.results.record import LANES_APART
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence

_ENDLESS = 1 << 60


class Pipeline(LaneGroup):
    """One replica in stages: its lanes, and its machines.

    Args:
        number: its number.
        env: the clock.
        schedulers: one a lane.
        cost: passages of steps.
        recorder: where columns go.
        loads: requests queued or running, by number of the replica; it keeps its own entry.
        front_end: what lies before the queues; the lanes share it.
        response_s, window_s, ended, rank: see ``Replica``.

    Attributes:
        in_flight: lanes with a step under way, in the order in which these end.
    """

    lanes: List[PipelineLane]

    def __init__(
        self,
        number: int,
        env: Environment,
        schedulers: List[Scheduler],
        cost: PipelineCost,
        recorder: Recorder,
        loads: list[int],
        *,
        front_end: FrontEndTimes,
        response_s: float,
        window_s: float,
        ended: Callable[[list[Sequence]], None] | None,
        rank: Rank | None = None,
    ) -> None:
        self.env = env
        self.cost = cost
        self.recorder = recorder
        self.now = 0.0
        self.lag = sum(cost.lags)
        self.front = FrontEnd(env, front_end, recorder.queued_s, self._assign)
        self._rank = rank
        self.each_s = front_end.token_s
        self.in_flight: deque[PipelineLane] = deque()
        self._loads_of_replicas = loads
        # When each machine has passed its last step on, less the latencies of links before it, so
        # that steps need not add them one by one.
        self._free = [0.0] * len(cost.lags)
        self._event = Wake(env, self._on_event)
        self._running = self._looking = False
        self._unheard = ended is None and not window_s
        own = LaneLoads(len(schedulers), loads, number)
        lanes = [
            PipelineLane(
                lane_number(number, place), env, scheduler, recorder, own, self,
                front_end=front_end, response_s=response_s, window_s=window_s, ended=ended,
                rank=rank,
            )
            for place, scheduler in enumerate(schedulers)
        ]  # fmt: skip
        super().__init__(number, lanes, own)

    # --- from outside ----------------------------------------------------------------------------

    def receive(self, sequence: Sequence) -> None:
        """A request reaches the front end now."""
        self._loads_of_replicas[self.number] += 1
        self.recorder.replica[sequence.index] = self.number
        if self._rank is not None:
            self._rank(sequence)
        self.front.receive(sequence)

    @property
    def queued(self) -> int:
        """Requests that wait, in the front end or in any lane."""
        return self.front.waiting + super().queued

    def ahead_of(self, sequence: Sequence) -> int:
        """How many a newcomer would wait for, in the front end and in the lanes."""
        return self.front.waiting + super().ahead_of(sequence)

    def _assign(self, sequence: Sequence) -> None:
        """A request leaves the front end for the lane with the fewest requests."""
        self._loads_of_replicas[self.number] -= 1
        self.lanes[self.loads.least()].accept(sequence)

    def expire(self, sequence: Sequence, deadline: float) -> None:
        """The client gives up now; see ``Replica.expire``."""
        if self.front.drop(sequence):
            self._loads_of_replicas[self.number] -= 1
            departed = self.lanes[0].departed
            if departed is not None:
                departed(sequence)
            return
        number = self.recorder.replica[sequence.index]
        self.lanes[number // LANES_APART].expire(sequence, deadline)

    # --- machines --------------------------------------------------------------------------------

    def enter(self, times: list[float], now: float) -> tuple[float, float]:
        """A step that keeps the machines busy for ``times`` wants to enter the first one now;
        returns when it leaves the last one, and how long it waits on its way."""
        free = self._free
        at, waits = now, 0.0
        for m, time in enumerate(times):
            if free[m] > at:
                waits += free[m] - at
                at = free[m]
            at += time
            free[m] = at
        return at + self.lag, waits

    def look(self) -> None:
        """Sees to it that the next end of a step is on the agenda."""
        if not (self._running or self._looking):
            self._looking = True
            self._event.after(max(0.0, self.in_flight[0].end - self.env.now))

    def _on_event(self, _: Event) -> None:
        """The first step in flight ends. Ends that come before anything else on the agenda are
        taken at once: those where a plan only goes on, which nobody can see, and where nobody
        listens to ends of requests, all."""
        in_flight, peek = self.in_flight, self.env.peek
        self._running, self._looking = True, False
        if in_flight[0].left:
            self._roll(inf, 1)
        else:
            lane = in_flight.popleft()
            lane.step_ended(lane.end)
        before = peek()
        while in_flight and in_flight[0].end < before:
            if in_flight[0].left:
                self._roll(before)
            elif self._unheard:
                lane = in_flight.popleft()
                lane.step_ended(lane.end)
                before = peek()
            else:
                break
        self._running = False
        if in_flight:
            self.look()

    def _roll(self, before: float, most: int = _ENDLESS) -> None:
        """Takes steps through whose plans only go on, at most so many, until another one ends or
        that time comes. What ``enter`` does is written out here: nothing runs more often."""
        in_flight, front = self.in_flight, self.front
        free, lag, each_s = self._free, self.lag, self.each_s
        while most and in_flight[0].left and in_flight[0].end < before:
            most -= 1
            lane = in_flight[0]
            if len(in_flight) == 1 and most and lane.leap(before):
                continue
            in_flight.popleft()
            now = lane.end
            if each_s:
                handed = front.handed_out_s
                front.handed_out_s = (handed if handed > now else now) + each_s * lane.emitting
            at, wait = now, 0.0
            times = [t + slope for t, slope in zip(lane.times, lane.slopes, strict=True)]
            for m, time in enumerate(times):
                busy_until = free[m]
                if busy_until > at:
                    wait += busy_until - at
                    at = busy_until
                at += time
                free[m] = at
            lane.go_on(times, now, at + lag, wait)
            in_flight.append(lane)
