from __future__ import annotations

import time
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.results.quantiles import GapDistribution

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)

seconds = st.floats(1e-6, 10.0) | st.sampled_from([0.01, 0.02, 0.03])
rows = st.lists(
    st.tuples(
        seconds,
        st.floats(-0.5, 1.0) | st.just(0.0) | st.floats(-1e-15, 1e-15),
        st.integers(1, 60),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=30,
)


def distribution(table: list[tuple[float, float, int, int]]) -> GapDistribution:
    first, slope, steps, weight = zip(*table, strict=True)
    return GapDistribution(
        np.array(first), np.array(slope), np.array(steps, dtype=int), np.array(weight, dtype=int)
    )


def expand(table: list[tuple[float, float, int, int]]) -> np.ndarray:
    parts = [np.repeat(f + np.arange(n) * s, w) for f, s, n, w in table]
    return np.concatenate(parts)


def narrowing() -> AbstractContextManager[object]:
    """Gaps are never listed, however few."""
    return patch("simulator.results.quantiles._FEW", -1)


def falling_at_most_to_zero(
    table: list[tuple[float, float, int, int]],
) -> list[tuple[float, float, int, int]]:
    return [(f, max(s, -f / n) if s < 0 else s, n, w) for f, s, n, w in table]


@given(rows, st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_equal_to_numpy_on_all_tokens(table, more):
    table = falling_at_most_to_zero(table)
    gaps = expand(table)
    mine = distribution(table)
    assert mine.count == len(gaps)
    if not len(gaps):
        with pytest.raises(ValueError, match="no gaps"):
            mine.quantiles([0.5])
        return
    shares = [*SHARES, *more]
    listed = mine.quantiles(shares)
    with narrowing():
        assert mine.quantiles(shares) == listed
    assert listed == pytest.approx(np.quantile(gaps, shares), rel=1e-12, abs=1e-18)
    assert mine.mean == pytest.approx(gaps.mean(), rel=1e-12)
    assert mine.std == pytest.approx(gaps.std(), rel=1e-9, abs=1e-12)
    assert (mine.min, mine.max) == (gaps.min(), gaps.max())


@given(rows, st.lists(st.floats(0, 70), max_size=6))
@settings(max_examples=200, deadline=None)
def test_counts_are_those_of_all_tokens(table, values):
    gaps = expand(table)
    some = np.sort(np.concatenate((values, gaps[::7])))
    assert distribution(table).counts(some).tolist() == [(gaps <= v).sum() for v in some]


def test_order_statistics_are_members():
    # 10, 20, 30 ms for two tokens each and 25 ms for one: seven tokens.
    mine = distribution([(0.01, 0.01, 3, 2), (0.025, 0.0, 1, 1)])
    assert mine.quantiles([0.5]) == [0.01 + 1 * 0.01]
    assert mine.quantiles([5 / 6]) == pytest.approx([0.03])
    assert mine.quantiles([4 / 6]) == [0.025]


def test_two_million_rows_take_less_than_a_second():
    rng = np.random.default_rng(5)
    n = 2_000_000
    table = (
        rng.lognormal(-4, 0.3, n),
        rng.uniform(0, 2e-7, n),
        rng.integers(1, 40, n),
        rng.integers(0, 200, n),
    )
    began = time.process_time()
    mine = GapDistribution(*table)
    quantiles = mine.quantiles([0.5, 0.9, 0.95, 0.99, 0.999])
    took = time.process_time() - began
    assert (np.diff(quantiles) > 0).all()
    for share, value in zip([0.5, 0.99], [quantiles[0], quantiles[3]], strict=True):
        assert mine.counts(np.array([value]))[0] / mine.count == pytest.approx(share, abs=1e-6)
    assert took < 2.0  # 0.5 s on the machine it was written on; machines differ
