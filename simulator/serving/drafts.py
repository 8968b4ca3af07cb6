"""The decode set of speculative decoding: a timetable as long as all steps draft."""

from __future__ import annotations

from simulator.deployment import Speculation
from simulator.serving.paced import PacedDecodeSet
from simulator.serving.sequence import NOT_DECODING, Sequence
from simulator.serving.timetable import Timetable

_WORTH = 2
"""Steps with drafts a sequence, after steps without, until a new timetable is made: about the time
that making it takes."""
_CROWD = 128
"""By how many more sequences join than there are steps until the timetable is given up: to enter a
sequence takes about as long as a step without one."""


class SpeculativeDecodeSet(PacedDecodeSet):
    """The sequences that decode, each at its own pace, with a timetable as long as all steps draft.

    Where too many decode for drafts, steps are taken as they come (``PacedDecodeSet``), and for
    some time after that, because a load that swings around ``max_batch`` would have a new
    timetable made all the time. So are they where more sequences join than there are steps, which
    is when large batches have short outputs. Both ways give the same steps.
    """

    def __init__(
        self, block_size: int, *, growing: bool, span: int, chunked: bool, speculation: Speculation
    ) -> None:
        super().__init__(
            block_size, growing=growing, span=span, chunked=chunked, speculation=speculation
        )
        self._calm = 0
        # By how many more have joined than there were steps, from 0 to _CROWD.
        self._crowd = 0
        self.table: Timetable | None = self._new_table()

    def _new_table(self) -> Timetable:
        return Timetable(
            1 + self._speculation.tokens,
            self.block_size if self.growing else 0,
            self.span,
            chunked=self.chunked,
        )

    def forget_gone(self) -> None:
        """See ``DecodeSet.forget_gone``."""
        super().forget_gone()
        if self.table is not None:
            self.table.forget_gone()

    def settle(self) -> None:
        """Before a step is planned: makes a timetable, or gives it up."""
        most = self._speculation.max_batch
        if self.table is not None:
            if self.count > most or self._crowd >= _CROWD:
                self._give_up(self.table)
        elif self.count > most:
            self._calm = 0
        else:
            self._calm += 1
            if not self._crowd and self._calm > _WORTH * self.count:
                self._make()

    def _give_up(self, table: Timetable) -> None:
        members = [(sequence, self.leave(sequence)) for sequence in table.sequences()]
        self.table, self._calm = None, 0
        self._join_again(members)

    def _make(self) -> None:
        members = []
        for sequence in list(self.slots):
            sequence.generated = sequence.output - self.left(sequence)
            members.append((sequence, self.leave(sequence)))
        self.table = self._new_table()
        self._join_again(members)

    def _join_again(self, members: list[tuple[Sequence, int]]) -> None:
        crowd = self._crowd
        for sequence, stored in members:
            sequence.computed = stored
            self.join(sequence, sequence.output - sequence.generated)
        self._crowd = crowd

    # --- coming and going ------------------------------------------------------------------------

    def join(self, sequence: Sequence, remaining: int) -> None:
        """See ``PacedDecodeSet.join``."""
        if self._crowd < _CROWD:
            self._crowd += 1
        if self.table is None:
            super().join(sequence, remaining)
            return
        stored = sequence.computed
        drawn = self._acceptance.tokens(sequence.index, sequence.output, remaining)
        self.table.join(sequence, stored, remaining, sequence.blocks - sequence.fixed, drawn)
        sequence.finish_at = 0
        self.count += 1
        self.context += stored + 1

    def leave(self, sequence: Sequence) -> int:
        """See ``PacedDecodeSet.leave``."""
        if self.table is None:
            return super().leave(sequence)
        stored, left, held = self.table.leave(sequence)
        if self.growing:
            sequence.blocks = held + sequence.fixed
        sequence.generated = sequence.output - left
        sequence.finish_at = NOT_DECODING
        self.count -= 1
        self.context -= stored + 1
        return stored

    def stored(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has in the cache."""
        return super().stored(sequence) if self.table is None else self.table.stored(sequence)

    def left(self, sequence: Sequence) -> int:
        """Tokens that a decoding sequence has still to give."""
        return super().left(sequence) if self.table is None else self.table.left(sequence)

    def steps_to(self, sequence: Sequence, token: int) -> int:
        """Steps until a sequence of the timetable gives that token of its output."""
        assert self.table is not None, "without a timetable nobody knows"
        return self.table.steps_to(sequence, token - sequence.output + self.left(sequence))

    # --- a step ----------------------------------------------------------------------------------

    def lacks(self, sequence: Sequence, width: int) -> int:
        """Blocks that a sequence lacks to store ``width`` tokens more, or all that are left."""
        if self.table is None:
            return super().lacks(sequence, width)
        return self.table.lacks(sequence)

    def give_one(self, sequence: Sequence, blocks: int) -> None:
        """One sequence gets the blocks that it lacks."""
        if self.table is None:
            super().give_one(sequence, blocks)
        else:
            self.table.given(sequence)

    def advance_drawn(self, tokens: int, steps: int = 1) -> list[Sequence]:
        """See ``PacedDecodeSet.advance_drawn``; ``tokens`` come in ``steps``."""
        self._crowd = self._crowd - steps if self._crowd > steps else 0
        if self.table is None:
            return super().advance_drawn(tokens)
        self.context += tokens
        ended = self.table.advance(steps)
        for sequence in ended:
            sequence.computed = self.leave(sequence)
        return ended

    def check_integrity(self) -> None:
        """Raises AssertionError if what is known of the sequences contradicts itself."""
        if self.table is None:
            super().check_integrity()
            return
        self.table.check_integrity()
        members = self.table.sequences()
        assert len(members) == self.count, "courses miscounted"
        assert sum(self.stored(s) + 1 for s in members) == self.context, "context miscounted"
