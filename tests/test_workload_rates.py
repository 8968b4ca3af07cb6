"""Traffic that follows a table over time, against closed forms and against what was recorded."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.cli import cli
from simulator.errors import ScenarioError, TraceError, UnknownNameError
from simulator.scenario import Scenario
from simulator.scenario.lengths import LengthsOverTime
from simulator.scenario.rates import RatesArrivals
from simulator.scenario.workload import PoissonArrivals, QueueWorkload, SyntheticWorkload
from simulator.simulation import simulate
from simulator.workload import build_requests, table_names, tables
from simulator.workload.arrivals import MAX_REQUESTS, arrival_times
from simulator.workload.over_time import read_over_time
from simulator.workload.rates import RateTable, TableClock, read_rates
from simulator.workload.shipped import TABLES, find_table

WEEK = "model-studio-week"
LENGTHS = f"{WEEK}-lengths"


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(*rows: tuple[float, ...], **more: Any) -> RatesArrivals:
    """Rows of start, rate and perhaps cv."""
    keys = ("start_s", "rate_per_s", "cv")
    return RatesArrivals.model_validate(
        {"intervals": [dict(zip(keys, row, strict=False)) for row in rows], **more}
    )


STEPS = table((0.0, 5.0), (100.0, 0.0), (150.0, 20.0), end_s=250.0)
EDGES = np.array([0.0, 100.0, 150.0, 250.0])
EXPECTED = np.array([500.0, 0.0, 2000.0])

# --- arrivals ------------------------------------------------------------------------------------


def test_counts_of_each_interval_are_poisson() -> None:
    """Mean and variance of the count in an interval are its rate times its length."""
    runs = 300
    found = np.array(
        [np.histogram(arrival_times(STEPS, rng(seed)), EDGES)[0] for seed in range(runs)]
    )
    error = np.sqrt(EXPECTED / runs)
    assert (np.abs(found.mean(axis=0) - EXPECTED) <= 4 * error).all()
    busy = EXPECTED > 0
    assert found.var(axis=0)[busy] / EXPECTED[busy] == pytest.approx(1.0, abs=0.35)
    assert abs(np.corrcoef(found[:, 0], found[:, 2])[0, 1]) < 4 / math.sqrt(runs)


def test_within_an_interval_arrivals_are_uniform() -> None:
    times = np.concatenate([arrival_times(STEPS, rng(seed)) for seed in range(20)])
    inside = np.sort(times[times > 150.0] - 150.0) / 100.0
    n = len(inside)
    assert np.abs(inside - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n)  # 0.1% level


def test_one_rate_is_a_poisson_process() -> None:
    same = arrival_times(table((0.0, 7.0), end_s=100.0), rng())
    plain = arrival_times(PoissonArrivals(rate_per_s=7.0), rng(), duration_s=100.0)
    assert same == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("cv", [0.3, 3.0])
def test_gaps_have_the_cv_of_their_interval(cv: float) -> None:
    times = arrival_times(table((0.0, 9.0, cv), (20_000.0, 3.0), end_s=40_000.0), rng())
    first, second = times[times < 20_000.0], times[times >= 20_000.0]
    for part, rate, wanted in ((first, 9.0, cv), (second, 3.0, 1.0)):
        gaps = np.diff(part)
        assert gaps.std() / gaps.mean() == pytest.approx(wanted, rel=0.05)
        assert gaps.mean() == pytest.approx(1 / rate, rel=4 * wanted / math.sqrt(len(gaps)))


@pytest.mark.parametrize(("first", "last"), [(0.4, 2.0), (3.0, 3.0), (2.0, 0.5)])
def test_a_bursty_table_brings_what_its_rates_say(first: float, last: float) -> None:
    """A renewal process that begins with an event brings (cv² - 1) / 2 more than its rate over a
    long time (Cox 1962); changes of cv in between cancel out."""
    rows = [(0.0, 4.0, first), (200.0, 10.0, 1.0), (300.0, 0.0), (320.0, 4.0, last)]
    arrivals = table(*rows, end_s=820.0)
    runs = 600
    counts = [len(arrival_times(arrivals, rng(seed))) for seed in range(runs)]
    expected = 800.0 + 1000.0 + 2000.0 + (last**2 - 1) / 2
    assert np.mean(counts) == pytest.approx(expected, abs=4 * np.std(counts) / math.sqrt(runs))


def test_cv_of_the_table_holds_where_a_row_gives_none() -> None:
    given_there = arrival_times(table((0.0, 9.0, 2.5), (50.0, 3.0, 2.5), end_s=90.0), rng())
    otherwise = arrival_times(table((0.0, 9.0), (50.0, 3.0), end_s=90.0, cv=2.5), rng())
    assert np.array_equal(given_there, otherwise)


@pytest.mark.parametrize("cv", [1.0, 2.0])
def test_scale_brings_more_of_the_same(cv: float) -> None:
    rows = [(0.0, 5.0, cv), (100.0, 0.0), (150.0, 20.0, cv)]
    once = arrival_times(table(*rows, end_s=250.0), rng())
    twice = arrival_times(table(*rows, end_s=250.0, scale=2.0), rng())
    assert len(twice) == pytest.approx(2 * len(once), rel=0.1)
    before = once[once < 50.0]  # the same gaps, half as long
    assert twice[: len(before)] == pytest.approx(before / 2, rel=1e-9)


@pytest.mark.parametrize("cv", [None, 2.0])
def test_a_run_may_begin_inside_and_go_round(cv: float | None) -> None:
    rows = [(0.0, 30.0), (10.0, 2.0)]
    times = arrival_times(
        table(*rows, end_s=20.0, repeat=True, start_s=10.0, cv=cv), rng(), duration_s=4000.0
    )
    phase = (times + 10.0) % 20.0
    assert (phase < 10).mean() == pytest.approx(30 / 32, abs=0.01)
    assert len(times) == pytest.approx(200 * 320, rel=0.03)
    assert times[0] > 0.0
    assert (np.diff(times) >= 0).all()
    inside = arrival_times(table(*rows, end_s=20.0, start_s=10.0, cv=cv), rng())
    assert inside.max() < 10.0
    assert np.array_equal(times[times < 10.0], inside)


@pytest.mark.parametrize("cv", [1.0, 2.0])
def test_so_many_requests_are_the_first_ones(cv: float) -> None:
    rows = [(0.0, 5.0, cv), (100.0, 0.0), (150.0, 20.0, cv)]
    arrivals = table(*rows, end_s=250.0)
    whole = arrival_times(arrivals, rng())
    assert np.array_equal(arrival_times(arrivals, rng(), requests=700), whole[:700])
    with pytest.raises(ScenarioError, match=r"ends after [\d,]+ requests; about 2,500 are"):
        arrival_times(arrivals, rng(), requests=9000)
    again = arrival_times(table(*rows, end_s=250.0, repeat=True), rng(), requests=9000)
    assert len(again) == 9000
    assert np.array_equal(again[: len(whole)], whole)


@given(
    rates=st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=2, max_size=8),
    lengths=st.lists(st.floats(0.5, 1e4), min_size=8, max_size=8),
    start=st.floats(0.0, 0.99),
    repeat=st.booleans(),
    parts=st.lists(st.floats(0.0, 0.999), min_size=1, max_size=20),
)
def test_the_clock_inverts_itself(
    rates: list[float], lengths: list[float], start: float, repeat: bool, parts: list[float]
) -> None:
    rates[-1] = max(rates[-1], 1e-3)
    edges = np.concatenate([[0.0], np.cumsum(lengths[: len(rates)])])
    made = RateTable("t", edges[:-1], np.array(rates), np.ones(len(rates)), float(edges[-1]))
    clock = TableClock(made, start * made.end_s, repeat)
    most = 3 * made.expected if repeat else clock.total
    expected = np.sort(np.array(parts)) * most
    times = clock.times(expected)
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()
    back = np.array([clock.expected(float(t)) for t in times])
    assert back == pytest.approx(expected, rel=1e-6, abs=1e-6 * most)


# --- files ---------------------------------------------------------------------------------------


def test_times_may_be_dates_and_amounts_requests(tmp_path: Path) -> None:
    seconds, dates = tmp_path / "a.csv", tmp_path / "b.csv"
    seconds.write_text("start_s,rate_per_s,cv\n1700000000,2,\n1700000060,0.5,0\n1700000180,1,3\n")
    dates.write_text(
        "timestamp,cv,requests\n2026-03-01 08:00:00,,120\n2026-03-01T08:01:00Z,,60\n"
        "2026-03-01 09:03:00+01:00,3,120\n"
    )
    one, other = read_rates(str(seconds)), read_rates(str(dates))
    assert one.start_s.tolist() == other.start_s.tolist() == [0.0, 60.0, 180.0]
    assert one.rate_per_s == pytest.approx(other.rate_per_s)
    assert one.cv.tolist() == other.cv.tolist() == [1.0, 1.0, 3.0]
    assert one.end_s == other.end_s == 300.0  # as long as the one before
    assert one.expected == pytest.approx(300.0)


RATES = "start_s,rate_per_s,cv\n"
MISTAKES = {
    "empty": ("", "t.csv: the file is empty; expected one interval a line"),
    "no rows": (RATES, "t.csv: the file has no rows"),
    "one row": (RATES + "0,1,1\n", "t.csv:2: the table has one row, so nothing says how long"),
    "columns": ("start_s,rps\n0,1\n", "t.csv:1: the columns are 'start_s,rps'; expected start_s"),
    "both": ("start_s,rate_per_s,requests\n0,1,1\n9,1,1\n", "t.csv:1: the columns are"),
    "no clock": ("time,rate_per_s\n0,1\n", "t.csv:1: the columns are 'time,rate_per_s'; expected"),
    "twice": ("start_s,start_s\n0,1\n", "t.csv:1: two columns have the same name"),
    "fields": (RATES + "0,1,1\n9,1\n", "t.csv:3: the row has 2 fields; expected 3"),
    "negative": (RATES + "0,1,1\n9,-1,1\n", "t.csv:3: rate_per_s is '-1'; expected a number"),
    "nan": (RATES + "0,nan,1\n9,1,1\n", "t.csv:2: rate_per_s is 'nan'"),
    "order": (RATES + "0,1,1\n9,1,1\n9,2,1\n", "t.csv:4: start_s is '9'; expected a time after"),
    "cv": (RATES + "0,1,1\n9,1,200\n", "t.csv:3: cv is '200'; expected a number from 0.001 to 100"),
    "date": ("timestamp,rate_per_s\nnoon,1\n", "t.csv:2: timestamp is 'noon'; expected a time"),
    "bytes": ("start_s,rate_per_s\n0,\xff\n", "t.csv:2: byte 0xff is not valid UTF-8"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_a_table_are_named_with_their_line(case: str, tmp_path: Path) -> None:
    text, message = MISTAKES[case]
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError) as caught:
        read_rates("t.csv", base=tmp_path)
    assert str(caught.value).startswith(message)


def test_a_table_has_so_many_rows_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(RATES + "".join(f"{i},1,1\n" for i in range(5)))
    monkeypatch.setattr(tables, "MAX_ROWS", 5)
    assert read_rates("t.csv", base=tmp_path).expected == 5.0
    monkeypatch.setattr(tables, "MAX_ROWS", 4)
    with pytest.raises(TraceError, match=r"^t\.csv: the table has more than 4 rows"):
        read_rates("t.csv", base=tmp_path)


def test_mistakes_in_a_scenario_are_one_sentence() -> None:
    both = {"file": WEEK, "intervals": [{"start_s": 0.0, "rate_per_s": 1.0}], "end_s": 9.0}
    for given_, message in (
        (both, "give exactly one of file and intervals"),
        ({}, "give exactly one of file and intervals"),
        ({"intervals": both["intervals"]}, "a single interval needs end_s"),
        ({"intervals": both["intervals"] * 2}, "must ascend"),
    ):
        with pytest.raises(ValidationError, match=message):
            RatesArrivals.model_validate(given_)
    for arrivals, more, message in (
        (STEPS, {"duration_s": 251.0}, "workload.duration_s: the table of rates ends 250 s after"),
        (STEPS.model_copy(update={"start_s": 250.0}), {}, "arrivals.start_s: the table of rates"),
        (table((0.0, 0.0), (9.0, 0.0)), {}, "workload.arrivals: all rates of the table are zero"),
        (table((0.0, 1.0), (9.0, 0.0), end_s=5.0), {}, "workload.arrivals.end_s: the last interv"),
        (RatesArrivals(file=WEEK, end_s=100.0), {}, f"{WEEK}:1009: the table's last row begins"),
        (RatesArrivals(file=WEEK, scale=1e5), {}, "requests are more than one run holds"),
        (table((0.0, 1e-12), end_s=1.0, repeat=True), {"requests": 9}, "would take longer than"),
    ):
        with pytest.raises((ScenarioError, TraceError), match=message):
            arrival_times(arrivals, rng(), **more)
    assert RatesArrivals(file=WEEK).scale * 1e5 * 361_382 > MAX_REQUESTS
    with pytest.raises(UnknownNameError, match=f"there is no table 'weak'.*shipped.*{WEEK}"):
        arrival_times(RatesArrivals(file="weak"), rng())


# --- lengths -------------------------------------------------------------------------------------


def over_time(tmp_path: Path, text: str, **more: Any) -> Any:
    (tmp_path / "l.csv").write_text(text)
    return read_over_time(LengthsOverTime(file=str(tmp_path / "l.csv"), **more), None, "lengths")


def test_lengths_are_straight_between_their_quantiles(tmp_path: Path) -> None:
    """0 to 100% from 100 over 200 (half) to 600: the mean is 0.5 · 150 + 0.5 · 400."""
    text = "start_s,input_p0,input_p50,input_p100,output_p10,output_p90\n0,100,200,600,20,60\n"
    made = over_time(tmp_path, text)
    row = made.rows(np.zeros(100_000))
    inputs, outputs = made.input.draw(row, rng()), made.output.draw(row, rng(2))
    assert inputs.mean() == pytest.approx(275.0, abs=4 * inputs.std() / math.sqrt(1e5))
    for level, value in ((0.25, 150.0), (0.5, 200.0), (0.75, 400.0)):
        assert (inputs <= value).mean() == pytest.approx(level, abs=0.01)
    assert inputs.min() >= 100
    assert inputs.max() <= 600
    assert (outputs == 20).mean() == pytest.approx(0.1 + 0.5 / 50, abs=0.01)  # flat outside
    assert (outputs == 60).mean() == pytest.approx(0.1 + 0.5 / 50, abs=0.01)


def test_lengths_follow_the_time(tmp_path: Path) -> None:
    text = "start_s,input_p50,output_mean,output_cv\n7200,10,50,0\n10800,20,90,0\n"
    held = over_time(tmp_path, text)
    assert held.rows(np.array([0.0, 3599.0, 3600.0, 9e9])).tolist() == [0, 0, 1, 1]
    anew = over_time(tmp_path, text, end_s=7200.0)
    row = anew.rows(np.array([0.0, 3600.0, 7199.0, 7200.0, 10_900.0]))
    assert row.tolist() == [0, 1, 1, 0, 1]
    assert anew.input.draw(row, rng()).tolist() == [10, 20, 20, 10, 20]
    assert anew.output.draw(row, rng()).tolist() == [50, 90, 90, 50, 90]


def test_means_are_log_normal(tmp_path: Path) -> None:
    made = over_time(tmp_path, "start_s,input_mean,output_mean\n0,500,100\n", cv=0.8)
    drawn = made.input.draw(made.rows(np.zeros(200_000)), rng())
    assert drawn.mean() == pytest.approx(500.0, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(0.8, rel=0.03)
    assert np.median(drawn) == pytest.approx(500 / math.sqrt(1 + 0.64), rel=0.02)
    assert drawn.min() >= 1


Q = "start_s,input_p50,input_p90,output_p50\n"
WRONG = {
    "unknown": ("start_s,prompt_p50\n0,5\n", "l.csv:1: there is no column 'prompt_p50'"),
    "falls": (Q + "0,9,5,5\n", "l.csv:2: input_p90 is '5'; expected no less than the quantile"),
    "zero": (Q + "0,0,5,5\n", "l.csv:2: input_p50 is '0'; expected a number of tokens from 1"),
    "missing": ("start_s,input_p50\n0,5\n", "l.csv:1: nothing says how long the output is"),
    "above": ("start_s,input_p101,output_p50\n0,5,5\n", "l.csv:1: input_p101 is no quantile"),
    "twice": ("start_s,input_p50,input_p50.0,output_p5\n0,5,5,5\n", "l.csv:1: two columns say"),
    "cv": ("start_s,input_mean,input_cv,output_p5\n0,5,101,5\n", "l.csv:2: input_cv is '101'"),
    "alone": ("start_s,input_mean,output_mean\n0,5,5\n", "lengths.cv: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_in_lengths_are_named(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises((TraceError, ScenarioError)) as caught:
        over_time(tmp_path, text)
    assert message in str(caught.value)


def test_lengths_over_time_need_times() -> None:
    closed = {"kind": "closed_loop", "concurrency": 2}
    lengths = {"kind": "over_time", "file": LENGTHS}
    with pytest.raises(ValidationError, match="need arrivals whose times are known"):
        SyntheticWorkload.model_validate({"requests": 5, "arrivals": closed, "lengths": lengths})
    job = {"kind": "batch", "requests": 5, "max_in_flight": 1, "lengths": lengths}
    with pytest.raises(ValidationError, match="a batch job comes at one time"):
        Scenario.model_validate({"model": "llama-3.1-8b", "hardware": "l4", "workload": job})


# --- a recorded week -----------------------------------------------------------------------------

DAYS = [46_401, 14_457, 62_469, 32_205, 76_757, 97_682, 31_411]
"""Requests of each day: of the source's rates, times 600 s."""


