"""What the clock does for traffic whose answers are special: several to a prompt, or with thinking
before them. Runs without such traffic use none of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as List
from heapq import heappop, heappush

from simulator.cluster.clients import ComingSequences, Dependents, Sequences
from simulator.cluster.lanes import LaneGroup, lanes_within
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.results.record import LANES_APART
from simulator.serving.drafts import SpeculativeDecodeSet
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import NOT_DECODING, Sequence
from simulator.workload.answers import Answers
from simulator.workload.growing import GrowingRequests
from simulator.workload.requests import Ints, Requests


class AnsweringSequences(Sequences):
    """Sequences that know which of their tokens is the answer's first, and whom they follow."""

    def __init__(self, requests: Requests, answers: Answers) -> None:
        super().__init__(requests)
        self._follows = (~answers.leads).tolist()
        first = answers.thinking + 1
        told = (answers.thinking > 0) & (first <= requests.output_tokens)
        self._answer_at = (first * told).tolist()

    def make(self, index: int) -> Sequence:
        """A new sequence of row ``index``."""
        sequence = super().make(index)
        sequence.follows = self._follows[index]
        sequence.answer_at = self._answer_at[index]
        return sequence


class SampledDependents(Dependents):
    """Users whose request has ended when its last answer has; its answers are sent together."""

    def __init__(self, requests: Requests, answers: Answers) -> None:
        super().__init__(requests)
        self._lead = answers.lead.tolist()
        self._rows: dict[int, list[int]] = {}
        for index, lead in enumerate(self._lead):
            self._rows.setdefault(lead, []).append(index)
        self._left = {lead: len(rows) for lead, rows in self._rows.items()}
        leads = answers.leads
        self._pools = [iter([i for i in pool if leads[i]]) for pool in self._pools]

    def first(self) -> list[tuple[int, float]]:
        """See ``Dependents.first``."""
        return self._together(super().first())

    def released_by(self, index: int, *, served: bool) -> list[tuple[int, float]]:
        """See ``Dependents.released_by``."""
        lead = self._lead[index]
        self._left[lead] -= 1
        if self._left[lead]:
            return []
        return self._together(super().released_by(lead, served=served))

    def _together(self, leads: list[tuple[int, float]]) -> list[tuple[int, float]]:
        return [(row, pause) for lead, pause in leads for row in self._rows[lead]]


class AdaptedSequences(Sequences):
    """Sequences that know their adapter, made by another maker."""

    def __init__(self, inner: Sequences, adapters: Ints) -> None:
        self._inner = inner
        self._adapters: list[int] = adapters.tolist()

    def make(self, index: int) -> Sequence:
        """A new sequence of row ``index``."""
        sequence = self._inner.make(index)
        sequence.adapter = self._adapters[index]
        return sequence


def sequences_of(requests: Requests) -> Sequences:
    """Who makes the sequences of these requests."""
    made: Sequences
    if isinstance(requests, GrowingRequests):
        made = ComingSequences(requests)
    else:
        made = Sequences(requests)
    if requests.answers is not None:
        made = AnsweringSequences(requests, requests.answers)
    return made if requests.adapters is None else AdaptedSequences(made, requests.adapters)


def dependents_of(requests: Requests) -> Dependents | None:
    """Who waits for whom; None if nobody does."""
    if requests.open_loop:
        return None
    if requests.answers is None or not requests.answers.several:
        return Dependents(requests)
    return SampledDependents(requests, requests.answers)


def kept_together(
    choose: Callable[[Sequence], Replica],
    requests: Requests,
    replicas: List[Replica],
    placed: array[int],
) -> Callable[[Sequence], Replica]:
    """A router that sends all answers to a prompt where it sent the first one.

    Args:
        choose: the router.
        requests: the traffic.
        replicas: by number.
        placed: number of the replica of each row, as far as it has one.
    """
    if requests.answers is None or not requests.answers.several:
        return choose
    lead = requests.answers.lead.tolist()

    def chosen(sequence: Sequence) -> Replica:
        if not sequence.follows:
            return choose(sequence)
        number: int = placed[lead[sequence.index]] % LANES_APART
        return replicas[number]

    return chosen


