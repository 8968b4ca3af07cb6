"""A pipeline's lanes: each plans like a replica, and steps as the pipeline's machines allow."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List
from math import sqrt
from typing import TYPE_CHECKING

from simpy import Environment

from simulator.cluster.front_end import FrontEnd
from simulator.cluster.lanes import LaneLoads
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import FLUSH_AT, Recorder, pack_row
from simulator.cluster.replica import Replica
from simulator.cluster.slowness import Slowness
from simulator.costs.protocol import Chunk, PipelineCost, StepCost
from simulator.deployment import FrontEndTimes
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence

if TYPE_CHECKING:
    from simulator.cluster.pipeline import Pipeline

_DRIFT = 1e-10
"""Relative to the time: by how much the end of a row may differ from the step's own end."""


class _LaneCost:
    """What a lane's step takes, waits included; asking for it lets the step begin."""

    def __init__(self, cost: PipelineCost, lane: PipelineLane) -> None:
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked
        self.inner = cost
        self._lane = lane

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; the growth is not known in advance."""
        lane = self._lane
        lane.times, lane.slopes, most = self.inner.decode_passage(
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
        lane.times = self.inner.step_passage(sequences, context, local_context, chunks, sampled)
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
        own_s, growth_s: their sums, with what links add.
        last_took_s, line_end: duration and end of the step under way on the line of its row.
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
        self._asked = _LaneCost(pipeline.cost, self)
        super().__init__(
            number, env, scheduler, self._asked, recorder, loads,
            front_end=front_end, response_s=response_s, window_s=window_s,
            # A lane's next step is planned when its last one has left the last stage; the engine's
            # own look-ahead is what fills the other lanes.
            plans_ahead=False, ended=ended, rank=rank,
        )  # fmt: skip
        self._pipeline = pipeline
        self._front = _SharedFront(pipeline.front)  # type: ignore[assignment]
        self.times: list[float] = []
        self.slopes: list[float] = []
        self.own_s = self.growth_s = 0.0
        self.last_took_s = self.line_end = 0.0
        self.end = 0.0
        self.left = 0

    @property
    def emitting(self) -> int:
        """Tokens for clients in each step under way."""
        assert self._plan is not None
        return self._plan.emitting

    def accept(self, sequence: Sequence) -> None:
        """A request reaches the lane's queue now."""
        self.loads[self.number] += 1
        self.recorder.replica[sequence.index] = self.number
        self._submit(sequence)

    def _submit(self, sequence: Sequence) -> None:
        if not sequence.generated:  # else its answer began on another replica
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

    def stop_soon(self) -> None:
        """See ``Replica.stop_soon``."""
        self.left = 0

    def _slowness(self) -> Slowness:
        def give(cost: StepCost) -> None:
            assert isinstance(cost, PipelineCost)
            self._asked.inner = cost

        return Slowness(self._asked.inner, give)

    def _slowed(self, slowness: Slowness, steps: int) -> float:
        stall_s = self._slow_stall(slowness, steps)
        slowness.turn()
        return stall_s

    def _slow_stall(self, slowness: Slowness, steps: int) -> float:
        """Waits on the way and slow stages; latencies of links are what they are."""
        on_links = steps * self._pipeline.lag
        return slowness.stalled_s(self._span(steps) - on_links, self._stall)

    def enter(self) -> float:
        """The step under way enters the first stage now; returns how long it stays inside."""
        pipeline = self._pipeline
        self.end, self._stall = pipeline.enter(self.times, pipeline.now)
        self.own_s, self.growth_s = sum(self.times) + pipeline.lag, sum(self.slopes)
        self.last_took_s = took = self.own_s + self._stall
        self.line_end = self.end
        return took

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
        """The last step of the plan ends now."""
        plan = self._plan
        assert plan is not None
        self._finish(plan, now)
        self._told = 0
        if self._expired:
            self._drop_expired()
        self._begin(now)

    def go_on(self, times: list[float], now: float, end: float, wait: float) -> None:
        """The next step of the same plan began now and waits so long on its way; its row goes on
        as well if the step's duration is on the row's line."""
        self.times = times
        self.own_s = own = self.own_s + self.growth_s
        took = own + wait
        slope = self._slope
        if self._steps == 1:
            slope = took - self._first
            slope = slope if slope > 0.0 else 0.0
        last = self.last_took_s + slope
        line_end = self.line_end + last
        if -_DRIFT * (1.0 + end) <= line_end - end <= _DRIFT * (1.0 + end):
            self._steps += 1
            self._slope = slope
            self._stall += wait
            self.last_took_s, self.line_end = last, line_end
        else:
            self._new_row(now)
            self._first = self.last_took_s = took
            self._stall, self.line_end = wait, end
        self.end = end
        self.left -= 1

    def _new_row(self, now: float) -> None:
        """Ends the row, not the plan."""
        plan, steps, scheduler = self._plan, self._steps, self.scheduler
        assert plan is not None
        self._told += steps
        stall_s = self._stall
        if self.slowness is not None:
            stall_s = self._slow_stall(self.slowness, steps)
        rows = self.recorder.rows
        rows += pack_row(
            self.number, self._start, steps, self._first, self._slope, stall_s,
            plan.decode, plan.context, plan.local_context, plan.local_growth,
            0, 0, 0, 0, 0, 0,
            plan.decode, 0, plan.emitting, 0, plan.running,
            len(scheduler.waiting), self._blocks_used(), plan.stored + plan.decode * steps,
        )  # fmt: skip
        if len(rows) >= FLUSH_AT:
            self.recorder.flush()
        if self.answers is not None:
            self.answers.note(plan, steps, now)
        plan.context += plan.decode * steps
        plan.local_context += plan.local_growth * steps
        plan.stored += plan.decode * steps
        self._start, self._steps, self._slope = now, 1, 0.0

    def _blocks_used(self) -> int:
        """KV blocks in use when the steps told so far have run; the first one's are taken."""
        kv, decoding = self.scheduler.kv, getattr(self.scheduler, "decoding", None)
        used: int = kv.total - kv.free
        if decoding is not None and decoding.growing:
            first = decoding.need[decoding.steps % decoding.block_size]
            used += decoding.blocks_for(self._told) - first
        return used

    def leap(self, before: float) -> bool:
        """Alone in the pipeline: begins all further steps that begin before that time; says whether
        there were any."""
        pipeline, plan = self._pipeline, self._plan
        took, growth = self.own_s, self.growth_s
        smooth = abs(self.last_took_s - took) <= _DRIFT * took
        smooth = smooth and (self._steps == 1 or self._slope == growth)
        steps = _beginning(took, growth, before - self.end, self.left)
        if not smooth or steps == 0:
            return False
        assert plan is not None
        begin = self.end + _after(took, growth, steps - 1)
        pipeline.front.hand_out(plan.emitting, steps, self.end, begin)
        self.times = [t + steps * slope for t, slope in zip(self.times, self.slopes, strict=True)]
        self.end, _ = pipeline.enter(self.times, begin)
        self.own_s = self.last_took_s = took + steps * growth
        self.line_end = self.end
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
