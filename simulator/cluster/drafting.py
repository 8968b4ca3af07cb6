"""Replicas that speculate: many steps are planned together while nobody joins and nobody ends.

What each step to come gives is known (``Timetable``), so that only their times are to be worked
out. Sums and products are those of one step after the other, in the same order, so that the times
are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.cluster.recorder import COLUMNS, FLUSH_AT
from simulator.cluster.replica import Replica
from simulator.cluster.slowness import Slowness
from simulator.cluster.wake import Wake
from simulator.costs.protocol import StepCost, decode_series_of
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence
from simulator.serving.speculative import SpeculativeScheduler
from simulator.serving.timetable import Outlook
from simulator.workload.requests import Floats

MOST_STEPS = 256
"""Steps planned together at most, so that what a newcomer cuts off stays small."""
_WORTH_STEPS = 4
"""Fewer are done one by one in the same time."""

(
    _START, _FIRST, _STALL, _CONTEXT, _LOCAL, _ACCEPTED, _WAITING, _USED, _STORED,
    _DECODE, _SAMPLED, _GAPS, _RUNNING,
) = map(
    COLUMNS.index,
    ("start_s", "first_s", "stall_s", "context", "local_context", "accepted_tokens", "waiting",
     "kv_blocks", "kv_tokens", "decode", "sampled", "gap_tokens", "running"),
)  # fmt: skip


class Run:
    """Steps that are planned together.

    Attributes:
        outlook: what they do.
        context: tokens attended to in each. Shape (steps,).
        seconds: how long each takes. Shape (steps,).
        ends: when the first begins, and when each ends. Shape (steps + 1,).
        kv_used: KV blocks in use in the first.
        newcomers: the steps, from 1, in which somebody began to wait.
    """

    __slots__ = ("context", "ends", "kv_used", "newcomers", "outlook", "seconds")

    def __init__(self, outlook: Outlook, plan: Plan, kv_used: int) -> None:
        self.outlook = outlook
        self.context = outlook.tokens.cumsum()
        self.context += plan.context
        self.context -= outlook.tokens
        self.kv_used = kv_used
        self.newcomers: list[int] = []

    def take(self, seconds: Floats, now: float) -> None:
        """The steps take so long, from now on."""
        self.seconds = seconds
        ends = np.empty(len(seconds) + 1)
        ends[0] = now
        ends[1:] = seconds
        self.ends = ends.cumsum()  # one after the other, as a clock does


class DraftingReplica(Replica):
    """A replica whose scheduler has a timetable; see ``Replica``."""

    scheduler: SpeculativeScheduler

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.scheduler.most_steps = MOST_STEPS
        self._seconds: Callable[..., Floats] = decode_series_of(self.cost)
        self.recorder.in_order = False
        self._run: Run | None = None
        self._row = np.zeros(len(COLUMNS))
        self._row[COLUMNS.index("replica")] = self.number
        self._row[COLUMNS.index("steps")] = 1

    # --- from outside ----------------------------------------------------------------------------

    @property
    def kv_used(self) -> int:
        """KV blocks in use by the end of the step under way."""
        self._catch_up()
        return self.scheduler.kv.used

    def cached_blocks(self, sequence: Sequence) -> int:
        """See ``Replica.cached_blocks``."""
        self._catch_up()
        return super().cached_blocks(sequence)

    def _catch_up(self) -> None:
        """Takes the blocks of the steps so far, which somebody wants to look at."""
        if self._run is not None:
            self.scheduler.catch_up(self._boundary(self.env.now))

    def _slowness(self) -> Slowness:
        def give(cost: StepCost) -> None:
            self.cost = cost
            self._seconds = decode_series_of(cost)

        return Slowness(self.cost, give)

    def _submit(self, sequence: Sequence) -> None:
        if self._run is not None:
            self._run.newcomers.append(self._boundary(self.env.now))
        super()._submit(sequence)

    def _cut(self, later: int = 0) -> None:
        assert self._run is not None, "steps that are not planned together are not cut"
        steps = self._boundary(self.env.now) + later
        if steps < self._steps:
            self._steps = steps
            self._wake_at(self._run.ends.item(steps))

    def _boundary(self, at: float) -> int:
        if self._run is None:
            return 1
        return min(max(1, int(self._run.ends.searchsorted(at))), self._steps)

    def _wake_at(self, time: float) -> None:
        event = self._event
        if event is None or event.callbacks is not None:
            # An event still on the agenda is left to pass unheard.
            event = self._event = Wake(self.env, self._on_event)
        event.at(time)

    # --- the loop --------------------------------------------------------------------------------

    def _schedule(self, now: float) -> Plan | None:
        plan = super()._schedule(now)
        if plan is not None and plan.steps > 1:
            steps, plan.steps = plan.steps, 1
            if steps >= _WORTH_STEPS and not self._may_change():
                run = self._run = Run(self.scheduler.outlook(steps), plan, self.scheduler.kv.used)
                run.take(self._seconds(plan.decode, run.context, run.outlook.visible), now)
        return plan

    def _may_change(self) -> bool:
        """Whether what is to be done next may change while nobody comes or goes."""
        if self._paused or (self._unseen and not self.scheduler.blocked):
            return True
        # With an order in the queue, who is its head may change at any time.
        return self._order is not None and bool(self._unseen or self.scheduler.waiting)

    def _wake(self, delay: float) -> None:
        if self._run is None:
            super()._wake(delay)

    def _begin(self, now: float) -> None:
        super()._begin(now)
        run = self._run
        if run is not None:
            self._steps = len(run.seconds)
            self._wake_at(run.ends.item(-1))

    def _finish(self, plan: Plan, now: float) -> None:
        run, steps = self._run, self._steps
        self._run = None
        if run is None or steps == 1:
            super()._finish(plan, now)
            return
        ends = run.ends
        if self.plans_ahead:
            self._seen_until = ends.item(steps - 1)
        tokens = run.outlook.tokens[:steps]
        at = self._front.hand_out_each(tokens, ends[1 : steps + 1])
        self.last_s = at = at + self.response_s
        self._steps = 1
        self._write_rows(run, plan, steps)
        ended = self.scheduler.complete(plan, steps)
        if ended:
            self._leave(ended, at)
        if self.answers is not None:
            self.answers.note(plan, steps, at)

    def _write_rows(self, run: Run, plan: Plan, steps: int) -> None:
        """A row of the step table for each step."""
        count = plan.decode
        row = self._row
        row[_DECODE] = row[_SAMPLED] = row[_GAPS] = count
        row[_RUNNING] = plan.running
        row[_WAITING] = len(self.scheduler.waiting) + len(self._unseen)
        table = np.empty((steps, len(row)))
        table[:] = row
        tokens, blocks, visible = (column[:steps] for column in run.outlook)
        table[:, _START] = run.ends[:steps]
        table[:, _FIRST] = run.seconds[:steps]
        if self.slowness is not None:
            table[:, _STALL] = self.slowness.stalled_s(1.0, 0.0) * run.seconds[:steps]
            self.slowness.turn()
        table[:, _CONTEXT] = run.context[:steps]
        table[:, _LOCAL] = visible
        table[:, _ACCEPTED] = tokens - count
        for step in run.newcomers:
            table[: step - 1, _WAITING] -= 1
        table[:, _USED] = run.kv_used + blocks
        table[:, _STORED] = run.context[:steps] + (plan.stored - plan.context) + tokens
        rows = self.recorder.rows
        rows += table.tobytes()
        if len(rows) >= FLUSH_AT:
            self.recorder.flush()
