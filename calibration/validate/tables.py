"""Tables of errors for the terminal, the HTML report and the documentation; all rows as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from calibration.validate.measured import Skipped
from calibration.validate.metrics import (
    DIMENSIONS,
    TITLES,
    Comparison,
    Errors,
    by,
    coverage_pct,
    errors,
    measured,
    worst,
)
from calibration.validate.prediction import STATISTICS, dominant

WORST = 8


class Worst(NamedTuple):
    """A point that is far off, and what its prediction is made of."""

    id: str
    what: str
    measured: float
    predicted: float
    operator: str
    share: float


def overall(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A row a metric: n, median, mean and p90 absolute percentage error, bias ratio."""
    rows: list[tuple[str, ...]] = []
    for metric in measured(comparisons):
        found = errors(comparisons, metric)
        rows.append(
            (
                TITLES[metric], str(found.n), _pct(found.median_ape_pct), _pct(found.mean_ape_pct),
                _pct(found.p90_ape_pct), _ratio(found.bias_ratio),
                _pct(coverage_pct(comparisons, metric)),
            )
        )  # fmt: skip
    return rows


OVERALL_HEAD = ("", "points", "median error", "mean error", "p90 error", "bias", "in interval")


def head(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Of a table of medians: median absolute percentage error and bias of each metric."""
    columns = (cell for metric in measured(comparisons) for cell in (TITLES[metric], "bias"))
    return ("", "points", *columns)


def breakdown(comparisons: Sequence[Comparison], dimension: str) -> list[tuple[str, ...]]:
    """A row a value of the dimension, see ``head``."""
    metrics = measured(comparisons)
    return [
        (name, str(len(members)), *_medians(members, metrics))
        for name, members in by(comparisons, dimension)
    ]


COVERAGE_HEAD = ("", "points", "TTFT", "TPOT", "E2E")


def coverage(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """How many measurements lie within their interval, by split."""
    return [
        (
            name,
            str(len(members)),
            *(_pct(coverage_pct(members, m)) for m in ("ttft_ms", "tpot_ms", "e2e_ms")),
        )
        for name, members in by(comparisons, "split")
    ]


def distributions(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Of points with whole distributions: measured and predicted quantiles, and the error."""
    rows: list[tuple[str, ...]] = []
    for comparison in comparisons:
        for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
            if len(getattr(comparison.point.measured, metric)) < 2:
                continue
            for name in STATISTICS:
                pair = comparison.pair(metric, name)
                if pair is not None:
                    error = 100.0 * (pair[1] / pair[0] - 1.0)
                    rows.append(
                        (f"{comparison.point.id} {TITLES[metric]} {name}", _number(pair[0]),
                         _number(pair[1]), f"{error:+.1f}%")
                    )  # fmt: skip
    return rows


def worst_rows(comparisons: Sequence[Comparison], metric: str, most: int = WORST) -> list[Worst]:
    """The points that are furthest off, with the dominant operator of the prediction."""
    rows = []
    for c in worst(comparisons, metric, most):
        pair = c.pair(metric)
        assert pair is not None, "ranked points have this metric"
        operator, share = dominant(c.prediction, metric)
        rows.append(Worst(c.point.id, describe(c), *pair, operator, share))
    return rows


def describe(comparison: Comparison) -> str:
    """A point in a few words."""
    p = comparison.point
    load = f"{p.concurrency} users" if p.concurrency else "open loop"
    model = p.model.rpartition("/")[2]
    lengths = f"{len(p.trace.arrival_s)} requests" if p.trace is not None else p.lengths
    label = p.precision or p.weights or "native"
    return f"{model} {label} {p.ways.replace(' ', '')} {p.system} {p.engine} {lengths} {load}"


def reasons(skipped: Sequence[Skipped]) -> list[tuple[str, int]]:
    """Why rows were left out, and how many for each reason, most first."""
    counts = Counter(row.reason for row in skipped)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def markdown(comparisons: Sequence[Comparison], skipped: Sequence[Skipped]) -> str:
    """The tables of the documentation."""
    parts = [markdown_table(OVERALL_HEAD, overall(comparisons))]
    for dimension in DIMENSIONS:
        parts += [
            f"By {dimension}:",
            markdown_table(head(comparisons), breakdown(comparisons, dimension)),
        ]
    parts += ["In the interval, by split:", markdown_table(COVERAGE_HEAD, coverage(comparisons))]
    spread = distributions(comparisons)
    if spread:
        parts += ["Distributions:", markdown_table(("", "measured", "predicted", "error"), spread)]
    left_out = [(reason, str(count)) for reason, count in reasons(skipped)]
    if left_out:
        parts += ["Left out:", markdown_table(("", "rows"), left_out)]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its first column to the left and the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


COLUMNS = (
    "id", "model", "system", "engine", "version", "precision", "tp", "isl", "osl", "concurrency",
    "rate_per_s", "half", "group_seen", "statistic", "requests",
    *(f"{kind}_{metric}" for metric in TITLES for kind in ("measured", "predicted", "error_pct")),
    "predicted_ttft_ms_p50", "predicted_tpot_ms_p50", "queueing_ms_mean", "batch_size_mean",
    "kv_tokens", "preemptions", "ttft_operator", "tpot_operator",
)  # fmt: skip


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """All points with measured and predicted figures."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for comparison in comparisons:
        writer.writerow("" if cell is None else cell for cell in _cells(comparison))
    return buffer.getvalue()


def _cells(c: Comparison) -> Iterator[object]:
    p, prediction = c.point, c.prediction
    yield from (p.id, p.model, p.system, p.engine, p.version, p.precision, p.tp, f"{p.isl:g}")
    yield from (f"{p.osl:g}", p.concurrency, p.rate_per_s, c.half, c.seen, p.statistic)
    yield prediction["requests"]
    for metric in TITLES:
        pair = c.pair(metric)
        yield from pair or (None, None)
        yield c.error_pct(metric)
    yield prediction["ttft_ms"]["p50"]
    yield prediction["tpot_ms"]["p50"]
    for key in ("queueing_ms_mean", "batch_size_mean", "kv_tokens", "preemptions"):
        yield prediction[key]
    yield dominant(prediction, "ttft_ms")[0]
    yield dominant(prediction, "tpot_ms")[0]


def _medians(comparisons: Sequence[Comparison], metrics: Sequence[str]) -> Iterator[str]:
    for metric in metrics:
        found: Errors = errors(comparisons, metric)
        yield _pct(found.median_ape_pct)
        yield _ratio(found.bias_ratio)


def _pct(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}%"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:,.1f}"
