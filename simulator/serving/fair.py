"""A queue in which traffic classes take turns by what they have been served."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf

from simulator.scenario.queue import FairQueue
from simulator.serving.sequence import Sequence


class FairOrder:
    """The class that was served least goes first: the virtual token counter of Sheng et al. (OSDI
    2024, arXiv:2401.00588).

    A class's counter is its tokens, weighted and divided by its weight. A class that had nobody
    waiting is lifted, when somebody comes, to the lowest counter of those that have (or that of the
    class which left last), so that nobody saves up for later. Ranks of sequences are the numbers of
    their classes. Prompts count when they are first admitted, output tokens as they come.

    Args:
        queue: what tokens count.
        weights: of the classes.
    """

    def __init__(self, queue: FairQueue, weights: tuple[float, ...]) -> None:
        self._input, self._output = queue.input_weight, queue.output_weight
        self._weights = weights
        self._lift = [0.0] * len(weights)
        self._in = [0] * len(weights)
        self._out = [0] * len(weights)
        self._lines: list[deque[Sequence]] = [deque() for _ in weights]
        # Counters are only right between two steps: who comes in between is looked at then.
        self._fresh: deque[Sequence] = deque()
        self._count = self._tickets = 0
        self._last = -1

    def __len__(self) -> int:
        return self._count + len(self._fresh)

    def counter(self, number: int, out: int = 0) -> float:
        """Virtual tokens of a class, ``out`` more output tokens included."""
        tokens = self._input * self._in[number] + self._output * (self._out[number] + out)
        return self._lift[number] + tokens / self._weights[number]

    def book(self, number: int, tokens: int) -> None:
        """A class got output tokens."""
        self._out[number] += tokens

    def append(self, sequence: Sequence) -> None:
        """Queues a newcomer, seen by the next plan."""
        sequence.ticket = self._tickets
        self._tickets += 1
        self._fresh.append(sequence)

    def refresh(self, now: float) -> None:
        """Before every plan: queues who came since the last one."""
        while self._fresh:
            sequence = self._fresh.popleft()
            number = int(sequence.rank)
            if not self._lines[number]:
                self._raise(number)
            self._lines[number].append(sequence)
            self._count += 1

    def _raise(self, number: int) -> None:
        waiting = [self.counter(i) for i, line in enumerate(self._lines) if line]
        if waiting:
            level = min(waiting)
        elif self._last >= 0:
            level = self.counter(self._last)
        else:
            return
        own = self.counter(number)
        if level > own:
            self._lift[number] += level - own

    def appendleft(self, sequence: Sequence) -> None:
        """Takes back a sequence that lost its blocks, to its place in its class."""
        line = self._lines[int(sequence.rank)]
        place = 0
        while place < len(line) and line[place].ticket < sequence.ticket:
            place += 1
        line.insert(place, sequence)
        self._count += 1

    def _first(self) -> int:
        """The class whose turn it is: of equal ones that with the earliest head."""
        return min(
            (number for number, line in enumerate(self._lines) if line),
            key=lambda number: (self.counter(number), self._lines[number][0].ticket),
        )

    def __getitem__(self, index: int) -> Sequence:
        assert index == 0, "only the head can be looked at"
        return self._lines[self._first()][0]

    def popleft(self) -> Sequence:
        """Takes out the head; its prompt counts as served, unless it did before."""
        number = self._last = self._first()
        sequence = self._lines[number].popleft()
        self._count -= 1
        if not sequence.preemptions:
            self._in[number] += sequence.prompt
        return sequence

    def __iter__(self) -> Iterator[Sequence]:
        """In the order in which ``popleft`` would give them."""
        ahead = FairOrder.__new__(FairOrder)
        ahead._input, ahead._output, ahead._weights = self._input, self._output, self._weights
        ahead._lift, ahead._out, ahead._in = self._lift, self._out, list(self._in)
        ahead._lines = [deque(line) for line in self._lines]
        ahead._fresh, ahead._count = deque(), self._count
        while ahead._count:
            yield ahead.popleft()
        yield from self._fresh

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence.

        Raises:
            ValueError: it does not wait here.
        """
        if sequence in self._fresh:
            self._fresh.remove(sequence)
        else:
            self._lines[int(sequence.rank)].remove(sequence)
            self._count -= 1

    def turn_lasts(self, tokens_a_step: list[int], most: int) -> int:
        """After how many of ``most`` equal steps, in which each class gets so many output tokens,
        it is another class's turn; ``most`` if it stays the same."""
        first = self._first()
        gain = tokens_a_step[first]
        for number, line in enumerate(self._lines):
            if not line or number == first:
                continue
            other = tokens_a_step[number]
            faster = self._output * (gain / self._weights[first] - other / self._weights[number])
            if faster <= 0.0:
                continue
            away = self.counter(number) - self.counter(first)
            steps = max(1, int(min(away / faster, most)) - 1)
            while steps < most:
                ours = (self.counter(first, steps * gain), self._lines[first][0].ticket)
                if (self.counter(number, steps * other), line[0].ticket) < ours:
                    break
                steps += 1
            most = min(most, steps)
        return most

    def until(self) -> float:
        """Time alone changes nothing."""
        return inf

    def may_lead(self, sequence: Sequence) -> bool:
        """Whether a newcomer could be the head: nobody of its class waits."""
        return not self._lines[int(sequence.rank)]

    def ahead_of(self, sequence: Sequence, now: float) -> int:
        """How many would go before a newcomer, were all classes served in turn."""
        waiting = [len(line) for line in self._lines]
        for other in self._fresh:
            waiting[int(other.rank)] += 1
        own = waiting.pop(int(sequence.rank))
        return own + sum(min(count, own + 1) for count in waiting)

    def oldest(self) -> Sequence:
        """Who came first of all that wait."""
        return min(self, key=lambda sequence: sequence.ticket)
