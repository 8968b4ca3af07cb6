"""What lies between the network and a replica's queue, and between its steps and the network."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable

from simpy import Environment, Event

from simulator.cluster.wake import NORMAL, Wake
from simulator.deployment import FrontEndTimes
from simulator.serving.sequence import Sequence
from simulator.workload.requests import Floats, Ints


class FrontEnd:
    """Takes requests in one at a time, and hands the tokens of steps out one step after the other;
    neither waits for the other.

    Args:
        env: the clock.
        times: how long everything takes.
        queued_s: when each request reaches the queue, by its index; written here.
        pass_on: called with a request when it does.

    Attributes:
        handed_out_s: when the tokens of the last step have left.
    """

    def __init__(
        self,
        env: Environment,
        times: FrontEndTimes,
        queued_s: array[float],
        pass_on: Callable[[Sequence], None],
    ) -> None:
        self._env = env
        self._times = times
        self._takes_time = any(times[:3])
        self._queued_s = queued_s
        self._pass_on = pass_on
        self._free_s = 0.0
        self.handed_out_s = 0.0
        self._inside: deque[tuple[float, Sequence | None]] = deque()
        self._next = Wake(env, self._on_ready, NORMAL)

    def receive(self, sequence: Sequence) -> None:
        """A request arrives now."""
        now = float(self._env.now)
        if not self._takes_time:
            self._queued_s[sequence.index] = now
            self._pass_on(sequence)
            return
        times = self._times
        start = self._free_s if self._free_s > now else now
        if not sequence.follows:  # further answers to a prompt need no second look at it
            start = self._free_s = start + times.busy_s + times.busy_s_per_token * sequence.prompt
        ready = start + times.request_s
        self._queued_s[sequence.index] = ready
        self._inside.append((ready, sequence))
        if len(self._inside) == 1:
            self._next.after(ready - now)

    def _on_ready(self, _: Event) -> None:
        """The request that came first goes on, if its client still waits."""
        sequence = self._inside.popleft()[1]
        if sequence is not None:
            self._pass_on(sequence)
        if self._inside:
            delay = self._inside[0][0] - self._env.now
            self._next.after(delay if delay > 0.0 else 0.0)

    @property
    def waiting(self) -> int:
        """Requests that have come and did not go on yet."""
        return sum(1 for _, sequence in self._inside if sequence is not None)

    def drop(self, sequence: Sequence) -> bool:
        """Forgets a request that is still inside; says whether it was. It was busy with it all the
        same."""
        for i, (ready, other) in enumerate(self._inside):
            if other is sequence:
                self._inside[i] = (ready, None)
                return True
        return False

    def hand_out(self, tokens: int, steps: int, first_end: float, now: float) -> float:
        """When the tokens of steps that end now have left: ``tokens`` of each of ``steps``, the
        first of which ended at ``first_end``. Of steps that grow evenly, the first or the last
        holds it up."""
        each_s = self._times.token_s
        if not each_s:
            return now
        batch_s = each_s * tokens
        waited = max(self.handed_out_s, first_end) + steps * batch_s
        self.handed_out_s = max(waited, now + batch_s)
        return self.handed_out_s

    def hand_out_each(self, tokens: Ints, ends: Floats) -> float:
        """The same of steps that give different numbers of tokens, by the times of their ends, the
        last one now; the sums are those of ``hand_out`` for one step after the other."""
        each_s = self._times.token_s
        if not each_s:
            return float(ends[-1])
        batches_s = each_s * tokens
        left = ends + batches_s
        left_s = self.handed_out_s
        if left_s <= ends[0] and (left[:-1] <= ends[1:]).all():  # no step waits for another one
            self.handed_out_s = left.item(-1)
            return self.handed_out_s
        for batch_s, end in zip(batches_s.tolist(), ends.tolist(), strict=True):
            left_s = (left_s if left_s > end else end) + batch_s
        self.handed_out_s = left_s
        return left_s
