"""Knee and highest rate are where queueing theory has them, and where looking everywhere finds them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from simulator.cli import cli
from simulator.cli.load import parse_limit
from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.planner.jobs.work import Work
from simulator.planner.loads.highest import highest_rate
from simulator.planner.loads.load import load_curve
from simulator.planner.loads.load_task import task_at
from simulator.planner.loads.stretch import step_factors, stretched
from simulator.scenario import Scenario, dump_scenario, load_scenario
from tests.test_queueing import STEP_S, erlang_c, poisson, serve

Answer = Callable[[float, int], float]
"""Mean E2E in seconds at a rate, for a seed."""


def chat(rate_per_s: float = 6.0, requests: int = 400, **changed: Any) -> Scenario:
    document: dict[str, Any] = {
        "name": "chat",
        "model": "llama-3.1-8b",
        "hardware": "l40s",
        "engine": {"profile": "vllm", "max_num_seqs": 32, "prefix_caching": False},
        "workload": {
            "kind": "synthetic",
            "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "lognormal", "mean": 500, "cv": 0.8},
                "output": {"kind": "fixed", "tokens": 60},
            },
            "requests": requests,
        },
        "slo": {"ttft_ms": 800, "tpot_ms": 60},
    }
    return load_scenario(document | changed)


class Formula:
    """A workplace where a deployment is a queue that has a formula."""

    def __init__(self, e2e_s: Answer, capacity_per_s: float) -> None:
        self.e2e_s = e2e_s
        self.capacity = capacity_per_s
        self.done: list[float] = []

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        return [self._outcome(task) for task in tasks]

    def _outcome(self, task: Task) -> Outcome:
        rate = task.scenario.workload.arrivals.rate_per_s  # type: ignore[union-attr]
        self.done.append(rate)
        stable = rate < self.capacity
        mean_ms = 1e3 * self.e2e_s(rate, task.scenario.measurement.seed) if stable else 1e9
        counted = {"counted": 1000, "counted_by_outcome": {"completed": 1000}}
        return Outcome(
            task.key,
            {
                "latency": {"e2e_ms": {"mean": mean_ms, "p99": 4.6 * mean_ms}},
                "throughput": {
                    "sent_requests_per_s": rate, "requests_per_s": min(rate, self.capacity),
                },
                "requests": counted,
                "checks": {"backlog_grows": not stable},
                "simulated": {"traffic": {"concurrency": None}},
            },
        )  # fmt: skip


def mm1(service_s: float) -> Formula:
    return Formula(lambda rate, _: service_s / (1 - rate * service_s), 1 / service_s)


def md1(service_s: float) -> Formula:
    def e2e_s(rate: float, _: int) -> float:
        load = rate * service_s
        return service_s * (1 + load / (2 * (1 - load)))

    return Formula(e2e_s, 1 / service_s)


def mmc(service_s: float, servers: int) -> Formula:
    def e2e_s(rate: float, _: int) -> float:
        load = rate * service_s
        return service_s * (1 + erlang_c(servers, load) / (servers - load))

    return Formula(e2e_s, servers / service_s)


# --- the knee ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.3, 2.0, 40.0])
def test_the_knee_of_mm1_is_half_of_its_capacity(start: float) -> None:
    """Kleinrock's: throughput / latency = ρ(1 − ρ)."""
    curve = load_curve(chat(start), mm1(0.1))
    assert curve.knee is not None
    assert curve.knee.rate_per_s == pytest.approx(5.0, rel=0.02)
    assert curve.knee.over_least == pytest.approx(2.0, rel=0.15)  # over that of a tenth
    assert curve.saturation_per_s == pytest.approx(10.0, rel=0.05)


