"""What sequences with drafts will do in each step to come, worked out once as they join.

What is accepted depends on the request and the place alone, so that as long as every step drafts,
the whole way of a sequence is known when it begins: the tokens of each of its steps, and the steps
before which it needs KV blocks. The sums over all sequences are kept for every step to come, so
that a step costs the same whatever the batch, and many steps can be looked at together.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.serving.sequence import Sequence

Ints = npt.NDArray[np.int64]

_TOKENS, _BLOCKS, _VISIBLE = range(3)


class Course(NamedTuple):
    """The way of one sequence to its end.

    Attributes:
        since: the step with which it began.
        stored, left, held: tokens stored, tokens to come and KV blocks before that step.
        gained: tokens that it has given after each of its steps. Shape (steps,).
        taken: KV blocks that it has taken beside ``held`` before each of its steps; none where it
            needs none. Shape (steps,).
        visible: tokens within the local span before each of its steps; none without such layers.
    """

    since: int
    stored: int
    left: int
    held: int
    gained: Ints
    taken: Ints | None
    visible: Ints | None

    def gained_by(self, step: int) -> int:
        """Tokens that it has given before a step."""
        done = step - self.since
        return self.gained.item(done - 1) if done else 0

    def held_by(self, step: int) -> int:
        """KV blocks that it has after a step."""
        done = step - self.since
        return self.held + (self.taken.item(done) if self.taken is not None and done >= 0 else 0)


class Outlook(NamedTuple):
    """What all sequences do in the next steps together. Shapes (steps,).

    Attributes:
        tokens: that they give in each step.
        blocks: KV blocks that they take beside those of the first step, up to each step.
        visible: tokens within the local span before each step.
    """

    tokens: Ints
    blocks: Ints
    visible: Ints


class Timetable:
    """Sequences that draft in every step.

    Args:
        width: tokens that each computes in a step.
        block_size: tokens of a KV block; 0: they need no blocks while they decode.
        span, chunked: local attention, see ``StepCost``.
    """

    def __init__(self, width: int, block_size: int, span: int, *, chunked: bool) -> None:
        self._width = width
        self._block_size = block_size
        self._span = span
        self._chunked = chunked
        self._now = 0
        self._base = 0
        self._sums = np.zeros((3, 1 << 12), dtype=np.int64)
        self._courses: dict[Sequence, Course] = {}
        self._ends: list[tuple[int, int, Sequence]] = []
        # Who has its blocks for the next step, where they are given one after another.
        self._given: set[Sequence] = set()

    # --- coming and going ------------------------------------------------------------------------

    def join(self, sequence: Sequence, stored: int, left: int, held: int, drawn: Ints) -> None:
        """Adds a sequence.

        Args:
            sequence: who comes.
            stored: its tokens in the cache.
            left: tokens to come, at least 1.
            held: KV blocks that grow with its context.
            drawn: what its steps give, see ``Acceptance.tokens``.
        """
        gained, gains = _way(left, drawn)
        steps = len(gained)
        at = self._room_for(steps)
        sums = self._sums[:, at : at + steps]
        sums[_TOKENS] += gains
        before = gained - gains
        taken = visible = None
        if self._block_size:
            taken = np.minimum(before + (stored + self._width), stored + left)
            taken += self._block_size - 1
            taken //= self._block_size
            taken -= held
            np.maximum(taken, 0, out=taken)
            sums[_BLOCKS] += taken
            sums[_BLOCKS, 1:] -= taken[:-1]
        if self._span:
            before += stored
            if self._chunked:
                before %= self._span
            visible = np.minimum(before + 1, self._span)
            sums[_VISIBLE] += visible
        course = Course(self._now, stored, left, held, gained, taken, visible)
        self._courses[sequence] = course
        heappush(self._ends, (self._now + steps, sequence.order, sequence))

    def leave(self, sequence: Sequence) -> tuple[int, int, int]:
        """Takes out a sequence; returns tokens stored, tokens to come, and KV blocks held."""
        held = self.held(sequence)
        course = self._courses.pop(sequence)
        self._given.discard(sequence)
        done = self._now - course.since
        gained = course.gained_by(self._now)
        if done < len(course.gained):
            at = self._now - self._base
            sums = self._sums[:, at : at + len(course.gained) - done]
            sums[_TOKENS] -= course.gained[done:]
            sums[_TOKENS, 0] += gained
            sums[_TOKENS, 1:] += course.gained[done:-1]
            if course.taken is not None:
                sums[_BLOCKS] -= course.taken[done:]
                sums[_BLOCKS, 0] += course.taken.item(done - 1) if done else 0
                sums[_BLOCKS, 1:] += course.taken[done:-1]
            if course.visible is not None:
                sums[_VISIBLE] -= course.visible[done:]
        return course.stored + gained, course.left - gained, held

    def sequences(self) -> list[Sequence]:
        """Who is in here, in the order of coming."""
        return list(self._courses)

    def _room_for(self, steps: int) -> int:
        """Makes room for sums of so many steps; returns where they begin."""
        at = self._now - self._base
        size = self._sums.shape[1]
        if at + steps > size:
            sums = np.zeros((3, max(size, 2 * steps)), dtype=np.int64)
            sums[:, : size - at] = self._sums[:, at:]
            self._sums, self._base = sums, self._now
            return 0
        return at

    # --- what is ---------------------------------------------------------------------------------

    def stored(self, sequence: Sequence) -> int:
        """Tokens that a sequence has in the cache."""
        course = self._courses[sequence]
        return course.stored + course.gained_by(self._now)

    def left(self, sequence: Sequence) -> int:
        """Tokens that it has still to give."""
        course = self._courses[sequence]
        return course.left - course.gained_by(self._now)

    def held(self, sequence: Sequence) -> int:
        """KV blocks that it has."""
        return self._courses[sequence].held_by(self._now - (sequence not in self._given))

    def lacks(self, sequence: Sequence) -> int:
        """KV blocks that it has still to get before the next step."""
        course = self._courses[sequence]
        return course.held_by(self._now) - self.held(sequence)

    def given(self, sequence: Sequence) -> None:
        """It has got them."""
        self._given.add(sequence)

    def steps_to(self, sequence: Sequence, tokens: int) -> int:
        """How many steps it takes to give so many tokens more."""
        course = self._courses[sequence]
        reached = course.gained_by(self._now) + tokens
        return int(course.gained.searchsorted(reached)) + 1 - (self._now - course.since)

    # --- what will be ----------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """That all give in the next step."""
        return self._sums.item(_TOKENS, self._now - self._base)

    @property
    def blocks(self) -> int:
        """That all need before the next step."""
        return self._sums.item(_BLOCKS, self._now - self._base)

    @property
    def visible(self) -> int:
        """Tokens within the local span that all attend to in the next step."""
        return self._sums.item(_VISIBLE, self._now - self._base)

    def until_end(self) -> int:
        """Steps until somebody ends."""
        self._next_end()
        return self._ends[0][0] - self._now

    def steps_within(self, free: int, most: int) -> int:
        """How many steps, at least one and up to ``most``, take no more than ``free`` blocks beside
        those of the first one."""
        if most < 2 or not self._block_size:
            return most
        at_most = most * self._width // self._block_size + 1
        if at_most * len(self._courses) <= free:
            return most
        at = self._now - self._base
        taken = self._sums[_BLOCKS, at + 1 : at + most].cumsum()
        if taken.item(-1) <= free:
            return most
        return 1 + int(taken.searchsorted(free, side="right"))

    def outlook(self, steps: int) -> Outlook:
        """The next steps."""
        at = self._now - self._base
        tokens, blocks, visible = self._sums[:, at : at + steps]
        taken = blocks.cumsum()
        taken -= taken.item(0)
        return Outlook(tokens, taken, visible)

    def advance(self, steps: int) -> list[Sequence]:
        """So many steps are over; returns who has ended, in the order of admission, to be
        taken out."""
        self._now += steps
        if self._given:
            self._given.clear()
        ended = []
        ends = self._ends
        while ends and ends[0][0] <= self._now:
            entry = heappop(ends)
            if self._is_due(entry):
                ended.append(entry[2])
        return ended

    def forget_gone(self) -> None:
        """Drops what is still known of sequences that left before their end."""
        self._ends = [entry for entry in self._ends if self._is_due(entry)]
        heapify(self._ends)

    def _next_end(self) -> None:
        ends = self._ends
        while not self._is_due(ends[0]):
            heappop(ends)

    def _is_due(self, entry: tuple[int, int, Sequence]) -> bool:
        """Whether the sequence has not left since, and come again."""
        _, order, sequence = entry
        course = self._courses.get(sequence)
        return course is not None and sequence.order == order

    def check_integrity(self) -> None:
        """Raises AssertionError if the sums are not those of the sequences."""
        at = self._now - self._base
        expected = np.zeros_like(self._sums[:, at:])
        for course in self._courses.values():
            done = self._now - course.since
            for row, column in ((_TOKENS, course.gained), (_BLOCKS, course.taken)):
                if column is not None:
                    each = np.diff(column, prepend=0)[done:]
                    expected[row, : len(each)] += each
            if course.visible is not None:
                expected[_VISIBLE, : len(course.visible) - done] += course.visible[done:]
        assert (expected == self._sums[:, at:]).all(), "sums of steps to come are wrong"


def _way(left: int, drawn: Ints) -> tuple[Ints, Ints]:
    """Tokens given after each step until none of ``left`` is left, and in each step."""
    gives = drawn.astype(np.uint8).tobytes() if drawn.max() < 256 else drawn.tolist()
    passed = bytearray(left)
    now = left
    while now > 0:
        passed[now - 1] = 1
        now -= gives[now - 1]
    # A step begins where one that is marked has so many left; it ends where the next one begins.
    begins = np.flatnonzero(np.frombuffer(passed, dtype=np.bool_))[::-1]
    gained = np.empty(len(begins), dtype=np.int64)
    np.subtract(left - 1, begins[1:], out=gained[:-1])
    gained[-1] = left
    gains = gained.copy()
    gains[1:] -= gained[:-1]
    return gained, gains
