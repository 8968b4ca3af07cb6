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
from math import sqrt

from simpy import Environment, Event

from simulator.cluster.front_end import FrontEnd
from simulator.cluster.lanes import LaneGroup, LaneLoads, lane_number
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.cluster.wake import Wake
from simulator.costs.protocol import Chunk, PipelineCost
from simulator.deployment import FrontEndTimes
from simulator.results.record import LANES_APART
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence

_DRIFT = 1e-10
"""Relative to the time: by how much the end of a row may differ from the step's own end."""


class _LaneCost:
    """What a lane's step takes, waits included; asking for it lets the step begin."""

    def __init__(self, cost: PipelineCost, lane: PipelineLane) -> None:
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked
        self._cost = cost
        self._lane = lane

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; the growth is not known in advance."""
        lane = self._lane
        lane.times, lane.slopes, most = self._cost.decode_passage(
            sequences, context, local_context, local_growth
        )
        return lane.enter(), 0.0, most

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        lane = self._lane
        lane.times = self._cost.step_passage(sequences, context, local_context, chunks, sampled)
        return lane.enter()


class _SharedFront:
    """Hands out the last step of a row; those before it were handed out as they ended."""

    waiting = 0
    """Nobody waits here: requests have left the front end before they join a lane."""

    def __init__(self, front: FrontEnd) -> None:
        self._front = front

    def hand_out(self, tokens: int, steps: int, first_end: float, now: float) -> float:
        """When the tokens of the step that ends now have left."""
        return self._front.hand_out(tokens, 1, now, now)


class PipelineLane(Replica):
    """A micro-batch slot. A plan of several equal steps goes on step by step, as the machines
    allow, without being planned anew; its row ends where durations leave their straight line.

    Attributes:
        times, slopes: of the step under way, on each machine; growth from step to step.
        end: when the step under way ends.
        left: steps that may follow it under the same plan.
    """

    def __init__(
        self,
        number: int,
        env: Environment,
        scheduler: Scheduler,
        recorder: Recorder,
        loads: LaneLoads,
        pipeline: Pipeline,
        *,
        front_end: FrontEndTimes,
        response_s: float,
        window_s: float,
        ended: Callable[[list[Sequence]], None] | None,
        rank: Rank | None = None,
    ) -> None:
        super().__init__(
            number, env, scheduler, _LaneCost(pipeline.cost, self), recorder, loads,
            front_end=front_end, response_s=response_s, window_s=window_s,
            # A lane's next step is planned when its last one has left the last stage; the engine's
            # own look-ahead is what fills the other lanes.
            plans_ahead=False, ended=ended, rank=rank,
        )  # fmt: skip
        self._pipeline = pipeline
        self._front = _SharedFront(pipeline.front)  # type: ignore[assignment]
        self.times: list[float] = []
        self.slopes: list[float] = []
        self.end = 0.0
        self.left = 0

    def accept(self, sequence: Sequence) -> None:
        """A request reaches the lane's queue now."""
        self.loads[self.number] += 1
        self.recorder.replica[sequence.index] = self.number
        self._submit(sequence)

    def _submit(self, sequence: Sequence) -> None:
        sequence.last_token_s = self.recorder.queued_s[sequence.index]
        self.scheduler.add(sequence)
        if self._plan is None:
            self._wake(0.0)
        elif not self.scheduler.blocked:
            self.left = 0

    def expire(self, sequence: Sequence, deadline: float) -> None:
        """See ``Replica.expire``; the request has left the front end."""
        self._expired.append((sequence, deadline))
        self.left = 0
        if self._plan is None:
            self._wake(0.0)

    def enter(self) -> float:
        """The step under way enters the first stage now; returns how long it stays inside."""
        pipeline = self._pipeline
        self.end, self._stall = pipeline.enter(self.times, pipeline.now)
        return sum(self.times) + pipeline.lag + self._stall

    def _wake(self, delay: float) -> None:
        if self._plan is None:
            super()._wake(delay)
            return
        # Where the order of the queue changes with time, every step is planned.
        self.left, self._steps = self._steps - 1 if self._order is None else 0, 1
        self._pipeline.in_flight.append(self)
        self._pipeline.look()

    def _begin(self, now: float) -> None:
        self._pipeline.now = now
        super()._begin(now)

    def step_ended(self, now: float) -> None:
        """The step under way ends now."""
        if self.left:
            self._go_on(now)
            return
        plan = self._plan
        assert plan is not None
        self._finish(plan, now)
        if self._expired:
            self._drop_expired()
        self._begin(now)

    def _go_on(self, now: float) -> None:
        """The next step of the same plan begins."""
        pipeline, plan, times = self._pipeline, self._plan, self.times
        assert plan is not None
        for m, slope in enumerate(self.slopes):
            times[m] += slope
        end, wait = pipeline.enter(times, now)
        took = sum(times) + pipeline.lag + wait
        steps = self._steps
        slope = self._slope if steps > 1 else max(0.0, took - self._first)
        span = (steps + 1) * self._first + slope * (steps * (steps + 1) / 2)
        if abs(self._start + span - end) <= _DRIFT * (1.0 + end):
            if pipeline.each_s:
                pipeline.front.hand_out(plan.emitting, 1, now, now)
            self._steps, self._slope = steps + 1, slope
            self._stall += wait
        else:
            # The same plan in a new row.
            left = self.left
            self._finish(plan, now)
            plan = self._schedule(now)
            assert plan is not None
            assert not plan.chunks
            self._plan, self._start, self._first, self._slope = plan, now, took, 0.0
            self._stall, self.left = wait, left
        self.end = end
        self.left -= 1
        pipeline.in_flight.append(self)

    def leap(self, before: float) -> bool:
        """Alone in the pipeline: begins all further steps that begin before that time; says whether
        there were any."""
        took, growth = sum(self.times) + self._pipeline.lag, sum(self.slopes)
        last = self._first + (self._steps - 1) * self._slope
        smooth = abs(last - took) <= _DRIFT * took and (self._steps == 1 or self._slope == growth)
        steps = _beginning(took, growth, before - self.end, self.left)
        if not smooth or steps == 0:
            return False
        plan = self._plan
        assert plan is not None
        begin = self.end + _after(took, growth, steps - 1)
        if self._pipeline.each_s:
            self._pipeline.front.hand_out(plan.emitting, steps, self.end, begin)
        for m, slope in enumerate(self.slopes):
            self.times[m] += steps * slope
        self.end, _ = self._pipeline.enter(self.times, begin)
        self._slope = growth
        self._steps += steps
        self.left -= steps
        return True


