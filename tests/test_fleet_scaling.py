"""Decisions of autoscalers, and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.cluster.scaling import (
    Holt,
    Observed,
    Perfect,
    Seasonal,
    Stabilizer,
    make_scaler,
    target_tracking,
)
from simulator.cluster.starting import Life, Start
from simulator.errors import UserError
from simulator.results.figures import over_time
from simulator.results.record import COMPLETED
from simulator.scenario import load_scenario
from simulator.scenario.lifecycle import (
    ConcurrencyScaling,
    HoltForecast,
    PerfectForecast,
    PredictiveScaling,
    QueueScaling,
    ScheduledCount,
    ScheduleScaling,
    SeasonalForecast,
    UtilizationScaling,
)
from simulator.simulation import simulate
from tests.fleet_rig import changes, decisions, lives_of, run
from tests.rig import requests

NOTHING = np.zeros(0)


def seen(now: float, replicas: int, **values: Any) -> Observed:
    """An interval in which nothing was there but what is said."""
    none = {"requests": 0.0, "present": 0, "waiting": 0, "busy": 0.0, "rate": 0.0}
    return Observed(now, replicas, **(none | values))


# --- the formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "metric", "wanted"),
    [
        (4, 4 * 100, 4),  # as it should be
        (4, 4 * 200, 8),  # twice the target: twice as many
        (4, 4 * 50, 2),  # half of it: half as many
        (4, 4 * 109, 4),  # within the tolerance of 10%
        (4, 4 * 111, 5),  # beyond it: 4.44, rounded up
        (10, 10 * 89, 9),
        (0, 250, 3),
        (3, 0, 0),
    ],
)
def test_desired_is_current_times_metric_over_target(
    replicas: int, metric: float, wanted: int
) -> None:
    """The examples are those of the documentation of the Horizontal Pod Autoscaler."""
    assert target_tracking(replicas, metric, 100.0, 0.1) == wanted


def test_the_stabilization_window_takes_the_highest_recent_wish_before_it_falls() -> None:
    falling = Stabilizer(0.0, 30.0)
    assert falling.settle(0.0, 5, 5) == 5
    assert falling.settle(15.0, 5, 2) == 5
    assert falling.settle(30.0, 5, 3) == 5
    assert falling.settle(45.0, 5, 1) == 3  # of 2, 3 and 1
    assert falling.settle(90.0, 3, 1) == 1
    rising = Stabilizer(20.0, 0.0)
    assert [rising.settle(at, 1, wish) for at, wish in ((0.0, 1), (10.0, 4), (25.0, 3))] == [
        1,
        1,
        3,
    ]


def test_a_step_of_load_gives_the_known_sequence() -> None:
    """Forty requests come at 20 s, and ten are meant for each replica. The mean of the interval
    from 15 to 30 is 40 · 2/3 = 26.7, so three; then 40, so four. They end at 102, the last decision
    that wants four is that of 105, and 30 s later it is out of the window."""
    scaling = ConcurrencyScaling(target=10.0, min=1, max=8, tolerance=0.0, down_window_s=30.0)
    asked = requests(*((20.0, 4, 79) for _ in range(40)), (160.0, 4, 1))
    record = run(asked, Life(1, scaling=scaling), seqs=64)
    assert decisions(record) == [(0.0, 1), (30.0, 3), (45.0, 4), (150.0, 1)]
    assert (record.outcome == COMPLETED).all()


def test_changes_wait_for_the_cooldown() -> None:
    scaling = ConcurrencyScaling(
        target=10.0, min=1, max=8, tolerance=0.0, cooldown_s=60.0, down_window_s=0.0
    )
    asked = requests(*((20.0, 4, 79) for _ in range(40)))
    record = run(asked, Life(1, scaling=scaling), seqs=64)
    times = [at for at, _ in decisions(record)]
    assert times[1:3] == [30.0, 90.0]
    assert (np.diff(times[1:]) >= 60.0).all()


def test_every_kind_looks_at_its_own_metric() -> None:
    common: dict[str, Any] = {"max": 100, "tolerance": 0.0}
    observed = seen(15.0, 2, requests=60.0, present=70, waiting=33, busy=1.5, rate=7.0)
    for settings, wanted in (
        (ConcurrencyScaling(target=10.0, **common), 6),
        (QueueScaling(target=10.0, **common), 4),
        (UtilizationScaling(target=0.25, **common), 6),
        (PredictiveScaling(requests_per_s=0.5, **common), 14),
    ):
        assert make_scaler(settings, 0.0, NOTHING).wanted(observed) == wanted, settings.kind


# --- forecasts -----------------------------------------------------------------------------------


def test_holt_goes_on_with_a_trend() -> None:
    """A rate that rises by 2 each interval, looked at two intervals ahead."""
    forecast = Holt(HoltForecast(level=1.0, trend=1.0), 10.0)
    found = [forecast.highest(seen(t, 1, rate=r), 20.0) for t, r in enumerate((1.0, 3.0, 5.0))]
    assert found == [1.0, 7.0, 9.0]
    assert (
        forecast.highest(seen(3.0, 1, rate=4.0), 20.0) == 4.0
    )  # falling: what is there now counts


def test_the_seasonal_forecast_repeats_the_last_period() -> None:
    forecast = Seasonal(SeasonalForecast(period_s=40.0), 10.0)
    rates = [1.0, 5.0, 2.0, 9.0, 1.0, 5.0]
    found = [forecast.highest(seen(10.0 * i, 1, rate=r), 20.0) for i, r in enumerate(rates)]
    assert found == [1.0, 5.0, 2.0, 5.0, 5.0, 9.0]


def test_the_perfect_forecast_knows_the_traffic() -> None:
    forecast = Perfect(np.array([1.0, 12.0, 13.0, 14.0, 25.0]), 10.0)
    assert forecast.highest(seen(0.0, 1), 20.0) == 0.3
    assert forecast.highest(seen(20.0, 1), 20.0) == 0.1


def test_who_knows_the_day_starts_before_the_peak() -> None:
    """The same replicas, but a cold start earlier, so that fewer requests find too few of them."""
    rng = np.random.default_rng(1)
    quiet, busy = np.sort(rng.uniform(0, 600, 60)), np.sort(rng.uniform(600, 900, 600))
    asked = requests(*((float(at), 4, 5) for at in (*quiet, *busy)))
    common: dict[str, Any] = {"max": 20, "requests_per_s": 0.5, "down_window_s": 60.0}
    late = {}
    for forecast in (HoltForecast(), PerfectForecast()):
        scaling = PredictiveScaling(forecast=forecast, **common)
        record = run(asked, Life(1, Start(60.0), scaling), seqs=2)
        late[forecast.kind] = float(np.mean(record.first_token_s - record.sent_s))
        found = [at for at, count in decisions(record) if count >= 3]
        assert (found[0] <= 600.0) == (forecast.kind == "perfect")
    assert late["perfect"] < 0.5 * late["holt"]


# --- timetables ----------------------------------------------------------------------------------


def test_a_timetable_repeats() -> None:
    table = ScheduleScaling(
        steps=(ScheduledCount(at_s=10.0, replicas=3), ScheduledCount(at_s=40.0, replicas=1)),
        period_s=100.0,
    )
    record = run(requests((0.0, 4, 1), (250.0, 4, 1)), Life(1, scaling=table))
    assert decisions(record) == [
        (0.0, 1), (10.0, 3), (40.0, 1), (110.0, 3), (140.0, 1), (210.0, 3), (240.0, 1),
    ]  # fmt: skip
    up = sum(1 for _, _, state in changes(record) if state == "up")
    assert up == 1 + 3 * 2


# --- through the front door ----------------------------------------------------------------------

DAY = "examples/autoscaling-day-8b-l4.yaml"


def test_cost_is_the_integral_of_held_devices() -> None:
    """And so are device-hours, in the summary as in the columns."""
    scenario = load_scenario(DAY, ["workload.requests=4000", "workload.arrivals.period_s=3000"])
    result = simulate(scenario, intervals=False)
    result.check_integrity()
    summary, record, window = result.summary(), result.record, result.window
    assert record.held is not None
    inside = np.minimum(record.held[:, 2], window.end_s) - np.maximum(
        record.held[:, 1], window.start_s
    )
    hours = float(np.maximum(inside, 0.0).sum()) / 3600.0
    fleet = summary["fleet"]
    assert fleet["device_hours"] == pytest.approx(hours)
    assert summary["cost"]["usd"] == pytest.approx(hours * summary["cost"]["usd_per_device_hour"])
    assert fleet["replicas_mean"] == pytest.approx(hours * 3600 / window.duration_s)
    assert fleet["replicas_mean"] >= fleet["up_mean"] > 0
    assert fleet["start_s"]["mean"] >= 90 + 30 + 40
    # Idle power is that of held devices, too.
    assert summary["energy"]["power_w_mean_per_device"] > 0
    law = summary["checks"]["littles_law"]
    assert law["l"] == pytest.approx(law["lambda_w"], rel=0.02)


def test_weights_take_their_bytes_over_the_rate() -> None:
    """16 GB over 1 GB/s, besides what the other parts take."""
    scenario = load_scenario("examples/scale-to-zero-70b-h100.yaml", ["workload.requests=40"])
    result = simulate(scenario, intervals=False)
    weights = result.deployment.memory.weights_gib * 2**30 * 4  # of four devices
    starts = lives_of(result.record).starts()
    np.testing.assert_allclose(starts[:, 2] - starts[:, 1], 60 + 20 + 45 + weights / 5e9)
    waited = lives_of(result.record).waited
    first = int(waited[0, 0])
    assert waited[0, 2] - waited[0, 1] == pytest.approx(60 + 20 + 45 + weights / 5e9)
    # TTFT of the request that found nothing is the cold start and what a warm replica takes.
    assert result.times.ttft_ms[first] / 1e3 == pytest.approx(waited[0, 2] - waited[0, 1], abs=0.2)


def test_the_same_scenario_gives_the_same_fleet() -> None:
    asked = ["workload.requests=3000", "deployment.spot.interruptions_per_hour=20"]
    one, two = (
        simulate(load_scenario("examples/spot-8b-l4.yaml", asked), intervals=False)
        for _ in range(2)
    )
    assert one.summary() == two.summary()
    assert one.summary()["fleet"]["interruptions"] > 3


def test_a_table_of_what_happened(tmp_path: Any) -> None:
    scenario = load_scenario("examples/failover-8b-h100.yaml", ["workload.requests=15000"])
    result = simulate(scenario, intervals=False)
    names = {path.name for path in result.save(tmp_path, ["csv", "parquet", "report"])}
    assert {"replicas.csv", "replicas.parquet"} <= names
    rows = (tmp_path / "replicas.csv").read_text().splitlines()
    assert rows[4] == '300,"default",0,"down",3,2'
    assert 'id="replicas"' in (tmp_path / "report.html").read_text()
    plain = simulate(load_scenario("chat-8b-h100", ["workload.slice.requests=20"]), intervals=False)
    assert not any(path.name.startswith("replicas") for path in plain.save(tmp_path, ["csv"]))


@pytest.mark.parametrize(
    ("changes_", "message"),
    [
        (["deployment.replicas=3"], "either replicas or autoscaling"),
        (["deployment.autoscaling.min=9"], "above max"),
        (["deployment.autoscaling.initial=0"], "outside min..max"),
        (["deployment.autoscaling=null"], "cold_start changes nothing"),
        (["deployment.retry={}"], "retry changes nothing"),
        (["deployment.autoscaling=null", "deployment.cold_start={}",
          "deployment.gateway.max_queue=3"], "max_queue changes nothing"),
        (["deployment.failures={outages: [{replica: 6, at_s: 1, for_s: 1}]}"], "no replica 6"),
        (["deployment.failures={detection_s: 1}"], "mtbf_h, outages"),
        (["deployment.autoscaling={kind: schedule, steps: [{at_s: 0, replicas: 1}, "
          "{at_s: 100, replicas: 0}]}"], "none would ever serve"),
        (["deployment.failures={mtbf_h: 1}", "deployment.retry.mode=resume",
          "engine.policy={kind: static, batch_size: 4}"], "cannot go on"),
        (["deployment.pools=[{name: a, role: prefill}, {name: b, role: decode}]"],
         "serve whole requests"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(changes_: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        simulate(load_scenario(DAY, changes_), intervals=False)


def test_the_figure_of_replicas_holds_the_integral() -> None:
    scenario = load_scenario(DAY, ["workload.requests=2000", "workload.arrivals.period_s=3000"])
    result = simulate(scenario, intervals=False)
    held, up = over_time(result)["replicas"]["traces"]
    record = result.record
    assert record.held is not None
    seconds = float((record.held[:, 2] - record.held[:, 1]).sum())
    assert np.mean(held["y"]) == pytest.approx(seconds / record.end_s, rel=1e-3)
    assert np.mean(up["y"]) < np.mean(held["y"])


def test_a_start_in_no_time_is_told() -> None:
    asked = ["workload.requests=2000", "workload.arrivals.period_s=3000"]
    notes = {}
    for start in ("{}", "{boot_s: 5}"):
        scenario = load_scenario(DAY, [*asked, f"deployment.cold_start={start}"])
        notes[start] = " ".join(simulate(scenario, intervals=False).summary()["notes"])
    assert "started in no time" in notes["{}"]
    assert "started in no time" not in notes["{boot_s: 5}"]


def test_check_tells_how_many_and_how_long_a_start_takes() -> None:
    from click.testing import CliRunner

    from simulator.cli import cli

    told = CliRunner().invoke(cli, ["check", DAY, "--set", "workload.requests=100"]).output
    assert "1 at the start, 6 at most, of 1 device each" in told
    assert "6 × NVIDIA L4" in told
    assert "cold start" in told
    assert "176.1 s" in told
