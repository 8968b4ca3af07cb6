"""A replica whose attention ranks take every step together.

Each rank has its own queue, scheduler and KV cache, but the experts lie on all of them, so that
nobody can start a step before everybody can. At a boundary all ranks plan; the common step lasts as
the cost model says of all their plans, and ranks without sequences take part with an empty batch.
A run of decode steps is executed at once as long as no rank's plan changes.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

from simpy import Environment, Event

from simulator.cluster.lanes import LaneGroup, LaneLoads, lane_number
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.cluster.slowness import Slowness
from simulator.cluster.wake import Wake
from simulator.costs.protocol import Chunk, LockstepCost, StepCost, Work
from simulator.deployment import FrontEndTimes
from simulator.results.record import LANES_APART
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence

IDLE = Work(0, 0, 0, 0, (), 0)
"""A dummy batch: the rank only takes part in what is common."""

_ANY = 1 << 60


class _RankCost:
    """Remembers what a rank has in the next step; how long it takes is known when all have."""

    def __init__(self, cost: LockstepCost) -> None:
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked
        self.work = IDLE

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; the answer is replaced."""
        self.work = Work(sequences, context, local_context, local_growth, (), sequences)
        return 0.0, 0.0, _ANY

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``; the answer is replaced."""
        self.work = Work(sequences, context, local_context, 0, chunks, sampled)
        return 0.0


class AttentionRank(Replica):
    """One attention rank: plans for itself, steps with the others."""

    def __init__(
        self,
        number: int,
        env: Environment,
        scheduler: Scheduler,
        recorder: Recorder,
        loads: LaneLoads,
        group: Lockstep,
        *,
        front_end: FrontEndTimes,
        response_s: float,
        plans_ahead: bool,
        ended: Callable[[list[Sequence]], None] | None,
        rank: Rank | None = None,
    ) -> None:
        self._asked = _RankCost(group.cost)
        super().__init__(
            number, env, scheduler, self._asked, recorder, loads,
            front_end=front_end, response_s=response_s, window_s=0.0,
            plans_ahead=plans_ahead, ended=ended, rank=rank,
        )  # fmt: skip
        self._group = group

    @property
    def runs(self) -> bool:
        """Whether it has sequences in the step under way."""
        return self._plan is not None

    @property
    def work(self) -> Work:
        """What it has in that step."""
        return self._asked.work if self._plan is not None else IDLE

    @property
    def steps(self) -> int:
        """For how many steps its plan stays the same, or is executed."""
        if self._plan is None:
            return _ANY
        return self._steps if self._order is None else 1

    def end_step(self, now: float, planned_s: float) -> None:
        """The common step ends now; the next one was planned at ``planned_s``."""
        plan = self._plan
        if plan is not None:
            if self.plans_ahead:
                self._seen_until = planned_s
            self._finish(plan, now)

    def plan_step(self, now: float) -> None:
        """Plans the next step."""
        if self._expired:
            self._drop_expired()
        self._begin(now)

    def take(self, steps: int, first: float, slope: float, stall: float) -> None:
        """The common steps will be so many, and last so long; ``stall``: of waiting for others."""
        self._steps, self._first, self._slope, self._stall = steps, first, slope, stall

    def cut(self, later: int) -> int:
        """Ends the run of equal steps with the one under way, or ``later``; returns how many it
        has then."""
        super()._cut(later)
        return self._steps

    def _wake(self, delay: float) -> None:
        if self._plan is None and not self._group.planning:
            self._group.wanted()

    def _cut(self, later: int = 0) -> None:
        self._group.cut(later)


class Lockstep(LaneGroup):
    """One replica of data-parallel attention ranks; a request goes to the rank with the fewest.

    Every rank has a front end of its own, as the engines start one API server a rank.

    Args:
        number: its number.
        env: the clock.
        schedulers: one a rank.
        cost: duration of common steps.
        recorder: where columns go.
        loads: requests queued or running, by number of the replica; it keeps its own entry.
        front_end, response_s, plans_ahead, ended, rank: see ``Replica``.
    """

    lanes: List[AttentionRank]

    def __init__(
        self,
        number: int,
        env: Environment,
        schedulers: List[Scheduler],
        cost: LockstepCost,
        recorder: Recorder,
        loads: list[int],
        *,
        front_end: FrontEndTimes,
        response_s: float,
        plans_ahead: bool,
        ended: Callable[[list[Sequence]], None] | None,
        rank: Rank | None = None,
    ) -> None:
        self.env = env
        self.cost = cost
        self.recorder = recorder
        self.planning = False
        own = LaneLoads(len(schedulers), loads, number)
        lanes = [
            AttentionRank(
                lane_number(number, place), env, scheduler, recorder, own, self,
                front_end=front_end, response_s=response_s, plans_ahead=plans_ahead, ended=ended,
                rank=rank,
            )
            for place, scheduler in enumerate(schedulers)
        ]  # fmt: skip
        super().__init__(number, lanes, own)
        self._event: Wake | None = None
        self._start = self._first = self._slope = 0.0
        self._steps = 0
        self._slowness: Slowness | None = None
        self._slowest = (0.0, 0.0)
        self._own: list[tuple[float, float]] = []

    # --- from outside ----------------------------------------------------------------------------

    def receive(self, sequence: Sequence) -> None:
        """A request reaches the front end of a rank now."""
        self.lanes[self.loads.least()].receive(sequence)

    def expire(self, sequence: Sequence, deadline: float) -> None:
        """The client gives up now; see ``Replica.expire``."""
        number = self.recorder.replica[sequence.index]
        self.lanes[number // LANES_APART].expire(sequence, deadline)

    def slow(self, factor: float) -> None:
        """See ``Replica.slow``; the steps are those of all ranks."""

        def give(cost: StepCost) -> None:
            assert isinstance(cost, LockstepCost)
            self.cost = cost

        if self._slowness is None:
            self._slowness = Slowness(self.cost, give)
        self._slowness.wanted = factor
        if not self._steps:
            self._slowness.turn()
        else:
            self.cut()

    # --- from the ranks --------------------------------------------------------------------------

    def wanted(self) -> None:
        """A rank without sequences in the step under way has something to do."""
        if not self._steps:
            self._wake(0.0)
        else:
            self.cut()

    def cut(self, later: int = 0) -> None:
        """Ends the current run of equal steps with the step that is under way, or ``later``."""
        if self._steps <= 1:
            return
        busy = [rank for rank in self.lanes if rank.runs]
        steps = busy[0].cut(later)
        if steps < self._steps:
            self._steps = steps
            self._take(busy)
            self._wake(self._start + self._span(steps) - self.env.now)

    # --- the loop --------------------------------------------------------------------------------

    def _wake(self, delay: float) -> None:
        event = self._event
        if event is None or event.callbacks is not None:
            # An event still on the agenda is left to pass unheard.
            event = self._event = Wake(self.env, self._on_event)
        event.after(delay)

    def _on_event(self, event: Event) -> None:
        if event is not self._event:
            return
        now = float(self.env.now)
        self.planning = True
        if self._steps:
            planned_s = self._start + self._span(self._steps - 1)
            for rank in self.lanes:
                rank.end_step(now, planned_s)
        if self._slowness is not None:
            self._slowness.turn()
        for rank in self.lanes:
            rank.plan_step(now)
        self.planning = False
        busy = [rank for rank in self.lanes if rank.runs]
        if busy:
            self._begin(busy, now)
        else:
            self._steps = 0

    def _begin(self, busy: list[AttentionRank], now: float) -> None:
        works = [rank.work for rank in self.lanes]
        if any(work.chunks for work in works):
            self._first, self._slope, most = self.cost.together(works), 0.0, 1
        else:
            self._first, self._slope, most = self.cost.decode_together(works)
        own = [self.cost.own(work) for work in works]
        self._slowest = max(own)
        self._own = [line for line, rank in zip(own, self.lanes, strict=True) if rank.runs]
        self._start = now
        self._steps = min(most, min([rank.steps for rank in busy]))
        self._take(busy)
        self._wake(self._span(self._steps))

    def _take(self, busy: list[AttentionRank]) -> None:
        """Tells the ranks how many steps there will be."""
        k = self._steps
        pairs = k * (k - 1) / 2
        longest, growth = self._slowest
        for rank, (seconds, slope) in zip(busy, self._own, strict=True):
            stall = max(0.0, k * (longest - seconds) + pairs * (growth - slope))
            if self._slowness is not None:
                stall = self._slowness.stalled_s(self._span(k), stall)
            rank.take(k, self._first, self._slope, stall)

    def _span(self, steps: int) -> float:
        return steps * self._first + self._slope * (steps * (steps - 1) / 2)
