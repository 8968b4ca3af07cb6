from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.results.record import Gaps
from simulator.results.stretches import cut_at
from simulator.results.totals import totals
from simulator.results.window import Window, window_of
from simulator.scenario.measurement import Measurement
from tests.results_support import FakeAccountant, evenly_sent, result, step_table, two_requests


def test_warm_up_and_drain_are_cut():
    window = window_of(evenly_sent(100), Measurement())
    assert (window.cut, window.requests) == (5, 95)
    assert (window.start_s, window.end_s) == (5.0, 99.0)
    assert not window.drain_counts
    assert window.notes == ()


def test_the_drain_counts_on_demand():
    window = window_of(evenly_sent(100), Measurement(include_drain=True))
    assert window.end_s == pytest.approx(99.6)
    assert window.drain_counts


def test_a_burst_is_never_torn_apart():
    record = evenly_sent(20)
    burst = replace(record, sent_s=np.zeros(20), queued_s=np.zeros(20))
    window = window_of(burst, Measurement(warmup_fraction=0.5))
    assert (window.cut, window.requests, window.start_s) == (0, 20, 0.0)
    assert window.drain_counts
    assert "sent at the same instant stay together" in window.notes[0]
    assert "only 0 of 20 counted requests completed before" in window.notes[1]


def test_one_request_counts_whatever_the_warm_up():
    window = window_of(evenly_sent(1), Measurement(warmup_fraction=0.99))
    assert window.requests == 1
    assert window.duration_s == pytest.approx(0.6)


def test_requests_that_were_never_sent_do_not_count():
    record = evenly_sent(10)
    sent = record.sent_s.copy()
    sent[7:] = np.nan
    window = window_of(replace(record, sent_s=sent), Measurement(warmup_fraction=0.0))
    assert (window.sent, window.requests) == (7, 7)
    nothing = window_of(replace(record, sent_s=np.full(10, np.nan)), Measurement())
    assert nothing.requests == 0


def test_a_queue_that_grows_to_the_end_is_a_warning():
    calm = result(evenly_sent(100), measurement={"warmup_fraction": 0.0}).summary()
    assert calm["warnings"] == []
    jam = result(evenly_sent(100, service_s=2.0), measurement={"warmup_fraction": 0.0}).summary()
    # One arrives a second, one leaves every other: at 99 s 100 came and 50 started.
    assert jam["warnings"] == [
        "Overloaded: 50 requests were waiting when the last one was sent, 25 halfway. Latencies "
        "grow with the length of the run."
    ]


rows = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.floats(0.1, 2.0),
        st.floats(0.0, 0.2),
        st.integers(0, 5),
        st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=8,
)


@given(rows, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_totals_are_those_of_single_steps(parts, a, b):
    """Whatever the window, rows of many steps give the sums that their steps give one by one."""
    table, single, now = [], [], 0.0
    for steps, first, slope, decode, pause in parts:
        now += pause
        common = {"decode": decode, "gap_tokens": decode, "running": decode, "kv_blocks": 2}
        end_tokens = 40 + decode * steps
        table.append(common | {"start_s": now, "first_s": first, "slope_s": slope, "steps": steps,
                               "kv_tokens": end_tokens, "context": 30})  # fmt: skip
        for i in range(steps):
            span = first + i * slope
            single.append(common | {"start_s": now, "first_s": span, "context": 30 + decode * i,
                                    "kv_tokens": 40 + decode * (i + 1)})  # fmt: skip
            now += span
    start, end = sorted((a * now, b * now))
    window = Window(np.ones(2, dtype=bool), 2, 0, start, end, True)
    sums = [
        totals(two_requests(steps=step_table(*rows), end_s=now), FakeAccountant(), window,
               kv_grows=False)
        for rows in (table, single)
    ]  # fmt: skip
    for name in ("busy_s", "model_flops", "step_energy_j", "running_s", "kv_blocks_s",
                 "run_busy_s", "run_energy_j", "run_running_s"):  # fmt: skip
        assert getattr(sums[0], name) == pytest.approx(getattr(sums[1], name), abs=1e-9)
    # A step that ends on an edge of the window to within rounding may fall on either side.
    at_edge = any(
        abs(s["start_s"] + s["first_s"] - edge) < 1e-9 for s in single for edge in (start, end)
    )
    if not at_edge:
        assert sums[0].steps == sums[1].steps
        assert sums[0].output_tokens == sums[1].output_tokens
        assert sums[0].sequences == sums[1].sequences


def test_cutting_a_row_keeps_its_steps():
    steps = step_table(
        {"start_s": 1.0, "first_s": 1.0, "slope_s": 0.5, "steps": 4, "decode": 3, "context": 30,
         "kv_tokens": 50, "gap_tokens": 3}
    )  # fmt: skip
    # Steps end at 2.0, 3.5, 5.5 and 8.0.
    parts = cut_at(steps, 4.0)
    assert parts.steps.tolist() == [2, 1, 1]
    assert parts.start_s.tolist() == [1.0, 3.5, 5.5]
    assert parts.first_s.tolist() == [1.0, 2.0, 2.5]
    assert parts.context.tolist() == [30, 36, 39]
    assert parts.kv_tokens.tolist() == [44, 47, 50]
    assert cut_at(steps, 3.5).steps.tolist() == [2, 1, 1]
    assert cut_at(steps, 8.0).steps.tolist() == [4]
    assert cut_at(steps, 1.0).steps.tolist() == [4]


def test_gaps_count_from_the_start_of_the_window_to_the_end_of_the_run():
    # Steps of 1.0, 1.1 … 1.9 s from 0 s on, three tokens each; those that end after 5 s count.
    steps = step_table(
        {"start_s": 0.0, "first_s": 1.0, "slope_s": 0.1, "steps": 10, "gap_tokens": 3},
        {"start_s": 20.0, "first_s": 7.0, "gap_tokens": 1},
    )
    record = two_requests(
        steps=steps,
        sent_s=np.array([0.0, 5.0]),
        gaps=Gaps(np.array([4.0, 6.0]), np.array([8.0, 9.0]), np.array([1, 2])),
        end_s=27.0,
    )
    gaps = result(record, measurement={"warmup_fraction": 0.5}).gaps
    ends = np.cumsum(1.0 + 0.1 * np.arange(10))
    late = (1.0 + 0.1 * np.arange(10))[ends > 5.0]
    assert len(late) == 6
    expected = np.concatenate((np.repeat(late, 3), [7.0, 9.0, 9.0]))
    assert gaps.count == len(expected)
    assert gaps.mean == pytest.approx(expected.mean())
    assert gaps.quantiles([0.0, 0.3, 0.7]) == pytest.approx(np.quantile(expected, [0.0, 0.3, 0.7]))
