"""One replica on the clock: executes its scheduler's plans in predicted time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf, sqrt
from typing import TYPE_CHECKING

from simpy import Environment, Event

from simulator.cluster.alone import Alone
from simulator.cluster.front_end import FrontEnd
from simulator.cluster.ranks import Rank
from simulator.cluster.recorder import FLUSH_AT, Recorder, pack_row
from simulator.cluster.slowness import Slowness
from simulator.cluster.wake import Wake
from simulator.costs.protocol import Chunk, StepCost, local_pairs
from simulator.deployment import FrontEndTimes
from simulator.serving.fair import FairOrder
from simulator.serving.queues import Order, RankedQueue
from simulator.serving.scheduler import Plan, Scheduler
from simulator.serving.sequence import Sequence

if TYPE_CHECKING:
    from simulator.cluster.answers import AnswerClock

_TICK = 1e-9
"""Seconds by which a timer may fire early, because sums of times are rounded."""


class Replica:
    """Executes plans one after another; a plan of many equal steps is cut when something arrives.

    Args:
        number: its number.
        env: the clock.
        scheduler: whose plans it executes.
        cost: how long they take.
        recorder: where columns go.
        loads: requests queued or running, by number of the replica; it keeps its own entry.
        front_end: what lies before the queue.
        response_s: from the front end to the client.
        window_s: longest wait for a batch to fill.
        plans_ahead: each step is planned when the one before it starts, so that a request that
            arrives during a step is not part of the next one.
        ended: called with sequences whose last token came; None if nobody listens.
        rank: gives requests their places in a queue that is not first come, first served.

    Attributes:
        alone: least times of requests on it; set by ``make_replica``.
        answers: notes when answers begin, after the thinking; None if nobody thinks.
        started: called, if anybody listens, as a request starts, with the time and when it was
            queued.
        last_s: when the tokens of its last step came to their clients.
        departed: called with sequences that leave without their last token; None if nobody
            listens.
        slowness: how slow it is; None if it never was.
    """

    alone: Alone

    def __init__(
        self,
        number: int,
        env: Environment,
        scheduler: Scheduler,
        cost: StepCost,
        recorder: Recorder,
        loads: list[int],
        *,
        front_end: FrontEndTimes,
        response_s: float,
        window_s: float,
        plans_ahead: bool,
        ended: Callable[[list[Sequence]], None] | None,
        rank: Rank | None = None,
    ) -> None:
        self.started: Callable[[float, float], None] | None = None
        self.number = number
        self.env = env
        self.scheduler = scheduler
        self.cost = cost
        self.recorder = recorder
        self.response_s = response_s
        self.window_s = window_s
        self.plans_ahead = plans_ahead
        self.ended = ended
        self.loads = loads
        self._rank = rank
        waiting = scheduler.waiting
        # None: first come, first served, so that nobody overtakes.
        self._order = waiting if isinstance(waiting, RankedQueue | FairOrder) else None
        self._looks_at_clock = window_s > 0.0 or self._order is not None
        self.answers: AnswerClock | None = None
        self.last_s = 0.0
        self.departed: Callable[[Sequence], None] | None = None
        self.slowness: Slowness | None = None
        self._front = FrontEnd(env, front_end, recorder.queued_s, self._submit)
        self._plan: Plan | None = None
        self._event: Wake | None = None
        self._start = 0.0
        self._first = 0.0
        self._slope = 0.0
        self._stall = 0.0
        self._steps = 1
        # Steps of the plan that stand in earlier rows.
        self._told = 0
        self._work = (0, 0, 0, 0)
        self._expired: list[tuple[Sequence, float]] = []
        # Requests that no plan has seen yet, and when the step that ends now was planned.
        self._unseen: deque[Sequence] = deque()
        self._seen_until = inf
        # Where prompts make decoding pause: time of the last token -> sequences it came to.
        self._paused: dict[float, int] = {}

    # --- from outside ----------------------------------------------------------------------------

    def receive(self, sequence: Sequence) -> None:
        """A request reaches the front end now."""
        self.loads[self.number] += 1
        self.recorder.replica[sequence.index] = self.number
        if self._rank is not None:
            self._rank(sequence)
        self._front.receive(sequence)

    @property
    def queued(self) -> int:
        """Requests that wait, in the front end or in the queue."""
        return self._front.waiting + len(self._unseen) + len(self.scheduler.waiting)

    def ahead_of(self, sequence: Sequence) -> int:
        """How many of them a newcomer would wait for."""
        order = self._order
        if order is None:
            return self.queued
        if self._rank is not None:
            self._rank(sequence)
        return self._front.waiting + len(self._unseen) + order.ahead_of(sequence, self.env.now)

    def cached_blocks(self, sequence: Sequence) -> int:
        """Leading blocks of a request that are in the cache now."""
        return self.scheduler.kv.lookup(sequence)

    @property
    def kv_used(self) -> int:
        """KV blocks in use by the end of the step under way."""
        under_way = self._plan is not None and self._steps > 1
        return self.scheduler.kv_used(self._boundary(self.env.now) if under_way else 1)

    def _submit(self, sequence: Sequence) -> None:
        """A request reaches the queue now."""
        if not sequence.generated:  # else its answer began on another replica
            sequence.last_token_s = self.recorder.queued_s[sequence.index]
        if self._plan is None:
            self.scheduler.add(sequence)
            self._wake(0.0)
            return
        if self.plans_ahead:
            self._unseen.append(sequence)
        else:
            self.scheduler.add(sequence)
        if self._steps > 1 and (
            not self.scheduler.blocked
            or (self._order is not None and self._order.may_lead(sequence))
        ):
            self._cut(1 if self.plans_ahead else 0)

    def expire(self, sequence: Sequence, deadline: float) -> None:
        """The client gives up at ``deadline``, now: the sequence leaves at the next step boundary
        unless its last token has reached the client by then; from the front end at once."""
        if self._front.drop(sequence):
            self.loads[self.number] -= 1
            if self.departed is not None:
                self.departed(sequence)
            return
        self._expired.append((sequence, deadline))
        if self._plan is None:
            self._wake(0.0)
        elif self._steps > 1:
            self._cut()

    def slow(self, factor: float) -> None:
        """Steps that begin from now on take ``factor`` times as long as they would."""
        if self.slowness is None:
            self.slowness = self._slowness()
        self.slowness.wanted = factor
        if self._plan is None:
            self.slowness.turn()
        else:
            self.stop_soon()

    def _slowness(self) -> Slowness:
        def give(cost: StepCost) -> None:
            self.cost = cost

        return Slowness(self.cost, give)

    def stop_soon(self) -> None:
        """Ends a run of equal steps with the step that is under way."""
        if self._plan is not None and self._steps > 1:
            self._cut()

    def _wake(self, delay: float) -> None:
        event = self._event
        if event is None or event.callbacks is not None:
            # An event still on the agenda is left to pass unheard.
            event = self._event = Wake(self.env, self._on_event)
        event.after(delay)

    def _cut(self, later: int = 0) -> None:
        """Ends the current run of equal steps with the step that is under way, or ``later``."""
        now = self.env.now
        steps = self._boundary(now) + later
        if steps < self._steps:
            self._steps = steps
            self._wake(self._start + self._span(steps) - now)

    def _boundary(self, at: float) -> int:
        """After how many of the current equal steps the first boundary at or after ``at`` comes;
        all of them if none does."""
        first, slope, start = self._first, self._slope, self._start
        passed = at - start
        if slope > 0.0:
            linear = first - slope / 2
            steps = int((sqrt(linear * linear + 2 * slope * passed) - linear) / slope)
        else:
            steps = int(passed / first) if first > 0.0 else 0
        steps = min(max(1, steps - 1), self._steps)
        while steps < self._steps and start + self._span(steps) < at:
            steps += 1
        return steps

    def _span(self, steps: int) -> float:
        return steps * self._first + self._slope * (steps * (steps - 1) / 2)

    # --- the loop --------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if event is not self._event:
            return
        now = self.env.now
        if self._plan is not None:
            if self.plans_ahead:
                before = self._steps - 1
                self._seen_until = self._start + self._span(before) if before else self._start
            self._finish(self._plan, now)
        if self._expired:
            self._drop_expired()
        self._begin(now)

    def _schedule(self, now: float) -> Plan | None:
        scheduler = self.scheduler
        window_over = True
        if self._looks_at_clock:
            if self.window_s and scheduler.waiting:
                window_over = now + _TICK >= self._oldest_s() + self.window_s
            if self._order is not None:
                self._order.refresh(now)
        plan = scheduler.schedule(window_over=window_over)
        if self.answers is not None and plan is not None:
            self.answers.end_with_next(plan)
        return plan

    def _oldest_s(self) -> float:
        """When the request that waits longest came."""
        order = self._order
        oldest = self.scheduler.waiting[0] if order is None else order.oldest()
        return self.recorder.queued_s[oldest.index]

    def _queue_seen(self, until: float) -> None:
        """Queues the requests that arrived by ``until``."""
        unseen, queued_s = self._unseen, self.recorder.queued_s
        while unseen and queued_s[unseen[0].index] <= until:
            self.scheduler.add(unseen.popleft())

    def _begin(self, now: float) -> None:
        scheduler = self.scheduler
        if self._unseen:
            self._queue_seen(self._seen_until)
        plan = self._schedule(now)
        if plan is None and self._unseen:
            # Nothing to plan ahead for: an idle engine looks at its queue at once.
            self._queue_seen(inf)
            plan = self._schedule(now)
        self._plan = plan
        if plan is None:
            self._note_preempted(0, now)
            if self.window_s and scheduler.waiting:
                self._wake(max(0.0, self._oldest_s() + self.window_s - now))
            return
        if plan.preempted:
            self._note_preempted(len(plan.preempted), now)
            if plan.interrupted:
                self._note_interrupted(plan, now)
        self._start = now
        if plan.chunks:
            self._steps = 1
            self._slope = 0.0
            self._work = self._measure(plan.chunks)
            self._first = self.cost.step(
                plan.decode,
                plan.context,
                plan.local_context,
                plan.chunks,
                plan.decode + plan.ending,
            )
            start_s = self.recorder.start_s
            for sequence in plan.prefill:
                index = sequence.index
                if start_s[index] != start_s[index]:  # NaN: not worked on before
                    start_s[index] = now
                    if self.started is not None:
                        self.started(now, self.recorder.queued_s[index])
                    if sequence.cached:
                        self.recorder.cached[index] = sequence.cached
            self._wake(self._first)
            return
        self._first, self._slope, most = self.cost.decode(
            plan.decode, plan.context, plan.local_context, plan.local_growth
        )
        steps = plan.steps if plan.steps < most else most
        if steps == 1 or self._paused or (self._unseen and not scheduler.blocked):
            self._steps = 1
            self._wake(self._first)
        else:
            self._steps = steps
            if self._order is not None:
                self._end_with_the_order(self._order, held=plan.held)
                steps = self._steps
            self._wake(steps * self._first + self._slope * (steps * (steps - 1) / 2))

    def _end_with_the_order(self, order: Order, *, held: bool) -> None:
        """Ends a run of equal steps where the head of the queue changes: when requests that no plan
        has seen yet are queued, or because of the time."""
        if any(order.may_lead(sequence) for sequence in self._unseen):
            self._steps = 1
        elif order.until() < inf:
            # Where prompts are held back, it matters who waits behind the head as well.
            self._steps = 1 if held else self._boundary(order.until())

    def _measure(self, chunks: list[Chunk]) -> tuple[int, int, int, int]:
        """New tokens, KV tokens read, (query, key) pairs, and those within the local span."""
        span = self.cost.local_span
        if len(chunks) == 1 and not span:
            new, past = chunks[0]
            return new, past + new, new * past + new * (new + 1) // 2, 0
        tokens = read = pairs = local = 0
        for new, past in chunks:
            tokens += new
            read += past + new
            pairs += new * past + new * (new + 1) // 2
            if span:
                local += local_pairs(new, past, span, chunked=self.cost.local_is_chunked)
        return tokens, read, pairs, local

    def _finish(self, plan: Plan, now: float) -> None:
        scheduler = self.scheduler
        recorder = self.recorder
        steps = self._steps
        emitting, accepted = plan.emitting, plan.accepted
        at = self._front.hand_out(
            emitting + accepted + plan.ending, steps, self._start + self._first, now
        )
        self.last_s = at = at + self.response_s
        self._steps = 1  # what arrives from now on has nothing left to cut
        waiting = len(scheduler.waiting) + len(self._unseen)
        paused_before = scheduler.decoding_count if scheduler.pauses_decoding else 0
        ended = scheduler.complete(plan, steps + self._told)
        decode = plan.decode
        first_tokens = 0
        tokens = read = pairs = local = 0
        if plan.chunks:
            tokens, read, pairs, local = self._work
            first_tokens = self._tokens_of_prompts(plan, now, at)
            if paused_before and not decode:
                self._pause(plan, paused_before, now)
        gap_tokens = emitting
        if plan.returned:
            gap_tokens -= len(plan.returned)
            for sequence in plan.returned:
                recorder.gap(self.number, now, now - sequence.last_token_s, 1)
        if decode and self._paused:
            gap_tokens = 0
            for last, count in self._paused.items():
                recorder.gap(self.number, now, now - last, count)
            self._paused.clear()
        stall_s = self._stall
        if self.slowness is not None:
            stall_s = self._slowed(self.slowness, steps)
        rows = recorder.rows
        rows += pack_row(
            self.number, self._start, steps, self._first, self._slope, stall_s,
            decode, plan.context, plan.local_context, plan.local_growth,
            len(plan.chunks), tokens, plan.wasted, pairs, local, read,
            decode + plan.ending, first_tokens, gap_tokens, accepted, plan.running,
            waiting, plan.kv_used, plan.stored + decode * steps + accepted + read,
        )  # fmt: skip
        if len(rows) >= FLUSH_AT:
            recorder.flush()
        if ended:
            self._leave(ended, at)
        if self.answers is not None:
            self.answers.note(plan, steps, at)

    def _slowed(self, slowness: Slowness, steps: int) -> float:
        """The steps that end now were slow: for how long devices waited in them."""
        stall_s = slowness.stalled_s(self._span(steps), self._stall)
        slowness.turn()
        return stall_s

    def _leave(self, ended: list[Sequence], at: float) -> None:
        """Sequences have ended; their last tokens come to their clients at ``at``."""
        recorder = self.recorder
        self.loads[self.number] -= len(ended)
        finish_s = recorder.finish_s
        for sequence in ended:
            finish_s[sequence.index] = at
            if sequence.preemptions:
                recorder.preemptions[sequence.index] = sequence.preemptions
        if self.ended is not None:
            self.ended(ended)

    def _tokens_of_prompts(self, plan: Plan, now: float, at: float) -> int:
        """Records the tokens that the ends of prompts gave, which come to their clients at ``at``;
        returns how many were first ones."""
        recorder = self.recorder
        first_tokens = 0
        first_token_s = recorder.first_token_s
        for sequence in plan.prefill[: plan.ending]:
            index = sequence.index
            if first_token_s[index] != first_token_s[index]:
                first_token_s[index] = at
                first_tokens += 1
            else:
                recorder.gap(self.number, now, now - sequence.last_token_s, 1)
            sequence.last_token_s = now
        return first_tokens

    # --- pauses and departures -------------------------------------------------------------------

    def _pause(self, plan: Plan, decoding: int, now: float) -> None:
        """Decoding sequences had to wait for prompts: remembers since when each group does."""
        paused = self._paused
        if not paused:
            paused[self._start] = decoding
        joined = self.scheduler.decoding_count - decoding
        if joined:
            paused[now] = paused.get(now, 0) + joined

    def _note_preempted(self, count: int, now: float) -> None:
        count += self.scheduler.preempted_in_vain()
        if count:
            self.recorder.preempted.extend((now, self.number, count))

    def _note_interrupted(self, plan: Plan, now: float) -> None:
        for sequence in plan.interrupted:
            sequence.last_token_s = self._leave_pause(sequence) if self._paused else now

    def _leave_pause(self, sequence: Sequence) -> float:
        """Takes a sequence out of its group of paused ones; returns its last token's time."""
        last = sequence.last_token_s
        if last not in self._paused:
            last = next(iter(self._paused))
        self._paused[last] -= 1
        if not self._paused[last]:
            del self._paused[last]
        return last

    def _drop(self, sequence: Sequence) -> None:
        """Takes out a sequence, wherever it waits or runs."""
        sequence.answer_at = 0
        if sequence in self._unseen:
            self._unseen.remove(sequence)
        else:
            self.scheduler.drop(sequence)

    def _drop_expired(self) -> None:
        recorder = self.recorder
        for sequence, deadline in self._expired:
            index = sequence.index
            if sequence.generated == sequence.output:  # it ended with the step before this boundary
                if recorder.finish_s[index] <= deadline:
                    continue
                recorder.finish_s[index] = float("nan")  # nobody waits for that token any more
            else:
                if sequence.finish_at >= 0:
                    decoded_s = self._leave_pause(sequence) if self._paused else self.env.now
                    sequence.last_token_s = decoded_s
                self._drop(sequence)
                self.loads[self.number] -= 1
            recorder.generated[index] = sequence.generated
            recorder.preemptions[index] = sequence.preemptions
            if self.departed is not None and sequence.generated < sequence.output:
                self.departed(sequence)
        self._expired.clear()
