"""Sequences that decode at their own pace, advanced together a step at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.deployment import Speculation
from simulator.serving.acceptance import Acceptance
from simulator.serving.scheduler import DecodeSet
from simulator.serving.sequence import NOT_DECODING, Sequence

_LEFT, _ROOM, _PLACE, _STORED = range(4)
_ENOUGH = 1 << 40
"""Free slots of a sequence that needs no blocks while it decodes."""


class PacedDecodeSet(DecodeSet):
    """The sequences that decode, each at its own pace.

    Every sequence has a slot, a column of one array whose rows all fall by what it gains in a step:
    tokens left, free token slots in its KV blocks, where its next draw lies on the tape, and stored
    tokens, negative. So a step is a few operations on arrays, whatever the batch.
    """

    def __init__(
        self, block_size: int, *, growing: bool, span: int, chunked: bool, speculation: Speculation
    ) -> None:
        super().__init__(block_size, growing=growing, span=span, chunked=chunked)
        self._speculation = speculation
        self._acceptance = Acceptance(speculation)
        self._columns = np.zeros((4, 16), dtype=np.int64)
        self.slots: list[Sequence] = []
        self._tape = np.zeros(1 << 12, dtype=np.int64)
        self._written = 0
        self._gain: npt.NDArray[np.int64] | int = 0

    @property
    def width(self) -> int:
        """Tokens that each sequence computes in the next step: its last one and the drafts."""
        return self._speculation.width(self.count)

    # --- coming and going ------------------------------------------------------------------------

    def join(self, sequence: Sequence, remaining: int) -> None:
        """Adds a sequence that has ``computed`` tokens stored and ``remaining`` tokens to come."""
        slot = self.count
        if slot == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        stored = sequence.computed
        room = _ENOUGH
        if self.growing:
            room = (sequence.blocks - sequence.fixed) * self.block_size - stored
        place = self._write(self._acceptance.tokens(sequence.index, sequence.output, remaining))
        self._columns[:, slot] = (remaining, room, place, -stored)
        self.slots.append(sequence)
        sequence.offset = slot
        sequence.finish_at = 0
        self.count += 1
        self.context += stored + 1

    def leave(self, sequence: Sequence) -> int:
        """Takes out a sequence and says in it how many blocks it has; returns its stored tokens."""
        slot, columns = sequence.offset, self._columns
        stored = -int(columns[_STORED, slot])
        if self.growing:
            held = (stored + int(columns[_ROOM, slot])) // self.block_size
            sequence.blocks = held + sequence.fixed
        last = self.slots.pop()
        self.count -= 1
        if last is not sequence:
            columns[:, slot] = columns[:, self.count]
            self.slots[slot] = last
            last.offset = slot
        sequence.finish_at = NOT_DECODING
        self.context -= stored + 1
        return stored

    def stored(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has in the cache."""
        return -int(self._columns[_STORED, sequence.offset])

    def left(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has still to give."""
        return int(self._columns[_LEFT, sequence.offset])

    def _write(self, drawn: npt.NDArray[np.int64]) -> int:
        """Puts draws on the tape; returns where the next one to be read, the last one, lies."""
        if self._written + len(drawn) > len(self._tape):
            self._rewrite(len(drawn))
        start = self._written
        self._written += len(drawn)
        self._tape[start : self._written] = drawn
        return self._written - 1

    def _rewrite(self, more: int) -> None:
        """Begins a new tape with the draws that are still to be read, and room for as many."""
        columns = self._columns[:, : self.count]
        left = columns[_LEFT].tolist()
        tape = np.zeros(max(1 << 12, 2 * (sum(left) + more)), dtype=np.int64)
        written = 0
        for slot, (length, place) in enumerate(zip(left, columns[_PLACE].tolist(), strict=True)):
            tape[written : written + length] = self._tape[place + 1 - length : place + 1]
            written += length
            columns[_PLACE, slot] = written - 1
        self._tape, self._written = tape, written

    # --- a step ----------------------------------------------------------------------------------

    def lacking(self, width: int) -> npt.NDArray[np.int64] | None:
        """Blocks that each sequence lacks to store ``width`` tokens more, or all that are left if
        these are fewer; None if nobody lacks any. Shape (count,)."""
        if not self.growing:
            return None
        columns = self._columns[:, : self.count]
        short = np.minimum(columns[_LEFT], width)
        short -= columns[_ROOM]
        if short.max() <= 0:
            return None
        short += self.block_size - 1
        short //= self.block_size
        blocks: npt.NDArray[np.int64] = np.maximum(short, 0, out=short)
        return blocks

    def lacks(self, sequence: Sequence, width: int) -> int:
        """The same of one sequence."""
        left, room = self._columns[:_PLACE, sequence.offset].tolist()
        return max(0, -(-(min(left, width) - room) // self.block_size)) if self.growing else 0

    def give(self, blocks: npt.NDArray[np.int64]) -> None:
        """Every sequence gets so many blocks. Shape (count,)."""
        self._columns[_ROOM, : self.count] += blocks * self.block_size

    def give_one(self, sequence: Sequence, blocks: int) -> None:
        """One sequence gets so many blocks."""
        self._columns[_ROOM, sequence.offset] += blocks * self.block_size

    def draw(self, width: int) -> int:
        """Fixes what the next step gives every sequence; returns the tokens of all together."""
        if width == 1:
            self._gain = 1
            return self.count
        columns = self._columns[:, : self.count]
        gain = self._tape[columns[_PLACE]]
        self._gain = np.minimum(gain, columns[_LEFT], out=gain)
        return int(gain.sum())

    def visible(self) -> int:
        """Tokens within the local span that the sequences attend to at their next place, summed."""
        stored = -self._columns[_STORED, : self.count]
        if self.chunked:
            return int((stored % self.span).sum()) + self.count
        return int(np.minimum(stored + 1, self.span).sum())

    def advance_drawn(self, tokens: int) -> list[Sequence]:
        """Everyone gains what was drawn, ``tokens`` together; returns those that have ended, which
        have left, in the order of their admissions."""
        columns = self._columns[:, : self.count]
        columns -= self._gain
        self.context += tokens
        left = columns[_LEFT]
        if left.min() > 0:
            return []
        ended = [self.slots[slot] for slot in np.flatnonzero(left == 0).tolist()]
        for sequence in ended:
            sequence.computed = self.leave(sequence)
        return sorted(ended, key=lambda sequence: sequence.order)

    def check_integrity(self) -> None:
        """Raises AssertionError if the slots contradict each other."""
        columns = self._columns[:, : self.count]
        assert len(self.slots) == self.count, "slots miscounted"
        assert all(s.offset == slot for slot, s in enumerate(self.slots)), "slots mixed up"
        assert int((1 - columns[_STORED]).sum()) == self.context, "context miscounted"
        if self.growing:
            assert not ((columns[_ROOM] - columns[_STORED]) % self.block_size).any(), "torn blocks"
