"""Length distributions against their closed forms."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.scenario.lengths import (
    EmpiricalLength,
    FixedLength,
    LogNormalLength,
    NormalLength,
    UniformLength,
)
from simulator.workload.lengths import draw_lengths

N = 200_000


def draw(length, n=N, seed=1, notes=None):
    generator = np.random.default_rng(seed)
    return draw_lengths(
        length, n, generator, where="workload.lengths.input", notes=[] if notes is None else notes
    )


def test_fixed():
    assert draw(FixedLength(tokens=7), n=3).tolist() == [7, 7, 7]


def test_uniform_includes_both_ends_equally_often():
    values, counts = np.unique(draw(UniformLength(low=3, high=6)), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert counts == pytest.approx(N / 4, rel=0.02)


def test_normal_mean_and_std():
    tokens = draw(NormalLength(mean=500, std=80))
    assert tokens.mean() == pytest.approx(500, abs=4 * 80 / np.sqrt(N))
    assert tokens.std() == pytest.approx(80, rel=0.01)


def test_lognormal_is_given_by_its_own_mean_and_cv():
    tokens = draw(LogNormalLength(mean=800, cv=1.2))
    assert tokens.mean() == pytest.approx(800, rel=0.02)
    assert tokens.std() / tokens.mean() == pytest.approx(1.2, rel=0.04)
    # The median of a log-normal is mean / sqrt(1 + cv^2).
    assert np.median(tokens) == pytest.approx(800 / np.sqrt(1 + 1.2**2), rel=0.02)


def test_empirical_weights_and_zero_weights():
    tokens = draw(EmpiricalLength(tokens=(10, 20, 30, 40), weights=(0, 1, 3, 0)))
    values, counts = np.unique(tokens, return_counts=True)
    assert values.tolist() == [20, 30]
    assert counts[1] / N == pytest.approx(0.75, abs=0.005)
    assert set(draw(EmpiricalLength(tokens=(1, 2, 3)))) == {1, 2, 3}
    huge = EmpiricalLength(tokens=(1, 2), weights=(1e308, 1e308))
    assert draw(huge).mean() == pytest.approx(1.5, abs=0.01)


def test_truncation_draws_again_instead_of_clipping():
    notes = []
    tokens = draw(NormalLength(mean=100, std=50, low=80, high=140), notes=notes)
    assert tokens.min() == 80
    assert tokens.max() == 140
    # Clipping would pile a third of the draws up at the low end.
    assert (tokens == 80).mean() < 0.03
    # Mean of a normal cut to a..b: mu + sigma (phi(a) - phi(b)) / (Phi(b) - Phi(a)).
    normal, low, high = NormalDist(100, 50), 79.5, 140.5
    inside = normal.cdf(high) - normal.cdf(low)
    mean = 100 + 50**2 * (normal.pdf(low) - normal.pdf(high)) / inside
    assert tokens.mean() == pytest.approx(mean, abs=4 * 18 / np.sqrt(N))
    assert notes == [
        "workload.lengths.input: 54.9% of the draws fell outside 80..140 and were drawn again; "
        "the mean is 109 tokens where 100 was asked for"
    ]


def test_truncation_that_hardly_shows_makes_no_note():
    notes = []
    draw(NormalLength(mean=500, std=80), notes=notes)
    assert notes == []


def test_truncation_leaves_the_draws_inside_as_they_were():
    free = draw(LogNormalLength(mean=300, cv=1.0))
    cut = draw(LogNormalLength(mean=300, cv=1.0, low=50, high=900))
    inside = (free >= 50) & (free <= 900)
    assert np.array_equal(cut[inside], free[inside])


def test_hopeless_acceptance_is_an_error_that_names_the_field():
    with pytest.raises(ScenarioError) as error:
        draw(NormalLength(mean=100, std=1e6, low=99, high=101))
    assert str(error.value) == (
        "workload.lengths.input: only 0.00% of this normal distribution lies inside 99..101; "
        "widen low..high or narrow the spread"
    )


def test_no_spread():
    assert set(draw(NormalLength(mean=100, std=0, low=1, high=100), n=10)) == {100}


@given(
    mean=st.floats(1, 1e5),
    cv=st.floats(0.001, 100),
    below=st.integers(0, 1000),
    above=st.integers(0, 100_000),
    seed=st.integers(0, 2**32),
)
def test_lognormal_stays_in_its_limits_or_says_why_not(mean, cv, below, above, seed):
    low, high = max(1, int(mean) - below), int(np.ceil(mean)) + above
    assume(high <= 1_000_000)
    length = LogNormalLength(mean=mean, cv=cv, low=low, high=high)
    try:
        tokens = draw(length, n=50, seed=seed)
    except ScenarioError:
        return
    assert tokens.min() >= low
    assert tokens.max() <= high