def _after(took: float, growth: float, steps: int) -> float:
    """Seconds of ``steps`` steps that follow one of ``took``."""
    return steps * took + growth * (steps * (steps + 1) / 2)


def _beginning(took: float, growth: float, seconds: float, most: int) -> int:
    """Of at most ``most`` steps that follow one of ``took``, how many begin within less than
    ``seconds`` of its end."""
    if seconds <= 0.0:
        return 0
    if _after(took, growth, most - 1) < seconds:
        return most
    if growth > 0.0:
        linear = took + growth / 2
        whole = (sqrt(linear * linear + 2 * growth * seconds) - linear) / growth
    else:
        whole = seconds / took
    steps = max(1, int(whole) - 1)
    while steps < most and _after(took, growth, steps) < seconds:
        steps += 1
    return steps


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
        self._lags = list(cost.lags)
        self._free = [0.0] * len(self._lags)
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
            return
        number = self.recorder.replica[sequence.index]
        self.lanes[number // LANES_APART].expire(sequence, deadline)

    # --- machines --------------------------------------------------------------------------------

    def enter(self, times: list[float], now: float) -> tuple[float, float]:
        """A step that keeps the machines busy for ``times`` wants to enter the first one now;
        returns when it leaves the last one, and how long it waits on its way."""
        free, lags = self._free, self._lags
        at, waits = now, 0.0
        for m, time in enumerate(times):
            if free[m] > at:
                waits += free[m] - at
                at = free[m]
            at += time
            free[m] = at
            at += lags[m]
        return at, waits

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
        lane = in_flight.popleft()
        lane.step_ended(lane.end)
        before = peek()
        while in_flight and in_flight[0].end < before:
            lane = in_flight[0]
            if lane.left:
                if len(in_flight) == 1 and lane.leap(before):
                    continue
                in_flight.popleft()
                lane.step_ended(lane.end)
            elif self._unheard:
                in_flight.popleft()
                lane.step_ended(lane.end)
                before = peek()
            else:
                break
        self._running = False
        if in_flight:
            self.look()
