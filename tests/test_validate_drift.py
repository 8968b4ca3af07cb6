"""What validation said last: a change that makes predictions worse does not pass unseen.

The shipped samples stand for the files they were drawn from. Whoever makes predictions better
lowers the numbers; whoever makes them worse on purpose says why in the changelog.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.validate import Validation, errors, read_dataset, validate
from calibration.validate.metrics import coverage_pct

DATASETS = Path(__file__).parent.parent / "calibration" / "datasets"
SLACK = 0.3
"""Percentage points."""

MEDIANS = {
    "served": {"ttft_ms": 18.7, "tpot_ms": 6.3, "e2e_ms": 7.0},
    "validation": {"ttft_ms": 18.7, "tpot_ms": 7.1, "e2e_ms": 8.4},
    "offline": {"output_tokens_per_s": 12.3},
}
BIASES = {"ttft_ms": (0.8, 1.1), "tpot_ms": (0.95, 1.05), "e2e_ms": (0.95, 1.05)}
FILES = {
    "served": ("served_points_sample.csv", "all"),
    "validation": ("served_points_sample.csv", "validation"),
    "offline": ("offline_throughput_sample.csv", "all"),
}


@pytest.fixture(scope="module", params=FILES, ids=str)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Validation:
    file, split = FILES[request.param]
    dataset = read_dataset(str(DATASETS / file))
    result = validate(dataset, tmp_path_factory.mktemp("drift"), split=split, processes=1)
    # Rows with experts or attention on several ranks, and with prefill and decode apart, are few.
    alike = tuple(c for c in result.comparisons if not c.point.spread)
    return Validation(request.param, alike, result.skipped, result.computed)


def test_medians_are_no_worse_than_they_were(found: Validation) -> None:
    for metric, pinned in MEDIANS[found.dataset].items():
        now = errors(found.comparisons, metric).median_ape_pct
        assert now is not None
        assert now <= pinned + SLACK, f"{metric}: {now:.1f}%, it was {pinned}%"


def test_predictions_lean_to_neither_side(found: Validation) -> None:
    for metric, (low, high) in BIASES.items():
        bias = errors(found.comparisons, metric).bias_ratio
        assert bias is None or low <= bias <= high, f"{metric}: {bias:.2f}"


def test_intervals_hold_about_what_they_promise(found: Validation) -> None:
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        inside = coverage_pct(found.comparisons, metric)
        assert inside is None or 65.0 <= inside <= 97.0, f"{metric}: {inside:.0f}%"