def week(**more: Any) -> SyntheticWorkload:
    return SyntheticWorkload.model_validate(
        {"arrivals": {"kind": "rates", "file": WEEK, **more},
         "lengths": {"kind": "over_time", "file": LENGTHS}}
    )  # fmt: skip


def test_tables_are_listed_with_their_licence() -> None:
    assert table_names() == sorted(TABLES) == [WEEK, LENGTHS]
    readme = find_table(WEEK).parent.joinpath("README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for name in TABLES)
    assert "Apache License 2.0" in readme
    assert "ServeGen" in readme


def test_the_week_is_the_sources() -> None:
    with find_table(WEEK).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["start_s"]) for row in rows] == list(range(0, 604_800, 600))
    counts = np.array([int(row["requests"]) for row in rows])
    assert counts.reshape(7, 144).sum(axis=1).tolist() == DAYS
    assert sum(DAYS) == 361_382
    # What the source says of some intervals: rate (requests/s) and cv.
    for at_s, rate, cv in (
        (0, 0.135, "2.176"), (76_200, 1.705, "1.230"), (153_600, 0.32666666666666666, "0.991"),
        (254_400, 2.1533333333333333, "1.215"), (421_800, 1.8683333333333334, "1.223"),
        (513_600, 3.5433333333333334, "1.268"), (604_200, 0.6616666666666666, "1.264"),
    ):  # fmt: skip
        row = rows[at_s // 600]
        assert int(row["requests"]) == pytest.approx(600 * rate)
        assert row["cv"] == f"{float(cv):g}"
    assert all(bool(row["cv"]) == (int(row["requests"]) > 0) for row in rows)


def test_the_week_comes_as_recorded() -> None:
    requests = build_requests(week(), rng())
    found = np.histogram(requests.arrival_s, 86_400 * np.arange(8))[0]
    # Counts of gamma renewals vary by cv² of the mean; cv is about 1.25.
    assert (np.abs(found - DAYS) < 4 * 1.3 * np.sqrt(DAYS)).all()
    assert requests.input_tokens.mean() == pytest.approx(2136, rel=0.02)
    assert requests.output_tokens.mean() == pytest.approx(264, rel=0.02)
    again = build_requests(week(), rng())
    assert np.array_equal(again.arrival_s, requests.arrival_s)
    assert np.array_equal(again.input_tokens, requests.input_tokens)


def test_a_part_of_the_week_has_its_lengths() -> None:
    """The fourth morning's prompts are shorter than those of other times."""
    morning = {"start_s": 280_800.0}
    part = week(**morning).model_copy(update={"duration_s": 21_600.0})
    requests = build_requests(part, rng())
    assert len(requests) == pytest.approx(6_300, rel=0.1)
    # The median that its row says; in the six hours before it is 2,238.
    error = 0.5 / math.sqrt(len(requests))
    assert (requests.input_tokens <= 1291).mean() == pytest.approx(0.5, abs=4 * error)


def test_other_kinds_of_traffic_follow_tables_as_well() -> None:
    arrivals = {"kind": "rates", "file": WEEK, "start_s": 36_000.0}
    lengths = {"kind": "over_time", "file": LENGTHS}
    queue = QueueWorkload.model_validate(
        {"duration_s": 3600.0, "arrivals": arrivals, "lengths": lengths, "max_in_flight": 4}
    )
    assert len(build_requests(queue, rng())) == pytest.approx(0.55 * 3600, rel=0.15)
    several = SyntheticWorkload.model_validate(
        {"duration_s": 3600.0, "arrivals": arrivals, "lengths": lengths, "samples": {"n": 3}}
    )
    made = build_requests(several, rng())
    outputs = made.output_tokens.reshape(-1, 3)
    assert np.abs(np.corrcoef(outputs.T)[0, 1]) < 0.1
    assert outputs.mean(axis=0) == pytest.approx(np.full(3, 260), rel=0.15)


# --- scaling by forecasts ------------------------------------------------------------------------


def scaled(forecast: dict[str, Any]) -> dict[str, Any]:
    """Two days of a made-up service whose every day has the same plateau at once."""
    day = {"kind": "rates", "intervals": [{"start_s": 0.0, "rate_per_s": 0.2},
           {"start_s": 1000.0, "rate_per_s": 12.0}, {"start_s": 2000.0, "rate_per_s": 0.2}],
           "end_s": 3000.0, "repeat": True}  # fmt: skip
    fixed = {"kind": "fixed", "tokens": 200}
    scenario = Scenario.model_validate({
        "model": "llama-3.1-8b", "hardware": "l4",
        "workload": {"kind": "synthetic", "duration_s": 6000.0, "arrivals": day,
                     "lengths": {"kind": "independent", "input": fixed, "output": fixed}},
        "deployment": {
            "router": {"kind": "least_outstanding"},
            "cold_start": {"provisioning_s": 120.0},
            "autoscaling": {"kind": "predictive", "requests_per_s": 2.0, "max": 8,
                            "down_window_s": 60.0, "forecast": forecast},
        },
        "slo": {"ttft_ms": 2000.0},
    })  # fmt: skip
    return simulate(scenario, intervals=False).summary()


def test_forecasts_understand_tables() -> None:
    """A perfect forecast starts replicas a cold start before the plateau; last interval's rate
    (seasonal, on the first day) only when it is there; on the second day seasonal knows it."""
    perfect = scaled({"kind": "perfect"})
    seasonal = scaled({"kind": "seasonal", "period_s": 3000.0})
    blind = scaled({"kind": "seasonal", "period_s": 86_400.0})
    missed = [1 - run["slo"]["goodput_share"] for run in (perfect, seasonal, blind)]
    assert missed[0] < 0.002 < missed[1] < 0.7 * missed[2]
    for run in (perfect, seasonal, blind):
        assert run["fleet"]["starts"] > 0


# --- the command ---------------------------------------------------------------------------------


def test_a_table_is_described_and_listed() -> None:
    told = CliRunner().invoke(cli, ["trace", WEEK, "--json"])
    assert told.exit_code == 0, told.output
    description = json.loads(told.output)
    assert description["requests"] == pytest.approx(361_382)
    assert description["by_day"] == pytest.approx(DAYS)
    assert description["peak_per_s"] == pytest.approx(2126 / 600)
    assert description["peak_at_s"] == 513_600
    assert description["cv_mean"] == pytest.approx(1.25, abs=0.03)
    refused = CliRunner().invoke(cli, ["trace", WEEK, "--requests", "5"])
    assert refused.exit_code == 2
    assert "which is described as a whole" in refused.output
    listed = CliRunner().invoke(cli, ["list", "tables"])
    assert WEEK in listed.output
