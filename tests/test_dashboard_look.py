"""How charts and figures of the dashboard look."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from dashboard import look

REACHES = [
    (210, 480), (1.1, 1.9), (22, 45), (8.2, 19), (0.3, 5e4), (100, 9000), (1e-6, 100),
    (0.9, 1.05), (60, 3e4), (3, 3.1),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), REACHES)
def test_a_logarithmic_axis_has_round_ticks_over_all_of_it(low: float, high: float) -> None:
    axis = look.log_axis(low, high)
    ticks, (first, last) = axis["tickvals"], axis["range"]
    assert 4 <= len(ticks) <= 13
    assert first <= math.log10(low) < math.log10(high) <= last
    assert all(first <= math.log10(tick) <= last for tick in ticks)
    # None is longer than three figures, and each is written as it is.
    assert [float(text.replace(",", "")) for text in axis["ticktext"]] == pytest.approx(ticks)
    assert all(float(f"{tick:.3g}") == pytest.approx(tick) for tick in ticks)
    # No stretch of the axis is without any.
    gaps = [math.log10(b / a) for a, b in pairwise(ticks)]
    assert max(gaps) < 0.5 * (last - first)


def test_a_single_value_has_room_around_it() -> None:
    axis = look.log_axis(5.0, 5.0)
    assert axis["range"][0] < math.log10(5.0) < axis["range"][1]
    assert 5.0 in [pytest.approx(tick) for tick in axis["tickvals"]]


def test_keys_between_backticks_are_code_and_nothing_else_is_markup() -> None:
    assert look.with_code("a_b; `judge: pes_simistic` asks") == "a\\_b; `judge: pes_simistic` asks"
    assert look.with_code("one ` alone ![x](http://y)") == look.plain("one ` alone ![x](http://y)")
    assert "![" not in look.with_code("`a` ![x](http://y)")
