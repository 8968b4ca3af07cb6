"""A planned step as numbers: what the host hands to the device, and one rank to the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

FROM_LAST_STEP = -1
"""In place of a token: the one that the sequence's last step gave, which only the device knows."""

PADDING = -1
"""In place of a position: nothing is computed here that anybody reads."""


@dataclass(frozen=True, slots=True)
class PackedStep:
    """One step. A *seat* is a row of the device's tables that a running sequence occupies.

    Shapes: tokens, seats, positions (T), the decoding sequences' one token each first; chunk_seats,
    lengths (chunks): of each prompt chunk its seat and the tokens stored after it; starts
    (chunks + 1): where its tokens begin, counted from the first chunk's; sampled (N): places of the
    tokens whose successors are wanted; block_seats, block_columns, block_numbers (new blocks).
    """

    decode: int
    tokens: Ints
    seats: Ints
    positions: Ints
    chunk_seats: Ints
    starts: Ints
    lengths: Ints
    sampled: Ints
    block_seats: Ints
    block_columns: Ints
    block_numbers: Ints

    @property
    def longest(self) -> int:
        """Tokens of the longest chunk."""
        return int(np.diff(self.starts).max(initial=0))

    def flat(self) -> tuple[Ints, Ints]:
        """Sizes, and all numbers in one array."""
        sizes = (self.decode, len(self.tokens), len(self.chunk_seats), len(self.sampled),
                 len(self.block_seats), self.longest)  # fmt: skip
        parts = (self.tokens, self.seats, self.positions, self.chunk_seats, self.starts,
                 self.lengths, self.sampled, self.block_seats, self.block_columns,
                 self.block_numbers)  # fmt: skip
        return np.array(sizes, dtype=np.int64), np.concatenate(parts)


SIZES = 6
"""Numbers in the first array of ``PackedStep.flat``."""


def lengths_of_parts(sizes: Ints) -> list[int]:
    """How many numbers each part of the second array of ``PackedStep.flat`` has."""
    _, tokens, chunks, sampled, blocks, _ = sizes.tolist()
    return [tokens, tokens, tokens, chunks, chunks + 1, chunks, sampled, blocks, blocks, blocks]
