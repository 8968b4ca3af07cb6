"""Tells of tokens as they come to their clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from simpy import Environment

from simulator.cluster.answers import AnswerClock
from simulator.cluster.recorder import Recorder
from simulator.cluster.wake import NORMAL, Wake
from simulator.live.ending import Ending
from simulator.serving.scheduler import Plan, Scheduler
from simulator.serving.sequence import Sequence


class Listener(Protocol):
    """A client that waits for an answer. It is told at the time at which it would hear."""

    def tokens(self, count: int) -> None:
        """So many output tokens have come."""
        ...

    def ended(self, ending: Ending) -> None:
        """Nothing more will come."""
        ...


class Stream:
    """What a client has been told.

    Attributes:
        listener: the client.
        told: tokens that it has heard of, or will in a moment.
        over: nobody listens any more.
    """

    __slots__ = ("listener", "over", "told")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.told = 0
        self.over = False


class TokenClock(AnswerClock):
    """Tells of the tokens of one replica, or one of its lanes, step by step.

    Args:
        env: the clock.
        scheduler: of the replica.
        recorder: of the run.
        streams: of all requests that are not over, by their index.
        begun: called with the index of a request whose first token has come, and with when its
            client will hear of it.
    """

    def __init__(
        self,
        env: Environment,
        scheduler: Scheduler,
        recorder: Recorder,
        streams: dict[int, Stream],
        begun: Callable[[int, float], None],
    ) -> None:
        self._env = env
        self._generated = scheduler.generated
        self._first_token_s = recorder.first_token_s
        self._streams = streams
        self._begun = begun
        self._active: dict[int, tuple[Sequence, Stream]] = {}

    def end_with_next(self, plan: Plan) -> None:
        """Every step is a plan of its own, because clients hear of each."""
        plan.steps = 1

    def note(self, plan: Plan, steps: int, at: float) -> None:
        """A step has been booked whose tokens reach their clients at ``at``."""
        first_token_s = self._first_token_s
        for sequence in plan.prefill[: plan.ending]:
            # A prompt that another replica goes on with has given its client nothing yet.
            if first_token_s[sequence.index] == first_token_s[sequence.index]:
                self.joins(sequence)
                self._begins(sequence, at)
        # Where telling takes its time, those who wait for their first token need not wait for it.
        first: list[tuple[Stream, int]] = []
        later: list[tuple[Stream, int]] = []
        generated, gone = self._generated, []
        for index, (sequence, stream) in self._active.items():
            if stream.over:
                gone.append(index)
                continue
            tokens = generated(sequence)
            if tokens > stream.told:
                (later if stream.told else first).append((stream, tokens - stream.told))
                stream.told = tokens
            if tokens == sequence.output:
                gone.append(index)
        for index in gone:
            del self._active[index]
        if first or later:
            self._tell(first + later, at)

    def joins(self, sequence: Sequence) -> None:
        """A sequence gives its tokens here from now on."""
        stream = self._streams.get(sequence.index)
        if stream is not None:
            self._active[sequence.index] = sequence, stream

    def _begins(self, sequence: Sequence, at: float) -> None:
        stream = self._streams.get(sequence.index)
        if stream is not None and not stream.told:  # else it only goes on
            self._begun(sequence.index, at)

    def landed(self, sequence: Sequence, at: float) -> None:
        """See ``AnswerClock.landed``."""
        self._begins(sequence, at)
        stream = self._streams.get(sequence.index)
        if stream is not None and not stream.told:
            stream.told = 1
            self._tell([(stream, 1)], at)

    def _tell(self, told: list[tuple[Stream, int]], at: float) -> None:
        def tell(_: object) -> None:
            for stream, count in told:
                if not stream.over:
                    stream.listener.tokens(count)

        Wake(self._env, tell, NORMAL).at(at)
