"""Attention as the clock asks for it: straight lines of decode steps, scalar sums of prompts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log2
from typing import Protocol

import numpy as np

from simulator.costs.attention import PrefillAttention
from simulator.workload.requests import Floats, Ints

Bends = tuple[list[int], list[int], list[float], list[float]]
"""Of each stretch of the context: its end, its start, seconds at its start, seconds a token."""

_ENDLESS = 1 << 60
_AT_ONCE = 256
"""Numbers of sequences whose lines are computed together."""


class PerSequence(Protocol):
    """What decoding sequences do each for itself, linear in their context between knots."""

    @property
    def knots(self) -> tuple[float, ...]:
        """Tokens a sequence at which the time may bend, from 0 on."""
        ...

    def seconds(self, sequences: Floats, context: Floats) -> Floats:
        """Duration in all layers; the context is summed over the sequences."""
        ...

    def tail(self, sequences: Floats) -> Floats:
        """Growth with each token more in the context beyond the last knot, seconds."""
        ...


class DecodeTable:
    """What each decoding sequence does by itself (attention, recurrent updates) in layers of one
    kind, by the number of sequences."""

    def __init__(self, operators: Sequence[PerSequence]) -> None:
        self.operators = operators
        # Knots are whole tokens, so that stretches end at whole contexts.
        self.knots = sorted({int(knot) for op in operators for knot in op.knots})
        self._rows: dict[int, tuple[Floats, Floats]] = {}

    @classmethod
    def of(cls, operators: Sequence[PerSequence]) -> DecodeTable | None:
        """None if there are no such layers."""
        return cls(operators) if operators else None

    def bends(self, sequences: int, ahead: int = 0) -> Bends:
        """The stretches of the context for so many sequences, which read ``ahead`` tokens more than
        it says."""
        block, row = divmod(sequences, _AT_ONCE)
        values, slopes = self._block(block)
        starts = [knot * sequences - ahead for knot in self.knots]
        return [*starts[1:], _ENDLESS], starts, values[row].tolist(), slopes[row].tolist()

    def lines(self, most: int) -> tuple[Floats, Floats]:
        """Seconds at the knots and slopes from there on, for 1 to ``most`` sequences. Shapes
        (most, knots)."""
        found = [self._block(block) for block in range(most // _AT_ONCE + 1)]
        values, slopes = (np.concatenate(each) for each in zip(*found, strict=True))
        return values[1 : most + 1], slopes[1 : most + 1]

    def _block(self, block: int) -> tuple[Floats, Floats]:
        if block not in self._rows:
            numbers = np.arange(block * _AT_ONCE, (block + 1) * _AT_ONCE, dtype=np.float64)
            self._rows[block] = self._compute(np.maximum(numbers, 1.0))
        return self._rows[block]

    def _compute(self, n: Floats) -> tuple[Floats, Floats]:
        """Seconds at the knots and slopes from there on, a row for each number of sequences."""
        knots = np.asarray(self.knots, dtype=np.float64)
        values = np.zeros((len(n), len(knots)))
        tail = np.zeros(len(n))
        for op in self.operators:
            values += op.seconds(np.repeat(n[:, None], len(knots), axis=1), n[:, None] * knots)
            tail += op.tail(n)
        slopes = np.diff(values, axis=1) / (np.diff(knots) * n[:, None])
        return values, np.concatenate([slopes, tail[:, None]], axis=1)


def on_lines(bends: Bends, context: Ints, low: int, high: int) -> Floats:
    """Seconds at each context from ``low`` to ``high``, worked out as for a single one. Shapes
    (steps,)."""
    ends, starts, values, slopes = bends
    i = bisect_left(ends, low)
    seconds: Floats
    if high <= ends[i]:
        seconds = np.multiply(context - starts[i], slopes[i])
        seconds += values[i]
        return seconds
    at = np.searchsorted(ends, context)
    seconds = np.array(values)[at] + np.array(slopes)[at] * (context - np.array(starts)[at])
    return seconds


class PromptAttention:
    """Attention of a step's prompt chunks in layers of one kind, one step at a time."""

    def __init__(self, operators: Sequence[PrefillAttention]) -> None:
        self._parts = [(op.lines(), op.heads, _Plane.of(op)) for op in _merged(operators)]

    @classmethod
    def of(cls, operators: Sequence[PrefillAttention]) -> PromptAttention | None:
        """None if there are no such layers."""
        return cls(operators) if operators else None

    def seconds(self, new: float, read: float, pairs: float) -> float:
        """Duration of attention for ``new`` tokens that read ``read`` in ``pairs`` pairs."""
        total = 0.0
        if not new:
            return total
        for (form, memory, arithmetic), heads, plane in self._parts:
            took = form[0] + form[1] * new + form[2] * read + form[3] * pairs
            if plane is not None:
                took *= plane.factor(pairs / new, new * heads)
            least = memory[1] * new + memory[2] * read + memory[3] * pairs
            if took < least:
                took = least
            least = arithmetic[1] * new + arithmetic[2] * read + arithmetic[3] * pairs
            total += took if took > least else least
        return total

    def rates(self) -> PromptRates:
        """See ``PromptRates``: the form with its lowest correction, and what memory and arithmetic
        take at their peaks; each holds whatever else the step computes."""
        fixed, sums = 0.0, np.zeros((4, 3))
        for (form, memory, arithmetic), _, plane in self._parts:
            lowest = 1.0 if plane is None else plane.lowest
            fixed += lowest * form[0]
            for line, (_, new, read, pair) in enumerate((form, memory, arithmetic)):
                # What a stored token costs stands in the lines as read more and new less.
                past = 0.0 if new >= 0.0 else -new
                scale = lowest if line == 0 else 1.0
                sums[:, line] += scale * np.array([new + past, past, read - past, pair])
        return PromptRates(fixed, sums[0], sums[1], sums[2], sums[3])


