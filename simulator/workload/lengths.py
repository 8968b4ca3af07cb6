"""How long prompts and answers are."""

from __future__ import annotations

import math

import numpy as np

from simulator.errors import ScenarioError
from simulator.scenario.lengths import (
    EmpiricalLength,
    FixedLength,
    Length,
    LogNormalLength,
    NormalLength,
    UniformLength,
)
from simulator.workload.requests import Floats, Ints

MIN_ACCEPTANCE = 0.05
"""Least share of draws that must fall inside low..high; below it a truncated distribution has
little left of the shape that was asked for, and drawing again takes long."""


def draw_lengths(
    length: Length, n: int, rng: np.random.Generator, *, where: str, notes: list[str]
) -> Ints:
    """``n`` token counts, shape (n,). Appends to ``notes`` where truncation shows in the result.

    Raises:
        ScenarioError: the distribution hardly ever falls inside its low..high.
    """
    if isinstance(length, FixedLength):
        return np.full(n, length.tokens, dtype=np.int64)
    if isinstance(length, UniformLength):
        return rng.integers(length.low, length.high, n, dtype=np.int64, endpoint=True)
    if isinstance(length, EmpiricalLength):
        return _empirical(length, n, rng)
    return _Truncated(length, where).draw(n, rng, notes)


def _empirical(length: EmpiricalLength, n: int, rng: np.random.Generator) -> Ints:
    weights = np.array(length.weights or [1.0] * len(length.tokens))
    cumulative = np.cumsum(weights / weights.max())
    drawn = np.searchsorted(cumulative / cumulative[-1], rng.random(n), side="right")
    return np.array(length.tokens, dtype=np.int64)[drawn]


class _Truncated:
    """A normal or log-normal, rounded, with draws outside low..high drawn again.

    A log-normal with mean m and coefficient of variation c is exp(N(mu, sigma²)) with
    sigma² = ln(1 + c²) and mu = ln m - sigma² / 2.
    """

    def __init__(self, length: NormalLength | LogNormalLength, where: str) -> None:
        self.length = length
        self.where = where
        self.log = isinstance(length, LogNormalLength)
        if isinstance(length, LogNormalLength):
            variance = math.log1p(length.cv**2)
            self.center, self.spread = math.log(length.mean) - variance / 2, math.sqrt(variance)
        else:
            self.center, self.spread = length.mean, length.std

    def acceptance(self) -> float:
        """Probability that a rounded draw falls inside low..high."""
        low, high = self.length.low - 0.5, self.length.high + 0.5
        if self.spread == 0:
            return 1.0
        if self.log:
            low, high = math.log(low), math.log(high)
        scale = self.spread * math.sqrt(2)
        return (math.erf((high - self.center) / scale) - math.erf((low - self.center) / scale)) / 2

    def draw(self, n: int, rng: np.random.Generator, notes: list[str]) -> Ints:
        low, high = self.length.low, self.length.high
        accepted = self.acceptance()
        if accepted < MIN_ACCEPTANCE:
            raise ScenarioError(
                f"only {accepted:.2%} of this {self.length.kind} distribution lies inside "
                f"{low}..{high}",
                where=self.where,
                hint="widen low..high or narrow the spread",
            )
        drawn = self._once(n, rng)
        outside = np.flatnonzero((drawn < low) | (drawn > high))
        redrawn = len(outside) / max(n, 1)
        while len(outside):
            again = self._once(len(outside), rng)
            drawn[outside] = again
            outside = outside[(again < low) | (again > high)]
        if redrawn > 0.01:
            notes.append(
                f"{self.where}: {redrawn:.1%} of the draws fell outside {low}..{high} and were "
                f"drawn again; the mean is {drawn.mean():.0f} tokens where "
                f"{self.length.mean:g} was asked for"
            )
        return drawn.astype(np.int64)

    def _once(self, n: int, rng: np.random.Generator) -> Floats:
        values = self.center + self.spread * rng.standard_normal(n)
        return np.rint(np.exp(values) if self.log else values)
