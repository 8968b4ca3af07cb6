"""Serves requests in real time: the scheduler's plans, one after another, on a real device.

Requests become visible to a plan exactly as in the simulator's replica: those that arrived by the
end of the step before it, or by its start where steps are planned ahead. So the same durations give
the same plans, which ``calibration.validate.engine`` asserts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import median

import numpy as np

from calibration.engine.blocks import BlockTables
from calibration.engine.clock import Clock, ThreadClock
from calibration.engine.executor import Executor, Pending
from calibration.engine.step import FROM_LAST_STEP, Ints, PackedStep
from calibration.engine.texts import Texts
from simulator.cluster.clients import Dependents, Sequences
from simulator.costs.protocol import Chunk
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests


@dataclass(frozen=True, slots=True)
class DoneStep:
    """One step as it ran: from ``start_s`` to ``end_s``, when the host had its tokens. The host
    took ``host_s`` to plan it and to enqueue it (where the host is the device, to run it). The rest
    is what a cost model is asked with (``StepCost``)."""

    start_s: float
    end_s: float
    host_s: float
    decode: int
    context: int
    local_context: int
    chunks: tuple[Chunk, ...]
    sampled: int

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.end_s - self.start_s

    @property
    def tokens(self) -> int:
        """Tokens that it computed."""
        return self.decode + sum(chunk.new for chunk in self.chunks)


@dataclass(slots=True)
class _Flight:
    """A step under way, and whom its tokens belong to."""

    plan: Plan
    pending: Pending
    start_s: float
    host_s: float
    takers: list[Sequence]
    ended: list[Sequence]
    end_s: float | None = None


class Server:
    """One replica that serves for real.

    Args:
        executor: runs steps.
        scheduler: plans them; its cache must be ``kv``.
        kv: numbers of blocks.
        requests: what clients send.
        texts: their tokens.
        clock: the time.
        plans_ahead: plan and enqueue a step while the one before it runs.
        repeats: on a CPU, each step is run so many times and took as long as the median one, so
            that what others do on the machine at one moment does not count.
        progress: called now and then with requests ended and requests in all.
    """

    def __init__(
        self,
        executor: Executor,
        scheduler: InFlightScheduler,
        kv: BlockTables,
        requests: Requests,
        texts: Texts,
        clock: Clock,
        *,
        plans_ahead: bool,
        repeats: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.executor, self.scheduler, self.kv, self.clock = executor, scheduler, kv, clock
        self.texts, self.plans_ahead, self.repeats = texts, plans_ahead, repeats
        if repeats > 1:
            assert isinstance(clock, ThreadClock), "only computing time can be taken back"
        self.steps: list[DoneStep] = []
        self._sequences = Sequences(requests)
        self._dependents = Dependents(requests)
        self._all, self._over, self._progress = len(requests), 0, progress
        # (time, number, request): of those that come at once, the first one released comes first.
        self._arrivals: list[tuple[float, int, int]] = []
        self._released = 0
        roots = np.flatnonzero((requests.parent == ROOT) & (requests.pool == OPEN_LOOP))
        for index in roots.tolist():
            self._arrive(index, float(requests.arrival_s[index]))
        for index, pause in self._dependents.first():
            self._arrive(index, pause)
        self._free_seats = list(range(executor.nobody - 1, -1, -1))
        self._seats: dict[Sequence, int] = {}
        self._flight: _Flight | None = None
        self._began_s = 0.0

    def serve(self) -> list[DoneStep]:
        """Serves all requests; returns the steps in order."""
        self.clock.start()
        now = 0.0
        while True:
            self.clock.between_steps()
            plan = self._plan(now)
            if plan is None:
                if not self._arrivals:
                    break
                now = max(now, self._arrivals[0][0])
                self.clock.wait_until(now)
                continue
            now = self._run_on(plan, now)
        self.scheduler.check_integrity()
        return self.steps

    def _run_on(self, plan: Plan, now: float) -> float:
        """Runs steps as long as each is planned while the one before it runs; returns the end."""
        flight = self._launch(plan, now)
        while self.plans_ahead:
            following = self._plan(flight.start_s)
            if following is None:
                break
            # Its start is only known when this flight has landed, which changes nothing before.
            ahead = self._launch(following, 0.0)
            ahead.start_s = self._land(flight)
            flight = ahead
        return self._land(flight)

    def _arrive(self, index: int, at: float) -> None:
        heappush(self._arrivals, (at, self._released, index))
        self._released += 1

    def _plan(self, seen_until: float) -> Plan | None:
        self._began_s = self.clock.now()
        while self._arrivals and self._arrivals[0][0] <= seen_until:
            self.scheduler.add(self._sequences.make(heappop(self._arrivals)[2]))
        return self.scheduler.schedule()

    # --- one step --------------------------------------------------------------------------------

    def _launch(self, plan: Plan, start_s: float) -> _Flight:
        decoding = [] if not plan.decode else self.scheduler.decoding_now()
        packed = self._pack(plan, decoding)
        pending = self._run(packed)
        takers = [sequence for sequence, _ in decoding] + plan.prefill[: plan.ending]
        ended = self.scheduler.complete(plan)
        for sequence in ended:
            self._free_seats.append(self._seats.pop(sequence))
        host_s = self.clock.now() - self._began_s
        self._flight = _Flight(plan, pending, start_s, host_s, takers, ended)
        return self._flight

    def _run(self, step: PackedStep) -> Pending:
        if self.repeats == 1:
            return self.executor.run(step)
        clock, seconds = self.clock, []
        assert isinstance(clock, ThreadClock)
        began = clock.now()
        for _ in range(self.repeats):
            before = self.executor.state()
            start = clock.now()
            pending = self.executor.run(step)
            seconds.append(clock.now() - start)
            if len(seconds) < self.repeats:
                self.executor.restore(before)
        clock.take_back(clock.now() - began - median(seconds))
        return pending

    def _land(self, flight: _Flight) -> float:
        """Waits for a step; hands out its tokens."""
        if flight.end_s is None:
            self._collect(flight)
            plan = flight.plan
            assert flight.end_s is not None
            self.steps.append(
                DoneStep(
                    flight.start_s,
                    flight.end_s,
                    flight.host_s,
                    plan.decode,
                    plan.context,
                    plan.local_context,
                    tuple(plan.chunks),
                    plan.decode + plan.ending,
                )
            )
            for sequence in flight.ended:
                self.texts.ended(sequence.index)
                for child, pause in self._dependents.released_by(sequence.index, served=True):
                    self._arrive(child, flight.end_s + pause)
                self._over += 1
            if self._progress is not None and flight.ended:
                self._progress(self._over, self._all)
        return flight.end_s

    def _collect(self, flight: _Flight) -> None:
        tokens = flight.pending.wait()
        # The same sum as on the simulator's clock, so that both see the same times.
        flight.end_s = flight.start_s + (self.clock.now() - flight.start_s)
        for sequence, token in zip(flight.takers, tokens, strict=True):
            self.texts.answers[sequence.index].append(token)

    def _pack(self, plan: Plan, decoding: list[tuple[Sequence, int]]) -> PackedStep:
        for sequence in plan.preempted:
            if sequence in self._seats:
                self._free_seats.append(self._seats.pop(sequence))
        new_blocks: list[tuple[int, int, int]] = []
        size = self.kv.block_size
        seats = np.empty(len(decoding), dtype=np.int64)
        positions = np.empty(len(decoding), dtype=np.int64)
        for i, (sequence, stored) in enumerate(decoding):
            seats[i], positions[i] = self._seats[sequence], stored
            if stored % size == 0:
                self._bind(sequence, stored + 1, new_blocks)
        parts = [(np.full(len(decoding), FROM_LAST_STEP, dtype=np.int64), seats, positions)]
        ends: list[int] = []
        done = len(decoding)
        for sequence, (new, past) in zip(plan.prefill, plan.chunks, strict=True):
            seat = self._seats.get(sequence)
            if seat is None:
                seat = self._seats[sequence] = self._free_seats.pop()
            self._bind(sequence, past + new, new_blocks)
            text = self._text(sequence, past, past + new)
            at = np.arange(past, past + new, dtype=np.int64)
            parts.append((text, np.full(new, seat, dtype=np.int64), at))
            done += new
            ends.append(done - 1)
        tokens, all_seats, all_positions = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        chunks = np.array([chunk.new for chunk in plan.chunks], dtype=np.int64)
        blocks = np.array(new_blocks, dtype=np.int64).reshape(-1, 3)
        return PackedStep(
            decode=len(decoding),
            tokens=tokens, seats=all_seats, positions=all_positions,
            chunk_seats=np.array([self._seats[s] for s in plan.prefill], dtype=np.int64),
            starts=np.concatenate(([0], np.cumsum(chunks))),
            lengths=np.array([c.past + c.new for c in plan.chunks], dtype=np.int64),
            sampled=np.array([*range(len(decoding)), *ends[: plan.ending]], dtype=np.int64),
            block_seats=blocks[:, 0], block_columns=blocks[:, 1], block_numbers=blocks[:, 2],
        )  # fmt: skip

    def _bind(self, sequence: Sequence, tokens: int, new: list[tuple[int, int, int]]) -> None:
        before, numbers = self.kv.bind(sequence, tokens)
        seat = self._seats[sequence]
        new.extend((seat, before + i, number) for i, number in enumerate(numbers))

    def _text(self, sequence: Sequence, first: int, end: int) -> Ints:
        flight = self._flight
        if end > sequence.prompt and flight is not None and flight.end_s is None:
            self._land(flight)  # what it computed anew may hold tokens that are still on their way
        return self.texts.slice(sequence.index, first, end)
