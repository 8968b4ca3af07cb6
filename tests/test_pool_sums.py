"""What pools did adds up to what the clients got, whatever kind of pools there are."""

from __future__ import annotations

import pytest

from simulator.errors import ScenarioError
from simulator.results import Result
from simulator.scenario import load_scenario
from simulator.simulation import simulate

WHOLE = ["measurement.warmup_fraction=0", "measurement.include_drain=true"]

RUNS = {
    "disaggregated-70b-h100": ["workload.requests=120"],
    "two-models-one-gpu": [
        "workload.classes.0.workload.requests=80", "workload.classes.1.workload.requests=80",
    ],
    "mixed-pools-8b": ["workload.requests=200"],
    "failover-8b-h100": [
        "workload.requests=300", "deployment.failures={mtbf_h: 0.003, repair_s: 3}",
        "deployment.retry.mode=restart",
    ],
}  # fmt: skip


def run(name: str, *changes: str) -> Result:
    result = simulate(load_scenario(name, [*RUNS[name], *WHOLE, *changes]), intervals=False)
    result.check_integrity()
    return result


@pytest.mark.parametrize("name", RUNS)
def test_tokens_of_the_whole_run_are_those_that_clients_got(name: str) -> None:
    result = run(name)
    summary = result.summary()
    got = int(result.record.generated.sum())
    assert summary["throughput"]["output_tokens"] == got
    if summary["pools"]:
        cost, tokens = summary["cost"]["usd"], summary["cost"]["usd_per_million_output_tokens"]
        assert tokens == pytest.approx(1e6 * cost / got)


def test_what_a_crash_throws_away_is_no_throughput() -> None:
    result = run("failover-8b-h100")
    summary = result.summary()
    assert result.record.lives is not None
    lost = int(result.record.lives.lost.tokens.sum())
    assert lost > 0
    steps = result.record.steps
    came = int((steps.first_tokens + steps.steps * steps.gap_tokens).sum())
    came += int(result.record.gaps.count.sum())
    assert summary["throughput"]["output_tokens"] == came - lost


def test_a_prefill_pool_delivers_no_token() -> None:
    prefill = run("disaggregated-70b-h100").summary()["pools"]["prefill"]
    assert prefill["cost"]["usd_per_million_output_tokens"] is None
    assert prefill["energy"]["joules_per_output_token"] is None


def test_a_jobs_cost_is_that_of_the_pool_that_did_it() -> None:
    pools = (
        "deployment.pools=[{name: chat, classes: [chat], replicas: 4},"
        "{name: rest, classes: [documents, reports], hardware: l40s}]"
    )
    few = ["workload.classes.0.workload.duration_s=20"]
    scenario = load_scenario("batch-beside-chat-8b-h100", [pools, *few])
    names = [c.name for c in scenario.workload.classes]  # type: ignore[union-attr]
    assert names == ["chat", "documents", "reports"]
    summary = simulate(scenario, intervals=False).summary()
    spent = sum(job["usd"] for job in summary["jobs"].values())
    assert spent == pytest.approx(summary["pools"]["rest"]["cost"]["whole_run_usd"])


def test_admission_control_beside_a_gateway_that_holds_requests_back_is_refused() -> None:
    with pytest.raises(ScenarioError, match="wait at the gateway"):
        simulate(load_scenario("admission-8b-l40s", ["deployment.gateway.max_concurrency=1"]))


def test_a_start_of_days_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no cold start"):
        simulate(
            load_scenario("scale-to-zero-70b-h100", ["deployment.cold_start.provisioning_s=1e9"])
        )