def test_the_knee_of_md1() -> None:
    """ρ·2(1 − ρ)/(2 − ρ) is highest where 2 − 4ρ + ρ² = 0."""
    knee = load_curve(chat(), md1(0.1)).knee
    assert knee is not None
    assert knee.rate_per_s == pytest.approx(10 * (2 - math.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("servers", [2, 16])
def test_the_knee_of_mmc(servers: int) -> None:
    work = mmc(1.0, servers)
    rates = np.linspace(0.01, 0.999, 5000) * servers
    best = rates[np.argmax([rate / work.e2e_s(rate, 0) for rate in rates])]
    knee = load_curve(chat(), work).knee
    assert knee is not None
    assert knee.rate_per_s == pytest.approx(best, rel=0.02)


class Clock(Formula):
    """M/D/1 on the clock: an engine whose steps all take the same time, one seat, one token."""

    def __init__(self) -> None:
        super().__init__(self._simulated, 1 / STEP_S)

    def _simulated(self, rate: float, seed: int) -> float:
        requests = poisson(np.random.default_rng(seed), rate, np.ones(20_000, dtype=np.int64))
        record = serve(requests, seqs=1)
        return float((record.finish_s - record.sent_s)[1000:].mean())


def test_the_knee_and_the_highest_rate_of_a_simulated_md1() -> None:
    work = Clock()
    scenario = chat(0.4 / STEP_S)
    knee = load_curve(scenario, work).knee
    assert knee is not None
    assert knee.rate_per_s * STEP_S == pytest.approx(2 - math.sqrt(2), rel=0.05)
    # E2E of 2.5 steps: 1 + ρ / (2(1 − ρ)) = 2.5 where ρ = 3/4.
    limit = Constraint(metric="e2e_ms.mean", max=2500 * STEP_S)
    found = highest_rate(scenario, [limit], work, tolerance=0.02, interval=False)
    assert found.rate_per_s is not None
    assert found.rate_per_s * STEP_S == pytest.approx(0.75, rel=0.04)


def test_points_rise_and_say_where_it_stops_to_keep_up() -> None:
    curve = load_curve(chat(), mm1(0.1))
    rates = [point.rate_per_s for point in curve.points]
    assert rates == sorted(rates)
    assert rates[0] < 1.5
    assert rates[-1] > 11
    assert [point.keeps_up for point in curve.points] == [rate < 10 for rate in rates]
    json.dumps(curve.as_dict(), allow_nan=False)


def test_a_closed_loop_is_told_in_users() -> None:
    arrivals = {"kind": "closed_loop", "concurrency": 8}
    workload = chat().workload.model_dump() | {"arrivals": arrivals, "requests": 200}
    with Work(LocalBackend(1)) as work:
        curve = load_curve(chat(workload=workload, slo={}), work, quick=True)
        users = [point.users for point in curve.points]
        assert users == sorted(set(users))
        assert all(isinstance(each, int) for each in users)
        assert curve.knee is not None
        assert curve.knee.users in range(users[0], users[-1] + 1)
        limit = Constraint(metric="tpot_ms.p50", max=30)
        found = highest_rate(
            chat(workload=workload, slo={}), [limit], work, seeds=1, interval=False
        )
        assert found.users is not None
        assert found.factor == found.users / 8
        # Nothing but looking at every number of users.
        for extra, holds in ((0, True), (max(1, math.ceil(0.05 * found.users)) + 1, False)):
            outcome = do_task(task_at(chat(workload=workload, slo={}), (found.users + extra) / 8))
            assert limit.holds(limit.value(outcome.summary)) == holds


# --- the highest rate ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.001, 1.0, 3000.0])
def test_the_highest_rate_of_mm1(start: float) -> None:
    """A mean of L is held up to ρ = 1 − service / L."""
    limit = Constraint(metric="e2e_ms.mean", max=500)
    work = mm1(0.1)
    found = highest_rate(chat(start), [limit], work, interval=False)
    assert found.rate_per_s is not None
    assert 8.0 / 1.05 <= found.rate_per_s <= 8.0
    assert found.factor is not None
    assert found.fails_at_factor is not None
    assert found.fails_at_factor / found.factor <= 1.05
    assert found.limits == ("E2E latency mean ≤ 500 ms",)
    assert found.binding.startswith("E2E latency mean is 5")
    assert len(work.done) == found.simulations < 30


def test_chance_widens_the_answer() -> None:
    """Seeds whose service differs: between what all of them bear and what none does."""
    noisy = Formula(lambda rate, seed: 0.1 * (1 + 0.1 * (seed - 1)) / (1 - rate * 0.1), 10.0)
    limit = Constraint(metric="e2e_ms.mean", max=470)
    found = highest_rate(chat(1.0), [limit], noisy, interval=False)
    assert found.by_chance is not None
    assert found.rate_per_s is not None
    low, high = (found.rate_per_s * side for side in found.by_chance)
    best = 10 * (1 - 100 / 470)
    assert best / 1.05 <= found.rate_per_s <= best
    assert 0.8 * best < low < best < high < 1.1 * best


def test_seeds_agree_with_looking_everywhere() -> None:
    """A real deployment: every rate below the answer holds, 5% above it does not."""
    scenario = chat(1.0)
    with Work(LocalBackend(1)) as work:
        found = highest_rate(scenario, (), work, seeds=1, interval=False)
    assert found.factor is not None
    factors = found.factor * np.array([0.25, 0.5, 0.75, 0.9, 1.0, 1.06, 1.3, 2.0])
    held = [do_task(task_at(scenario, f)).summary["slo"]["held"] for f in factors.tolist()]
    assert held == [True] * 5 + [False] * 3


def test_the_number_of_workers_changes_nothing() -> None:
    found = []
    for workers in (1, 2):
        with Work(LocalBackend(workers)) as work:
            found.append(highest_rate(chat(), (), work))
    assert found[0] == found[1]
    assert found[0].by_prediction is not None
    low, high = found[0].by_prediction
    assert low < 1.0 < high


def test_no_rate_holds() -> None:
    limit = Constraint(metric="e2e_ms.mean", max=50)
    found = highest_rate(chat(), [limit], mm1(0.1), interval=False)
    assert found.rate_per_s is None
    assert found.factor is None
    assert found.verdict.startswith("No rate holds: even at 0.2% of the traffic E2E latency mean")


def test_no_rate_is_too_high() -> None:
    limit = Constraint(metric="e2e_ms.mean", max=1e12)
    endless = Formula(lambda *_: 0.1, math.inf)
    found = highest_rate(chat(), [limit], endless, interval=False)
    assert found.rate_per_s is None
    assert found.verdict.startswith("There is no highest rate: at")


# --- slower time ---------------------------------------------------------------------------------


def test_longer_steps_are_slower_time() -> None:
    """What ``stretched`` rests on: with all times 1.5 times as long, a rate gives 1.5 times the
    latencies of 1.5 times the rate."""
    from simulator.cluster import FrontEndTimes, run_groups
    from simulator.costs.scaled import scaled
    from simulator.resolution.pools import group_of, resolve_pools
    from simulator.workload import build_requests

    def e2e(rate: float, factor: float) -> Any:
        scenario = chat(rate)
        (pool,) = resolve_pools(scenario)
        front = FrontEndTimes(*(factor * part for part in pool.resolved.front_end))
        group = group_of(pool, scaled(pool.resolved.cost, factor, factor), front)
        requests = build_requests(scenario.workload, np.random.default_rng(0))
        record = run_groups(requests, [group])
        return record.finish_s - record.sent_s

    assert e2e(4.0, 1.5) == pytest.approx(1.5 * e2e(6.0, 1.0), rel=1e-6)


def test_limits_move_with_time() -> None:
    limits = [
        Constraint(metric="ttft_ms.p99", max=300),
        Constraint(metric="throughput.output_tokens_per_s", min=100),
        Constraint(metric="cost.usd_per_million_output_tokens", max=6),
        Constraint(metric="slo.goodput_share", min=0.9),
    ]
    scenario, moved = stretched(chat(), limits, 1.5)
    assert [limit.limit for limit in moved] == pytest.approx([200, 150, 4, 0.9])
    assert scenario.slo.ttft_ms == pytest.approx(800 / 1.5)
    assert scenario.slo.e2e_ms is None


def test_step_factors_are_weighed_by_time() -> None:
    summary = {
        "uncertainty": {
            "step_time_factor": {"with_prompts": [0.8, 1.4], "decode_only": [0.9, 1.2]}
        },
        "utilization": {
            "steps_with_prompts": {"share_of_busy_time": 0.25},
            "decode_only_steps": {"share_of_busy_time": 0.75},
        },
    }
    assert step_factors(summary) == pytest.approx((0.875, 1.25))
    assert step_factors({"uncertainty": None}) is None


# --- mistakes ------------------------------------------------------------------------------------


def workload(**changed: Any) -> dict[str, Any]:
    return chat().workload.model_dump() | changed


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        (chat(workload=workload(arrivals={"kind": "burst"})),
         "workload.arrivals: a burst comes all at once, so there is no rate to raise"),
        (chat(workload={"kind": "batch", "requests": 5, "max_in_flight": 2,
                        "lengths": workload()["lengths"]}),
         "workload: a batch job comes all at once"),
    ],
)  # fmt: skip
def test_what_comes_at_once_has_no_rate(scenario: Scenario, sentence: str) -> None:
    for ask in (load_curve, lambda s, w: highest_rate(s, (), w)):
        with pytest.raises(UserError) as caught:
            ask(scenario, mm1(0.1))
        assert str(caught.value).startswith(sentence)