@dataclass(frozen=True, slots=True)
class PromptRates:
    """What a chunk adds at least to the prompt attention of any step that it is part of, as
    straight lines of which all hold: seconds a new token, a token stored before, a token read, a
    pair. Shapes (lines,). ``fixed``: seconds of any step with chunks, on top of the first line."""

    fixed: float
    new: Floats
    past: Floats
    read: Floats
    pair: Floats

    def seconds(self, new: Floats, read: Floats, pairs: Floats) -> Floats:
        """At least, of chunks with so many tokens in all. Shapes (chunks,)."""
        lines = [
            a * new + b * (read - new) + c * read + d * pairs
            for a, b, c, d in zip(self.new, self.past, self.read, self.pair, strict=True)
        ]
        lines[0] = lines[0] + self.fixed
        least: Floats = np.maximum.reduce(lines)
        return least


class _Plane:
    """The corrections of prompts over reach and queries for one head layout."""

    def __init__(self, op: PrefillAttention) -> None:
        efficiency = op.efficiency
        reach = efficiency.knots("reach") or (1.0, 2.0)
        queries = efficiency.knots("queries") or (1.0, 2.0)
        factors = np.broadcast_to(
            efficiency.factor(
                reach=np.asarray(reach)[:, None],
                queries=np.asarray(queries)[None, :],
                head_dim=op.head_dim,
                sharing=op.heads / op.kv_heads,
            ),
            (len(reach), len(queries)),
        )
        self._logs = np.log(factors).tolist()
        self._x = [log2(knot) for knot in reach]
        self._y = [log2(knot) for knot in queries]

    @classmethod
    def of(cls, op: PrefillAttention) -> _Plane | None:
        return cls(op) if op.efficiency.corrections else None

    @property
    def lowest(self) -> float:
        """The lowest factor of all; between the knots none is lower."""
        return exp(min(min(row) for row in self._logs))

    def factor(self, reach: float, queries: float) -> float:
        """Bilinear in logarithms, as ``Grid.log_factor``."""
        i, u = _place(self._x, reach)
        j, v = _place(self._y, queries)
        low, high = self._logs[i], self._logs[i + 1]
        return exp(
            (1.0 - u) * ((1.0 - v) * low[j] + v * low[j + 1])
            + u * ((1.0 - v) * high[j] + v * high[j + 1])
        )


def _place(knots: list[float], size: float) -> tuple[int, float]:
    at = log2(size) if size > 0 else knots[0]
    if at <= knots[0]:
        return 0, 0.0
    if at >= knots[-1]:
        return len(knots) - 2, 1.0
    i = bisect_right(knots, at) - 1
    return i, (at - knots[i]) / (knots[i + 1] - knots[i])


def _merged(operators: Sequence[PrefillAttention]) -> list[PrefillAttention]:
    """One operator where several differ in the number of layers only."""
    counts: dict[tuple[object, ...], tuple[PrefillAttention, int]] = {}
    for op in operators:
        key = (op.heads, op.kv_heads, op.head_dim, op.kv_bytes, op.query_bytes, op.flops_per_pair,
               op.past_bytes, op.past_flops, op.pair_bytes, op.peak, id(op.efficiency))  # fmt: skip
        first, count = counts.get(key, (op, 0))
        counts[key] = (first, count + op.count)
    return [replace(op, count=count) for op, count in counts.values()]
