"""Lengths whose distribution changes over time, as monitoring systems record it: quantiles or means
of each interval."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.errors import ScenarioError, TraceError
from simulator.scenario.lengths import LengthsOverTime
from simulator.workload.columns import MAX_TOKENS, bad_value
from simulator.workload.rates import MOST_CV
from simulator.workload.requests import Floats, Ints
from simulator.workload.tables import CLOCKS, Table, read_table

_COLUMN = re.compile(r"(input|output)_(?:p(\d{1,3}(?:\.\d{1,4})?)|(mean|cv))", re.ASCII)
_AMOUNT = f"a number of tokens from 1 to {MAX_TOKENS:,}"


@dataclass(frozen=True, slots=True)
class _Quantiles:
    """Inverse distribution functions, straight between the given quantiles, flat outside them.

    Args:
        levels: (q,) ascending, 0 to 1.
        values: (rows, q) tokens, ascending in each row.
    """

    levels: Floats
    values: Floats

    def draw(self, row: Ints, rng: np.random.Generator) -> Ints:
        u = rng.random(len(row))
        right = np.clip(np.searchsorted(self.levels, u), 1, max(len(self.levels) - 1, 1))
        if len(self.levels) == 1:
            return np.asarray(np.rint(self.values[row, 0]), dtype=np.int64)
        low, high = self.levels[right - 1], self.levels[right]
        share = np.clip((u - low) / (high - low), 0.0, 1.0)
        below, above = self.values[row, right - 1], self.values[row, right]
        return np.rint(below + share * (above - below)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Means:
    """Log-normal with the mean and the coefficient of variation of each row, rounded; draws below
    one token and above ``MAX_TOKENS`` are drawn again."""

    mean: Floats
    cv: Floats

    def draw(self, row: Ints, rng: np.random.Generator) -> Ints:
        variance = np.log1p(self.cv[row] ** 2)
        center, spread = np.log(self.mean[row]) - variance / 2, np.sqrt(variance)
        drawn = np.rint(np.exp(center + spread * rng.standard_normal(len(row))))
        outside = np.flatnonzero((drawn < 1) | (drawn > MAX_TOKENS))
        while len(outside):
            normal = rng.standard_normal(len(outside))
            again = np.rint(np.exp(center[outside] + spread[outside] * normal))
            drawn[outside] = again
            outside = outside[(again < 1) | (again > MAX_TOKENS)]
        return drawn.astype(np.int64)


@dataclass(frozen=True, slots=True)
class OverTime:
    """Distributions of prompts and answers in each row of a table.

    Args:
        start_s: (rows,) ascending from 0.
        end_s: when the table begins anew; None: its last row holds on.
        input, output: what is drawn in a row.
    """

    start_s: Floats
    end_s: float | None
    input: _Quantiles | _Means
    output: _Quantiles | _Means

    def rows(self, at_s: Floats) -> Ints:
        """The row that holds at each time since the table's first. Shape (n,)."""
        within = at_s if self.end_s is None else at_s % self.end_s
        return np.searchsorted(self.start_s, within, side="right") - 1


def read_over_time(lengths: LengthsOverTime, base: Path | None, where: str) -> OverTime:
    """The distributions of a scenario; ``where`` is their key.

    Raises:
        UnknownNameError: there is no such table.
        TraceError: the file or one of its rows is malformed.
        ScenarioError: it has means alone, and ``cv`` is not given.
    """
    table = read_table(lengths.file, base)
    _check_columns(table)
    end_s = None if lengths.end_s is None else table.end_s(lengths.end_s)
    inputs, outputs = (_sampler(table, kind, lengths, where) for kind in ("input", "output"))
    return OverTime(table.start_s, end_s, inputs, outputs)


def _check_columns(table: Table) -> None:
    odd = [c for c in table.columns if c not in CLOCKS and not _COLUMN.fullmatch(c)]
    if odd:
        raise TraceError(
            f"there is no column '{odd[0]}'",
            where=f"{table.name}:1",
            hint="expected start_s or timestamp, and input_p50, input_mean, input_cv and the like "
            "of other quantiles and of output",
        )


def _sampler(table: Table, kind: str, lengths: LengthsOverTime, where: str) -> _Quantiles | _Means:
    levels = {}
    for column in table.columns:
        match = _COLUMN.fullmatch(column)
        if match is not None and match[1] == kind and match[2]:
            levels[column] = float(match[2]) / 100.0
    if levels:
        return _quantiles(table, kind, levels)
    if f"{kind}_mean" not in table.columns:
        raise TraceError(
            f"nothing says how long the {kind} is",
            where=f"{table.name}:1",
            hint=f"expected columns {kind}_p50 and other quantiles, or {kind}_mean",
        )
    mean = _tokens(table, f"{kind}_mean")
    if f"{kind}_cv" in table.columns:
        cv = table.column(f"{kind}_cv", f"a number from 0 to {MOST_CV:g}")
        bad = np.flatnonzero(cv > MOST_CV)
        if len(bad):
            i = int(bad[0])
            found = table.columns[f"{kind}_cv"][i]
            limits = f"a number from 0 to {MOST_CV:g}"
            raise bad_value(table.name, table.lines[i], f"{kind}_cv", found, limits)
    elif lengths.cv is not None:
        cv = np.full(len(mean), lengths.cv)
    else:
        raise ScenarioError(
            f"{table.name} has means of the {kind} alone, and nothing says how they vary",
            where=f"{where}.cv",
            hint=f"give cv, or a column {kind}_cv",
        )
    return _Means(mean, cv)


def _quantiles(table: Table, kind: str, levels: dict[str, float]) -> _Quantiles:
    order = sorted(levels, key=levels.__getitem__)
    if max(levels.values()) > 1.0:
        raise TraceError(f"{order[-1]} is no quantile", where=f"{table.name}:1", hint="0 to 100")
    if len(set(levels.values())) < len(levels) or f"{kind}_mean" in table.columns:
        raise TraceError(
            f"two columns say the same of the {kind}",
            where=f"{table.name}:1",
            hint="expected each quantile once, and quantiles or a mean",
        )
    values = np.column_stack([_tokens(table, column) for column in order])
    falling = np.argwhere(np.diff(values, axis=1) < 0)
    if len(falling):
        row, column = int(falling[0][0]), order[int(falling[0][1]) + 1]
        found = table.columns[column][row]
        raise bad_value(
            table.name, table.lines[row], column, found, "no less than the quantile below it"
        )
    return _Quantiles(np.array([levels[column] for column in order]), values)


def _tokens(table: Table, column: str) -> Floats:
    found = table.column(column, _AMOUNT)
    bad = np.flatnonzero((found < 1) | (found > MAX_TOKENS))
    if len(bad):
        i = int(bad[0])
        raise bad_value(table.name, table.lines[i], column, table.columns[column][i], _AMOUNT)
    return found