def test_nothing_to_hold() -> None:
    with pytest.raises(UserError, match=r"^slo: there is no limit that a rate could exceed; give"):
        highest_rate(chat(slo={}), (), mm1(0.1))


def test_a_knee_of_something_that_is_no_latency() -> None:
    with pytest.raises(UserError, match=r"^metric cost\.usd: must be a latency and a statistic"):
        load_curve(chat(), mm1(0.1), metric="cost.usd")


def test_what_cannot_be_simulated_is_told() -> None:
    with Work(LocalBackend(1)) as work, pytest.raises(UserError, match=r"does not fit|needs"):
        highest_rate(chat(model="llama-3.1-405b"), (), work)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def scenario_file(tmp_path: Path) -> str:
    file = tmp_path / "chat.yaml"
    file.write_text(dump_scenario(chat(6.0, 150)))
    return str(file)


def test_the_command_writes_what_it_prints(scenario_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--quick", "--workers", "1", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, ["load", scenario_file, *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 100 + len(str(out))
    report = json.loads((out / "load.json").read_text())
    again = CliRunner().invoke(cli, ["load", scenario_file, *options, "--json"])
    assert json.loads(again.output) == report
    rows = list(csv.DictReader((out / "load.csv").read_text().splitlines()))
    points = report["curve"]["points"]
    assert [float(row["rate_per_s"]) for row in rows] == [p["rate_per_s"] for p in points]
    highest = report["highest"]
    assert highest["factor"] in [point["factor"] for point in points]
    page = (out / "load.html").read_text()
    assert page.count("<svg") == 2
    assert f"{highest['rate_per_s']:.3g} requests/s" in page
    assert "http" not in page
    ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


def test_without_limits_there_is_no_highest_rate(scenario_file: str) -> None:
    options = ["--set", "slo.ttft_ms=null", "--set", "slo.tpot_ms=null", "--quick", "--no-files"]
    done = CliRunner().invoke(cli, ["load", scenario_file, *options, "--no-store"])
    assert "no SLO and no --limit is given" in done.output


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("ttft_ms.p99", "must be a metric, <= or >=, and a number"),
        ("ttft_ms.p99<=soon", "'soon' is no number"),
        ("ttft<=5", "there is no metric 'ttft'; did you mean 'ttft_ms.p99'?"),
        ("chat:cost.usd<=5", "metric 'cost.usd' is not kept for each class"),
    ],
)
def test_limits_that_are_none(scenario_file: str, limit: str, sentence: str) -> None:
    done = CliRunner().invoke(cli, ["load", scenario_file, "--limit", limit, "--no-files"])
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: --limit {limit}: {sentence}")


def test_limits_are_read() -> None:
    limit = parse_limit("chat: ttft_ms.p99 <= 250")
    assert (limit.traffic_class, limit.metric, limit.max) == ("chat", "ttft_ms.p99", 250.0)
    limit = parse_limit("throughput.output_tokens_per_s>=1e3")
    assert (limit.traffic_class, limit.min) == (None, 1000.0)