class AnswerClock:
    """Notes when the first tokens of answers come, after the thinking, on one replica or lane.

    A run of equal steps ends where such a token comes, so that its time is that of a step's end.

    Args:
        answer_s: of each row, the time at which it reaches the client; written here.
    """

    def __init__(self, answer_s: array[float]) -> None:
        self._answer_s = answer_s
        self._decoded = 0
        # Decode counts at which answers begin, for sequences that decode.
        self._due: list[tuple[int, int, int, Sequence]] = []

    def end_with_next(self, plan: Plan) -> None:
        """Lets a plan stand for no more steps than there are to the next answer."""
        if plan.steps > 1:
            while self._due and not _waits(self._due[0]):
                heappop(self._due)
            if self._due:
                plan.steps = min(plan.steps, self._due[0][0] - self._decoded)

    def note(self, plan: Plan, steps: int, at: float) -> None:
        """Steps have been booked whose last tokens reach their clients at ``at``."""
        for sequence in plan.returned:
            if sequence.answer_at:
                self._watch(sequence)
        if plan.decode:
            self._decoded += steps
        self._look(at)
        for sequence in plan.prefill[: plan.ending]:
            if not sequence.answer_at:
                continue
            if sequence.answer_at == sequence.generated:
                self._came(sequence, at)
            else:
                self._watch(sequence)

    def landed(self, sequence: Sequence, at: float) -> None:
        """The first token of a sequence that was begun elsewhere reaches its client at ``at``."""

    def joins(self, sequence: Sequence) -> None:
        """A sequence that has its first token from elsewhere decodes from the next step on."""
        if sequence.answer_at:
            self._watch(sequence)

    def _watch(self, sequence: Sequence) -> None:
        """Remembers when the answer of a sequence that decodes from now on begins."""
        due = self._decoded + sequence.answer_at - sequence.generated
        heappush(self._due, (due, sequence.index, sequence.preemptions, sequence))

    def _look(self, at: float) -> None:
        """Notes which answers have begun."""
        due = self._due
        while due and due[0][0] <= self._decoded:
            entry = heappop(due)
            if _waits(entry):
                self._came(entry[3], at)

    def _came(self, sequence: Sequence, at: float) -> None:
        self._answer_s[sequence.index] = at
        sequence.answer_at = 0


class DraftingAnswerClock(AnswerClock):
    """The same where sequences decode at their own pace, so that each has to be looked at."""

    def __init__(self, answer_s: array[float], decoding: SpeculativeDecodeSet) -> None:
        super().__init__(answer_s)
        self._decoding = decoding
        self._watched: list[Sequence] = []

    def end_with_next(self, plan: Plan) -> None:
        """See ``AnswerClock.end_with_next``."""
        if plan.steps > 1:
            for sequence in self._watched:
                if sequence.answer_at and sequence.finish_at != NOT_DECODING:
                    steps = self._decoding.steps_to(sequence, sequence.answer_at)
                    plan.steps = min(plan.steps, steps)

    def _watch(self, sequence: Sequence) -> None:
        self._watched.append(sequence)

    def _look(self, at: float) -> None:
        still = []
        for sequence in self._watched:
            generated = sequence.generated
            if sequence.finish_at != NOT_DECODING:
                generated = sequence.output - self._decoding.left(sequence)
            elif generated < sequence.output:
                continue  # it lost its blocks, and is watched again when it has caught up
            if not sequence.answer_at:
                continue
            if generated >= sequence.answer_at:
                self._came(sequence, at)
            else:
                still.append(sequence)
        self._watched = still


def watch_answers(replica: Replica | LaneGroup, recorder: Recorder) -> None:
    """Gives a replica, or each of its lanes, a clock for answers if the traffic has some."""
    if recorder.answer_s is None:
        return
    for lane in lanes_within(replica):
        decoding = getattr(lane.scheduler, "decoding", None)
        if isinstance(decoding, SpeculativeDecodeSet):
            lane.answers = DraftingAnswerClock(recorder.answer_s, decoding)
        else:
            lane.answers = AnswerClock(recorder.answer_s)


def _waits(entry: tuple[int, int, int, Sequence]) -> bool:
    """Whether the sequence has decoded since without losing its blocks, and still wants to know."""
    return bool(entry[3].answer_at) and entry[3].preemptions == entry[2]
