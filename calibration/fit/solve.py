"""The fit of one family: a closed form first, then corrections on a few knots.

1. The form's coefficients by nonlinear least squares with a robust loss on the logarithm of
   predicted over measured, so that a factor of two weighs the same for short and long kernels.
2. Of what is left, the logarithm is linear in the corrections' values at the knots: a weighted
   linear problem, solved a few times with weights that approach least absolute deviations. A small
   penalty on the difference of neighbouring knots lets knots without measurements take the value
   of their neighbours.

Rows of one shape (the sizes that a model fixes, such as n and k of a matrix) are one group. Errors
are told for rows whose group had no part in the fit: groups are dealt into five parts by the CRC-32
of their name, and each part is predicted from the fit of the other four. What is shipped is the fit
of all rows. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.sparse import csr_array, hstack
from threadpoolctl import threadpool_limits

from simulator.hardware.corrections import Corrected

Floats = npt.NDArray[np.float64]
Axes = dict[str, tuple[float, ...]]

FOLDS = 5
LOWEST = {"sharpness": 1.0, "half_head_dim": 1e-3, "contention": 1e-3}
HIGHEST = {"sharpness": 16.0, "half_head_dim": 500.0, "contention": 2.0, "serial_ns": 1e4}

SMOOTH = 0.02
"""Weight of the penalty on neighbouring knots, in rows a knot."""
NARROW = 0.02
"""Residuals beyond this (of the logarithm) count by their absolute value."""


@dataclass(frozen=True)
class Sample:
    """Rows of one family and number format.

    ``form`` is to be fitted from ``start``; ``args`` are the arguments of its ``seconds`` and
    ``measured`` what they should give (seconds). ``at`` holds the sizes that corrections may depend
    on, ``grids`` the knots of those that are fitted, and ``groups`` the name of each row's shape.
    """

    family: str
    key: str
    form: type[Any]
    start: dict[str, float]
    args: tuple[Floats | float, ...]
    measured: Floats
    at: dict[str, Floats] = field(default_factory=dict)
    grids: tuple[Axes, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How reports call it."""
        return f"{self.family} {self.key}".strip()

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Sample:
        """A part of the rows."""
        size = len(self.measured)

        def part(value: Floats | float) -> Floats | float:
            return value[chosen] if isinstance(value, np.ndarray) and len(value) == size else value

        return Sample(
            self.family, self.key, self.form, self.start,
            tuple(part(value) for value in self.args),
            self.measured[chosen],
            {name: values[chosen] for name, values in self.at.items()},
            self.grids,
            tuple(name for name, keep in zip(self.groups, chosen, strict=False) if keep),
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Coefficients with corrections, and the errors: medians of abs(predicted / measured - 1) of
    the fitted rows and of held-out ones, and quantiles (10, 50, 90%) of ln(measured / predicted) of
    the latter."""

    coefficients: dict[str, Any]
    median: float
    held_out: float
    quantiles: tuple[float, float, float]


@threadpool_limits.wrap(limits=1)
def solve(sample: Sample) -> Fit:
    """Fit a family on all rows and say how well held-out groups are predicted. On one thread: sums
    of more have another order, and where a coefficient hardly matters another outcome."""
    whole = _coefficients(sample, sample.start)
    fold = np.array([crc32(name.encode()) % FOLDS for name in sample.groups])
    errors = np.full(len(sample.measured), np.nan)
    near = {name: whole[name] for name in sample.start}
    for number in np.unique(fold):
        held = fold == number
        if held.all():
            continue
        found = _coefficients(sample.rows(~held), near)
        part = sample.rows(held)
        errors[held] = np.log(part.measured / predict(part, found))
    errors = errors[~np.isnan(errors)]
    fitted = np.log(sample.measured / predict(sample, whole))
    if not len(errors):
        errors = fitted
    return Fit(whole, median_error(fitted), median_error(errors), quantiles(errors))


def predict(sample: Sample, coefficients: dict[str, Any]) -> Floats:
    """Seconds of a sample's rows, as the simulator computes them."""
    form = sample.form.model_validate(coefficients)
    if isinstance(form, Corrected) and form.corrections:
        corrected: Floats = form.seconds(*sample.args, form.factor(**sample.at))  # type: ignore[attr-defined]
        return corrected
    seconds: Floats = form.seconds(*sample.args)
    return seconds


def median_error(logs: Floats) -> float:
    """Median of abs(predicted / measured - 1), from logarithms of measured over predicted."""
    return float(np.median(np.abs(np.expm1(-logs))))


def quantiles(logs: Floats) -> tuple[float, float, float]:
    """The 10, 50 and 90% quantiles."""
    low, middle, high = (round(float(q), 4) for q in np.quantile(logs, (0.1, 0.5, 0.9)))
    return low, middle, high


def _coefficients(sample: Sample, start: dict[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = _closed_form(sample, start)
    grids = [axes for axes in (_within(axes, sample.at) for axes in sample.grids) if axes]
    if grids:
        found["corrections"] = _corrections(sample, found, grids)
    return found


def _closed_form(sample: Sample, start: dict[str, float]) -> dict[str, float]:
    names = list(sample.start)
    lowest = np.log([LOWEST.get(name, 1e-3) for name in names])
    highest = np.log([HIGHEST.get(n, 200.0 if n.endswith("_us") else 1.0) for n in names])
    logs = np.log(sample.measured)

    def residual(values: Floats) -> Floats:
        form = sample.form.model_construct(**dict(zip(names, np.exp(values), strict=True)))
        ratio: Floats = np.log(form.seconds(*sample.args)) - logs
        return ratio

    first = np.clip(np.log([start[name] for name in names]), lowest + 1e-3, highest - 1e-3)
    best = least_squares(residual, first, bounds=(lowest, highest), loss="soft_l1", f_scale=0.1)
    return {n: float(f"{np.exp(v):.4g}") for n, v in zip(names, best.x, strict=True)}


def _within(axes: Axes, at: dict[str, Floats]) -> Axes:
    """Knots as far as the rows reach; without axes along which they do not differ."""
    kept: Axes = {}
    for name, knots in axes.items():
        low, high = at[name].min(), at[name].max()
        inner = [knot for knot in knots if low < knot < high]
        if high > low * 1.01:
            kept[name] = tuple(float(f"{knot:.6g}") for knot in (low, *inner, high))
    return kept


def _corrections(sample: Sample, form: dict[str, float], grids: list[Axes]) -> list[dict[str, Any]]:
    target = np.log(sample.measured / predict(sample, form))
    design = csr_array(hstack([_basis(axes, sample.at) for axes in grids]))
    cells = design.shape[1]
    penalty = _roughness(grids) * np.sqrt(SMOOTH * len(target) / cells)
    weight = np.ones(len(target))
    values = np.zeros(cells)
    ridge = 1e-6 * len(target) / cells * np.eye(cells)
    stiff = (penalty.T @ penalty).toarray() + ridge
    for _ in range(12):
        weighted = design.multiply(weight[:, None]).tocsr()
        normal = (design.T @ weighted).toarray() + stiff
        values = np.linalg.solve(normal, weighted.T @ target)
        weight = NARROW / np.maximum(np.abs(target - design @ values), NARROW)
    result, done = [], 0
    for axes in grids:
        size = int(np.prod([len(knots) for knots in axes.values()]))
        percent = np.expm1(np.clip(values[done : done + size], -3.0, 3.0)) * 100
        result.append({"axes": axes, "percent": tuple(round(float(p), 1) for p in percent)})
        done += size
    return result


def _basis(axes: Axes, at: dict[str, Floats]) -> csr_array:
    """Weights of the knots in each row's logarithm, (rows, knots)."""
    corners = []
    shape = [len(knots) for knots in axes.values()]
    for name, knots in axes.items():
        logs = np.log2(knots)
        x = np.clip(np.log2(at[name]), logs[0], logs[-1])
        place = np.clip(np.searchsorted(logs, x, side="right") - 1, 0, len(logs) - 2)
        share = (x - logs[place]) / (logs[place + 1] - logs[place])
        corners.append(((place, 1 - share), (place + 1, share)))
    rows = np.arange(len(next(iter(at.values()))))
    columns, weights = [], []
    for corner in product(*corners):
        columns.append(np.ravel_multi_index([place for place, _ in corner], shape))
        weights.append(np.prod([share for _, share in corner], axis=0))
    ones = np.tile(rows, len(columns))
    entries = (np.concatenate(weights), (ones, np.concatenate(columns)))
    return csr_array(entries, shape=(len(rows), int(np.prod(shape))))


def _roughness(grids: Sequence[Axes]) -> csr_array:
    """Differences of neighbouring knots along every axis, (pairs, knots)."""
    rows: list[tuple[int, int]] = []
    done = 0
    for axes in grids:
        shape = [len(knots) for knots in axes.values()]
        index = np.arange(int(np.prod(shape))).reshape(shape) + done
        for axis in range(len(shape)):
            low = index.take(range(shape[axis] - 1), axis).ravel()
            high = index.take(range(1, shape[axis]), axis).ravel()
            rows += list(zip(low.tolist(), high.tolist(), strict=True))
        done += index.size
    pairs = np.arange(len(rows))
    low, high = np.asarray(rows).T
    entries = (np.repeat((1.0, -1.0), len(rows)), (np.tile(pairs, 2), np.concatenate([low, high])))
    return csr_array(entries, shape=(len(rows), done))
