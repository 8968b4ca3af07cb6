"""A cluster whose replicas come and go: requests wait at a gateway, and are sent again elsewhere
when their replica is gone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as List
from dataclasses import replace
from math import isnan, nan
from typing import Any

import numpy as np
from simpy import Event

from simulator.cluster.disaggregation import Journey
from simulator.cluster.groups import ReplicaGroup, Serving
from simulator.cluster.journal import Journal
from simulator.cluster.lines import Line, Meter
from simulator.cluster.replica import Replica
from simulator.cluster.run import Cluster
from simulator.cluster.scaling import make_scaler
from simulator.cluster.slot import Attempt, Slot
from simulator.cluster.slots import SlotGroup
from simulator.cluster.starting import Life
from simulator.errors import ScenarioError
from simulator.results.lives import UP
from simulator.results.record import FAILED, REJECTED, TIMED_OUT, RunRecord
from simulator.scenario.lifecycle import ScheduleScaling
from simulator.serving.sequence import Sequence
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats


class ChangingCluster(Cluster):
    """See the module. Its groups' replicas are numbered by slots.

    Attributes:
        over: every request has ended; nothing starts, fails or is decided any more.
    """

    changing = True

    def __init__(self, serving: Serving, *args: Any, **settings: Any) -> None:
        self.over = False
        self.journal = Journal()
        self._serving = serving
        self._slots: list[Slot] = []
        self._groups: list[SlotGroup] = []
        self._attempts: dict[int, Attempt] = {}
        self._to_come = 0
        super().__init__(*args, **settings)
        answers = self.requests.answers
        if answers is not None and answers.several:
            raise ScenarioError(
                "several answers to a prompt are kept on one replica, which must not come and go",
                where="deployment",
                hint="ask for one answer, or leave autoscaling, failures, spot and gateway out",
            )
        self._meters = [Meter(group) for group in self._groups]
        self._lines = [
            Line(fleet, mine, next((self._meters[n] for n in mine if self._adapts(n)), None))
            for fleet, mine in self._routing.fleets
        ]
        self._line_of_class = [self._lines[fleet] for fleet in self._routing.fleet_of_class]
        self._class_of: list[int] = self.requests.class_id.tolist()
        self._meter_of = [m for m in self._meters for _ in m.slots.slots]
        self._lines_of = [
            [line for line in self._lines if m.slots.number in line.groups] for m in self._meter_of
        ]

    def _line_of(self, index: int) -> Line:
        return self._line_of_class[self._class_of[index]]

    def _adapts(self, number: int) -> bool:
        scaling = self._groups[number].life.scaling
        return scaling is not None and not isinstance(scaling, ScheduleScaling)

    def _populate(self, group: ReplicaGroup) -> None:
        life, first = group.life or Life(group.replicas), len(self._slots)
        make = self._maker(group, first)
        slots = SlotGroup(len(self._groups), first, life, self, make, self._seed)
        self._groups.append(slots)
        self._slots += slots.slots

    # --- the run ---------------------------------------------------------------------------------

    def _open(self) -> None:
        self.over = not len(self.requests)
        super()._open()
        for group in self._groups:
            group.open()
        for meter in self._meters:
            if meter.slots.life.scaling is not None:
                self._decide_on(meter)

    def strike(self, number: int, for_s: float | None) -> bool:
        """See ``SlotGroup.strike``."""
        return self._meter_of[number].slots.strike(self._slots[number], for_s)

    def _replica(self, number: int) -> Replica | None:
        slot = self._slots[number]
        return slot.replica if slot.state == UP else None

    def _open_loop(self) -> None:
        requests = self.requests
        self._to_come += int(((requests.parent == ROOT) & (requests.pool == OPEN_LOOP)).sum())
        super()._open_loop()

    def _send_later(self, index: int, sent: float, *, at_boundary: bool = False) -> None:
        self._to_come += 1
        super()._send_later(index, sent, at_boundary=at_boundary)

    def _after(self, index: int, at: float, *, served: bool) -> None:
        super()._after(index, at, served=served)
        self._to_come -= 1
        if not self._to_come:
            self.over = True

    def _record(self, end_s: float, **more: Any) -> RunRecord:
        record = super()._record(end_s, **more)
        retry = self._serving.retry
        resumes = retry is not None and retry.mode == "resume"
        lives = self.journal.lives(
            resumes=resumes, most=tuple(group.life.most for group in self._groups)
        )
        preemptions = record.preemptions.copy()
        np.subtract.at(preemptions, lives.lost.request, 1)  # a crash is none
        return replace(record, held=lives.held(end_s), lives=lives, preemptions=preemptions)

    @property
    def waiting_at_gateway(self) -> int:
        """Requests that no replica has taken yet."""
        return sum(len(line.waiting) for line in self._lines)

    # --- requests --------------------------------------------------------------------------------

    def _place(self, sequence: Sequence) -> None:
        index = sequence.index
        line = self._line_of(index)
        replica = self._choose(sequence) if line.fleet.replicas else None
        gate = self._gate
        # Who waits at the gateway is let in: max_queue says how many may.
        if gate is not None and replica is not None:
            let_in = gate.admits(sequence, replica, self._now)
            if not let_in:
                self._refuse(index, gate)
                return
        attempt = self._attempts[index] = Attempt(sequence)
        if replica is None:
            self._hold(attempt, line)
        else:
            self._send(attempt, replica, new=True)
        if self.timeout_s is not None:
            self._watch(sequence, None, self.recorder.sent_s[index] + self.timeout_s)

    def _send(self, attempt: Attempt, replica: Replica, *, new: bool = False) -> None:
        """A request goes to a replica that takes requests."""
        sequence = attempt.sequence
        slot = attempt.slot = self._slots[replica.number]
        meter = self._meter_of[slot.number]
        meter.came += new
        if slot.crash is not None:  # nobody knows yet
            meter.note(self._now, requests=1)
            attempt.crash, attempt.replica = slot.crash, None
            attempt.left_s = self._now
            self.loads[slot.number] += 1
            self.recorder.replica[sequence.index] = slot.number
            slot.crash.lost.append(attempt)
        else:
            meter.note(self._now, requests=1, busy=not slot.live)
            attempt.replica = replica
            slot.live[sequence.index] = attempt
            replica.receive(sequence)
        self.refresh(slot)

    def _hold(self, attempt: Attempt, line: Line) -> None:
        """No replica takes requests: it waits at the gateway, unless too many do."""
        most = self._serving.gateway.max_queue
        index = attempt.sequence.index
        if most is not None and self.waiting_at_gateway >= most:
            self._give_up(attempt, FAILED if attempt.retries else REJECTED)
            return
        attempt.slot = attempt.replica = None
        attempt.since_s = self._now
        line.waiting[index] = attempt
        meter = line.scaled
        if meter is not None:
            meter.note(self._now, held=1)
            meter.came += not attempt.retries
            if not meter.slots.wanted:
                meter.slots.scale(1)

    def _unhold(self, attempt: Attempt) -> None:
        index = attempt.sequence.index
        line = self._line_of(index)
        del line.waiting[index]
        self.journal.wait(index, attempt.since_s, self._now)
        if line.scaled is not None:
            line.scaled.note(self._now, held=-1)

    def _give_up(self, attempt: Attempt, outcome: int) -> None:
        """A request ends without its last token, and its client is told."""
        index = attempt.sequence.index
        del self._attempts[index]
        self.recorder.outcome[index] = outcome
        self._last_s = max(self._last_s, self._now)
        self._after(index, self._now + self._response_s, served=False)

    def lose(self, attempt: Attempt) -> None:
        """See ``Host.lose``: it is sent elsewhere, or fails."""
        slot, retry = attempt.slot, self._serving.retry
        assert slot is not None
        self._meter_of[slot.number].note(self._now, requests=-1)
        if retry is None or attempt.retries == retry.limit:
            self.journal.end(attempt.sequence.index, attempt.left_s)
            self._give_up(attempt, FAILED)
            return
        attempt.retries += 1
        attempt.sequence = self._again(attempt, slot, restart=retry.mode == "restart")
        attempt.crash = attempt.slot = attempt.replica = None
        line = self._line_of(attempt.sequence.index)
        if line.fleet.replicas:
            self._send(attempt, self._choose(attempt.sequence))
        else:
            self._hold(attempt, line)

    def _again(self, attempt: Attempt, slot: Slot, *, restart: bool) -> Sequence:
        """A new sequence for a request that was lost."""
        old = attempt.sequence
        index, recorder = old.index, self.recorder
        self.journal.lose(
            index, slot.number, recorder.start_s[index],
            recorder.first_token_s[index] if restart else nan,
            attempt.left_s, recorder.generated[index] if restart else 0,
        )  # fmt: skip
        recorder.queued_s[index] = recorder.start_s[index] = nan
        recorder.cached[index] = 0
        new = self._sequences.make(index)
        if restart:
            if recorder.answer_s is not None:
                recorder.answer_s[index] = nan
            recorder.first_token_s[index] = nan
            recorder.generated[index] = 0
        else:
            new.generated, new.last_token_s = old.generated, old.last_token_s
            new.target = new.prompt + new.generated
            if new.answer_at <= new.generated:  # the answer has begun
                new.answer_at = 0
        # It lost its blocks, as in a preemption: what is computed again is waste.
        new.preemptions = recorder.preemptions[index] = old.preemptions + 1
        new.highest = min(old.highest, new.target)
        return new

    def _ended(self, sequences: list[Sequence]) -> None:
        gone = [s for s in sequences if self._attempts[s.index].gone]
        for sequence in sequences:
            self._leave(self._attempts[sequence.index])
        super()._ended(sequences)
        for sequence in gone:
            if self.recorder.outcome[sequence.index] == TIMED_OUT:
                self.recorder.finish_s[sequence.index] = nan
                self.recorder.generated[sequence.index] = sequence.generated

    def _departed(self, sequence: Sequence) -> None:
        """A request has left its replica without its last token."""
        attempt = self._attempts[sequence.index]
        crash, slot = attempt.crash, attempt.slot
        assert slot is not None
        if crash is None or attempt.gone:
            self._leave(attempt)
            return
        slot.leaving -= 1
        attempt.left_s = self._now
        if crash.noticed:
            self._depart(slot, attempt)
            self.lose(attempt)
        else:
            self.loads[slot.number] += 1
            crash.lost.append(attempt)
            self._depart(slot, attempt)

    def _leave(self, attempt: Attempt) -> None:
        """A request is over, or its client has gone, and it is on no replica any more."""
        index, slot = attempt.sequence.index, attempt.slot
        assert slot is not None
        del self._attempts[index]
        if attempt.crash is None:
            del slot.live[index]
            idle = not slot.live
        else:
            slot.leaving -= 1
            idle = False
        self._meter_of[slot.number].note(self._now, requests=-1, busy=-1 if idle else 0)
        self._depart(slot, attempt)

    def _depart(self, slot: Slot, attempt: Attempt) -> None:
        """What follows for the slot that a request has left."""
        replica = attempt.replica
        if replica is not None and replica is not slot.replica and not (slot.live or slot.leaving):
            self.retire(replica)
        attempt.replica = None
        self.refresh(slot)
        group = self._meter_of[slot.number].slots
        group.emptied(slot)

    # --- clients that give up --------------------------------------------------------------------

    def _expire(self, sequence: Sequence, told: Replica | Journey | None, deadline: float) -> None:
        attempt = self._attempts.get(sequence.index)
        if attempt is None:
            return
        attempt.gone = True
        slot, crash = attempt.slot, attempt.crash
        if slot is None:
            self._unhold(attempt)
            del self._attempts[sequence.index]
        elif crash is None:
            assert attempt.replica is not None
            attempt.replica.expire(attempt.sequence, deadline)
        elif attempt in crash.lost:
            crash.lost.remove(attempt)
            self.journal.end(sequence.index, attempt.left_s)
            del self._attempts[sequence.index]
            self.loads[slot.number] -= 1
            self._meter_of[slot.number].note(self._now, requests=-1)
            self.refresh(slot)

    # --- replicas (see ``Host``) -----------------------------------------------------------------

    @property
    def _now(self) -> float:
        return float(self.env.now)

    def risen(self, replica: Replica) -> None:
        """See ``Host.risen``."""
        lanes: List[Replica] = getattr(replica, "lanes", [replica])
        for lane in lanes:
            lane.departed = self._departed
        self.replicas.append(replica)

    def idled(self, slot: Slot) -> None:
        """See ``Host.idled``."""
        self._meter_of[slot.number].note(self._now, busy=-1)

    def retire(self, replica: Replica) -> None:
        """See ``Host.retire``."""
        self.replicas.remove(replica)
        self._routing.forget(replica)
        self._last_s = max(self._last_s, replica.last_s)
        replica.scheduler.check_integrity()

    def refresh(self, slot: Slot) -> None:
        """See ``Host.refresh``: lists a replica where requests choose, or takes it from there."""
        most = self._serving.gateway.max_concurrency
        takes = slot.routable and (most is None or self.loads[slot.number] < most)
        if takes == slot.listed:
            return
        slot.listed = takes
        for line in self._lines_of[slot.number]:
            replicas = line.fleet.replicas
            place = bisect_left(replicas, slot.number, key=lambda replica: replica.number)
            if not takes:
                del replicas[place]
                continue
            replica = slot.crash.replica if slot.crash is not None else slot.replica
            assert replica is not None
            replicas.insert(place, replica)
        if takes:
            self._drain_lines(slot)

    def _drain_lines(self, slot: Slot) -> None:
        """Requests that waited at the gateway go, as long as somebody takes them."""
        for line in self._lines_of[slot.number]:
            while line.waiting and line.fleet.replicas:
                attempt = next(iter(line.waiting.values()))
                self._unhold(attempt)
                self._send(attempt, self._choose(attempt.sequence))

    # --- decisions -------------------------------------------------------------------------------

    def _decide_on(self, meter: Meter) -> None:
        """Decides again and again how many replicas a group has."""
        group = meter.slots
        scaling = group.life.scaling
        assert scaling is not None
        if scaling.kind == "predictive" and scaling.forecast.kind == "perfect":
            self._check_known()
        scaler = make_scaler(scaling, group.life.start.alone_s, self._arrivals(group.number))
        now = self._now
        self.journal.decide(now, group.number, group.wanted)

        def decide(_: Event) -> None:
            if self.over:
                return
            waiting = sum(
                isnan(self.recorder.start_s[index]) for slot in group.slots for index in slot.live
            )
            wanted = scaler.wanted(meter.read(self._now, waiting))
            if wanted != group.wanted:
                group.scale(wanted)
            next_time()

        def next_time() -> None:
            seconds = scaler.next_after(self._now) - self._now
            self.env.timeout(seconds).callbacks.append(decide)

        next_time()

    def _check_known(self) -> None:
        requests = self.requests
        if not requests.open_loop or requests.worker_limits:
            raise ScenarioError(
                "a perfect forecast needs traffic whose requests wait for no other one",
                where="deployment.autoscaling.forecast",
                hint="use holt or seasonal",
            )

    def _arrivals(self, number: int) -> Floats:
        """When requests that a group may serve will come, as far as that is known."""
        requests, group = self.requests, self.groups[number]
        known = (requests.parent == ROOT) & (requests.pool == OPEN_LOOP)
        mine = np.array([group.serves(name) for name in requests.classes])[requests.class_id]
        return np.sort(requests.arrival_s[known & mine] + self.network_s)
