"""A cluster that takes requests as they come, on a clock that somebody else moves."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from simpy import Event

from simulator.cluster.changing import ChangingCluster
from simulator.cluster.disaggregation import Journey
from simulator.cluster.lanes import lanes_within
from simulator.cluster.replica import Replica
from simulator.cluster.run import Cluster
from simulator.cluster.slot import Attempt, Slot
from simulator.cluster.wake import LAST, Wake
from simulator.errors import ScenarioError
from simulator.live.ending import Beginning, Ending, ending_of
from simulator.live.journal import LiveJournal
from simulator.live.tokens import Listener, Stream, TokenClock
from simulator.results.record import LANES_APART, UNFINISHED
from simulator.serving.ordered import FairScheduler
from simulator.serving.scheduler import DecodeSet, Scheduler
from simulator.serving.sequence import Sequence
from simulator.workload.growing import Asked, GrowingRequests
from simulator.workload.requests import Floats

_FORGET_EVERY = 1024
"""Requests that end between two looks at what rows are still needed."""


class LiveCluster(Cluster):
    """See the module. Every step is planned for itself, so that clients can be told of each.

    Who gives up is told to the replicas as clients of a simulation with a timeout are: each request
    is sent with an endless one, and cancelling it lets it expire.
    """

    requests: GrowingRequests
    journal: LiveJournal

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._streams: dict[int, Stream] = {}
        self.on_begun: list[Callable[[Beginning], None]] = []
        # Requests on their way to the server; where the others are; who was cancelled and leaves.
        self._coming: set[int] = set()
        self._where: dict[int, tuple[Sequence, Replica | Journey | None]] = {}
        self._leaving: set[int] = set()
        self._ends = 0
        super().__init__(*args, **settings, timeout_s=inf, progress=None, watch=None)
        if self._handover is None:
            self._choose_first, self._choose = self._choose, self._choose_together

    def _choose_together(self, sequence: Sequence) -> Replica:
        """All answers to a prompt go where the first one went."""
        if sequence.follows:
            placed: int = self.recorder.replica[sequence.index - 1]
            if placed >= 0:
                return self.replicas[placed % LANES_APART]
            sequence.follows = False  # the one before was cancelled on its way
        return self._choose_first(sequence)

    def _watch_tokens(self, replica: Replica) -> None:
        for lane in lanes_within(replica):
            lane.answers = TokenClock(
                self.env, lane.scheduler, self.recorder, self._streams, self._begun
            )
            lane.departed = self._departed

    def _begun(self, index: int, at: float) -> None:
        for hear in self.on_begun:
            hear(self._beginning_of(index, at))

    def _beginning_of(self, index: int, at: float) -> Beginning:
        asked, recorder = self.requests.asked[index], self.recorder
        replica = recorder.replica[index] % LANES_APART
        first = replica if self._handover is None else self._handover.prefill_replica[index]
        return Beginning(
            number=index,
            ttft_s=at - recorder.sent_s[index],
            replica=replica,
            prompt_replica=first % LANES_APART,
            prompt_tokens=asked.input_tokens,
            cached_tokens=max(0, recorder.cached[index]),
        )

    # --- requests --------------------------------------------------------------------------------

    def begin(self) -> None:
        """The deployment starts, at time 0."""
        self.journal = LiveJournal()
        self._open()

    def send(self, asked: Asked, listener: Listener) -> int:
        """A client sends a request now; returns its number."""
        index = self.requests.add(asked)
        self._streams[index] = Stream(listener)
        self._coming.add(index)
        self._send_later(index, float(self.env.now))
        return index

    def _deliver(self, index: int, sent: float) -> None:
        if index in self._coming:
            self._coming.remove(index)
            super()._deliver(index, sent)
        else:
            self._after(index, sent, served=False)

    def _watch(self, sequence: Sequence, told: Replica | Journey | None, deadline: float) -> None:
        if self.recorder.outcome[sequence.index] == UNFINISHED:
            self._where[sequence.index] = sequence, told

    def cancel(self, index: int) -> None:
        """A client gives up now; it hears nothing more. Its KV blocks are free at the end of the
        step under way."""
        stream = self._streams.pop(index, None)
        if stream is None:
            return
        stream.over = True
        self._coming.discard(index)
        where = self._where.pop(index, None)
        if where is not None:
            self._leaving.add(index)
            self._expire(*where, float(self.env.now))
        self._one_less()

    def _departed(self, sequence: Sequence) -> None:
        super()._departed(sequence)
        self._leaving.discard(sequence.index)
        if self._handover is not None:
            self._handover.departed(sequence)

    def _after(self, index: int, at: float, *, served: bool) -> None:
        super()._after(index, at, served=served)
        self._where.pop(index, None)
        self._leaving.discard(index)
        self._one_less()
        stream = self._streams.get(index)
        if stream is None:
            return

        def end(_: Event) -> None:
            if not stream.over:
                del self._streams[index]
                stream.over = True
                stream.listener.ended(self.progress_of(index))

        Wake(self.env, end, LAST).at(max(at, float(self.env.now)))

    def _one_less(self) -> None:
        self._ends += 1
        if self._ends % _FORGET_EVERY == 0:
            self._forget()

    def progress_of(self, index: int) -> Ending:
        """How far a request is that is not over, or how it went as its client is told so."""
        asked = self.requests.asked[index]
        return ending_of(self.recorder, index, asked.input_tokens, asked.output_tokens)

    def _forget(self) -> None:
        """Nothing is kept of requests that are over."""
        self.requests.forget(self._streams.keys() | self._leaving)
        for replica in self.replicas:
            for lane in lanes_within(replica):
                _forget_gone(lane.scheduler)
        if self._handover is not None:
            self._handover.forget_gone()

    @property
    def open_requests(self) -> int:
        """Requests that are not over."""
        return len(self._streams)


def _forget_gone(scheduler: Scheduler) -> None:
    inner = scheduler.inner if isinstance(scheduler, FairScheduler) else scheduler
    decoding = getattr(inner, "decoding", None)
    if isinstance(decoding, DecodeSet):
        decoding.forget_gone()


class LiveChangingCluster(LiveCluster, ChangingCluster):
    """The same where replicas come and go."""

    journal: LiveJournal

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._times_lost: array[int] = self.requests.column(0)

    def _open(self) -> None:
        super()._open()
        self.over = False
        self._to_come = 1  # somebody is always still to come

    def _again(self, attempt: Attempt, slot: Slot, *, restart: bool) -> Sequence:
        self._times_lost[attempt.sequence.index] += 1
        return super()._again(attempt, slot, restart=restart)

    def progress_of(self, index: int) -> Ending:
        """See ``LiveCluster.progress_of``."""
        ending = super().progress_of(index)
        # It loses its blocks in a crash as well, which is no preemption.
        return replace(ending, preemptions=ending.preemptions - self._times_lost[index])

    def _expire(self, sequence: Sequence, told: Replica | Journey | None, deadline: float) -> None:
        super()._expire(sequence, told, deadline)
        if sequence.index not in self._attempts:
            self._leaving.discard(sequence.index)

    def _check_known(self) -> None:
        raise ScenarioError(
            "a perfect forecast needs traffic that is known beforehand, and a server's is not",
            where="deployment.autoscaling.forecast",
            hint="use holt or seasonal",
        )

    def _arrivals(self, number: int) -> Floats:
        return self.requests.arrival_s
