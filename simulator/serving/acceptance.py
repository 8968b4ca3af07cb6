"""How many drafted tokens are accepted: a stream of random numbers for every request."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.deployment import Speculation

_STREAMS = 0x6163636570
"""Sets these streams apart from others with the same seed."""
_APART = 1 << 40
"""Numbers from the beginning of one request's stream to that of the next."""

Ints = npt.NDArray[np.int64]


class Acceptance:
    """What verification finds at every place of an output.

    One generator is seeded with ``[seed, 0x6163636570]``; the stream of request i begins 2^40 · i
    numbers after its start (``PCG64.advance``), and its g-th number, u, belongs to the place where
    g tokens of the output are known. Drafts 1 … j are accepted there if u is below the product of
    the first j probabilities. So what is accepted depends on the request and the place alone: not
    on the batch, and not on what was computed twice.
    """

    def __init__(self, speculation: Speculation) -> None:
        self._bits = np.random.PCG64([speculation.seed, _STREAMS])
        self._generator = np.random.Generator(self._bits)
        self._at = 0
        # Probabilities that 1, 2, … drafts are accepted, the rarest first.
        self._survival = np.cumprod(speculation.acceptance)[::-1].copy()
        self._most = 1 + speculation.tokens

    def tokens(self, index: int, output: int, left: int) -> Ints:
        """Tokens that a step gives, the accepted ones and one more, at each place that is left.

        Args:
            index: the request.
            output: its output tokens.
            left: how many of them are still to come, at least 1.

        Returns:
            Element l − 1 is for the step before which l tokens are left. Shape (left,).
        """
        first = index * _APART + output - left
        if first != self._at:
            self._bits.advance(first - self._at)
        drawn = self._generator.random(left)
        self._at = first + left
        rejected = self._survival.searchsorted(drawn, side="right")
        tokens: Ints = self._most - rejected[::-1]
        return tokens


def tokens_per_step(acceptance: tuple[float, ...]) -> float:
    """Tokens that a verification gives on average far from the end of an output: 1 + Σ of the
    probabilities that 1, 2, … drafts are accepted; (1 − α^(k+1)) / (1 − α) for k equal ones
    (Leviathan et al., arXiv:2211.17192)."""
    return 1.0 + float(np.cumprod(acceptance).sum())
