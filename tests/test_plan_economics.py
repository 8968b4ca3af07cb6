"""Break-even points against closed forms and against sums done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli import cli
from simulator.errors import ScenarioError, UserError
from simulator.planner.economy.break_even import break_even, load_economics
from simulator.planner.economy.economics import (
    HOURS_PER_MONTH,
    Api,
    Owning,
    api_volume,
    capital_recovery,
    cheapest_mixture,
    owning_share,
    payback_months,
    reserved_share,
    sinking_fund,
    spot_interruptions_per_hour,
)
from simulator.planner.economy.facts import facts_of
from simulator.results import Result
from simulator.scenario import load_scenario
from simulator.simulation import simulate

PRICES = str(ROOT / "examples" / "economics" / "h100.yaml")

# --- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "years"), [(0.08, 4), (0.0, 5), (0.2, 2.5), (1e-12, 3)])
def test_annuities_pay_back_the_loan(rate: float, years: float) -> None:
    """Textbook annuity, and by adding the yearly payments up."""
    if rate > 1e-9:
        assert capital_recovery(rate, years) == pytest.approx(
            rate * (1 + rate) ** years / ((1 + rate) ** years - 1)
        )
        if years == int(years):
            paid = sum(capital_recovery(rate, years) / (1 + rate) ** k for k in range(1, 1 + years))
            assert paid == pytest.approx(1.0)
            saved = sum(sinking_fund(rate, years) * (1 + rate) ** k for k in range(int(years)))
            assert saved == pytest.approx(1.0)
    else:
        assert capital_recovery(rate, years) == sinking_fund(rate, years) == 1 / years
    # A loan on what the resale brings at the end bears interest alone.
    assert capital_recovery(rate, years) - sinking_fund(rate, years) == pytest.approx(
        rate, abs=1e-9
    )


def owning(**changes: Any) -> Owning:
    given_ = {
        "device_usd": 20_000.0, "server_factor": 1.5, "lifetime_years": 5.0,
        "interest_per_year": 0.0, "power_usd_per_kwh": 0.2, "pue": 1.5,
        "server_power_w_per_device": 300.0, "hosting_usd_per_kw_month": 100.0,
        "staff_share_per_year": 0.1,
    }  # fmt: skip
    return Owning.model_validate(given_ | changes)


def test_an_own_device_costs_capital_staff_room_and_energy() -> None:
    """$30,000 over 5 years, 10% of it a year, 1 kW of room, 0.8 kW · 1.5 of power."""
    own = owning()
    assert own.fixed_usd_per_device_hour(700.0) == pytest.approx((6000 + 3000 + 1200) / 8766)
    assert own.energy_usd_per_device_hour(500.0) == pytest.approx(0.8 * 1.5 * 0.2)
    resold = owning(resale_share=0.5)
    assert resold.capital_usd_per_device_year == pytest.approx(3000)
    lent = owning(interest_per_year=0.1)
    assert lent.capital_usd_per_device_year == pytest.approx(30_000 * 0.2637975, rel=1e-6)


def test_reserved_pays_above_its_price_over_the_other() -> None:
    assert reserved_share(2.0, 8.0) == 0.25
    assert reserved_share(8.0, 8.0) is None
    assert HOURS_PER_MONTH == 730.5


@given(
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7),
    reserved=st.floats(0.1, 5.0),
    demand=st.floats(0.1, 9.0),
)
def test_no_other_mixture_is_cheaper(shares: list[float], reserved: float, demand: float) -> None:
    shares = sorted(shares, reverse=True)
    found = cheapest_mixture(shares, reserved, demand)
    every = [
        k * reserved + sum(share * demand for share in shares[k:]) for k in range(len(shares) + 1)
    ]
    assert found.usd_per_hour == pytest.approx(min(every))
    assert every[found.reserved] == pytest.approx(min(every))
    assert found.all_on_demand_usd_per_hour == pytest.approx(every[0])
    assert found.all_reserved_usd_per_hour == pytest.approx(every[-1])


def test_spot_pays_for_starts_as_well() -> None:
    """At a third of the price and half an hour a start, an hour of service on spot costs as much
    at four interruptions an hour: (1 + 4 · 0.5) / 3 = 1."""
    assert spot_interruptions_per_hour(1.0, 3.0, 0.5) == pytest.approx(4.0)
    assert spot_interruptions_per_hour(3.0, 1.0, 0.5) == 0.0
    assert spot_interruptions_per_hour(1.0, 3.0, 0.0) is None


def test_owning_pays_above_a_share_of_use() -> None:
    """At the share, renting those hours costs what owning does."""
    share = owning_share(1.0, 0.1, 0.3, 4.2)
    assert share == pytest.approx(1.1 / 4.0)
    assert share * 4.2 == pytest.approx(1.0 + share * 0.3 + (1 - share) * 0.1)
    assert owning_share(1.0, 0.1, 0.3, 1.2) is None
    assert owning_share(1.0, 0.1, 5.0, 4.0) is None


def test_payback_is_the_price_over_what_is_saved() -> None:
    assert payback_months(12_000.0, 300.0, 1_300.0) == 12.0
    assert payback_months(12_000.0, 1_300.0, 1_300.0) is None


def test_api_prices_count_cached_tokens_apart() -> None:
    api = Api(
        usd_per_million_input_tokens=2.0,
        usd_per_million_cached_input_tokens=0.5,
        usd_per_million_output_tokens=8.0,
    )
    assert api.usd(1e6, 4e5, 1e5) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.1 * 8)
    plain = api.model_copy(update={"usd_per_million_cached_input_tokens": None})
    assert plain.usd(1e6, 4e5, 1e5) == pytest.approx(2.8)


def test_a_replica_pays_from_its_cost_over_the_price() -> None:
    """$240 a day at $1 a thousand requests; a replica serves 300,000: 80% of it. The second one
    doubles the cost, so that from 300,001 to 480,000 the API is cheaper again, and so on until the
    fourth: 4 · 300,000 = 5 · 240,000."""
    found = api_volume(240.0, 1e-3, 300_000.0)
    assert found.one_replica == found.first == pytest.approx(240_000)
    assert found.utilization == pytest.approx(0.8)
    assert found.first_replicas == 1
    assert found.always == pytest.approx(4 * 240_000)
    assert api_volume(240.0, 1e-3, 240_000.0).first is None  # full, it costs as much
    assert api_volume(240.0, 0.0, 300_000.0).first is None


@given(
    usd=st.floats(10.0, 1e4),
    price=st.floats(1e-4, 1e-1),
    use=st.floats(0.02, 0.95),
    spare=st.integers(0, 3),
)
def test_volumes_are_those_of_the_steps(usd: float, price: float, use: float, spare: int) -> None:
    """Against the step function itself, volume by volume."""
    capacity = usd / price / use
    found = api_volume(usd, price, capacity, spare)
    assert found.first is not None
    assert found.always is not None

    def pays(volume: float) -> bool:
        replicas = max(1, math.ceil(volume / capacity * (1 - 1e-9)))
        return (replicas + spare) * usd <= volume * price * (1 + 1e-9)

    assert pays(found.first)
    assert not any(pays(found.first * part) for part in (0.3, 0.7, 0.95, 0.999))
    assert found.always >= found.first * (1 - 1e-9)
    edges = [k * capacity * (1 + 1e-6) for k in range(1, 400)]  # just behind a step it is worst
    assert all(pays(edge) for edge in edges if edge > found.always)
    if found.always > found.first * (1 + 1e-6):
        below = [edge for edge in edges if edge < found.always]
        assert not all(pays(edge) for edge in below[-1:])


# --- a run ---------------------------------------------------------------------------------------

SHORT = [
    "workload.requests=600",
    "workload.arrivals.period_s=600",
    "workload.arrivals.peak_at_s=300",
]
DAY = str(ROOT / "examples" / "autoscaling-day-8b-l4.yaml")
FIXED = ["deployment.autoscaling=null", "deployment.cold_start={}", "deployment.replicas=3"]
SPOT = "renting.spot_usd_per_device_hour=0.3"
RESERVED = "renting.reserved_usd_per_device_hour=0.4"


@pytest.fixture(scope="module")
def following() -> Result:
    return simulate(load_scenario(DAY, SHORT), intervals=False)


@pytest.fixture(scope="module")
def fixed() -> Result:
    return simulate(load_scenario(DAY, SHORT + FIXED))


def test_figures_are_those_of_the_run(following: Result) -> None:
    facts, summary = facts_of(following), following.summary()
    fleet = summary["fleet"]
    assert facts.replicas == pytest.approx(fleet["replicas_mean"])
    assert len(facts.held_shares) == fleet["pools"]["default"]["replicas_max"]
    assert list(facts.held_shares) == sorted(facts.held_shares, reverse=True)
    assert facts.device_w == pytest.approx(summary["energy"]["power_w_mean_per_device"])
    out = summary["throughput"]
    assert facts.input_tokens * out["requests"] == pytest.approx(out["input_tokens"])
    assert facts.start_h * 3600 == pytest.approx(summary["fleet"]["start_s"]["mean"], rel=0.05)


def test_on_demand_costs_what_the_run_says(following: Result) -> None:
    report = break_even(following, load_economics(None, [RESERVED, SPOT]))
    renting = report["renting"]
    assert renting["reserved"]["all_on_demand_usd_per_hour"] == pytest.approx(
        following.summary()["cost"]["usd_per_hour"]
    )
    price = report["prices_usd_per_device_hour"]["on_demand"]
    assert renting["reserved"]["share_of_time"] == pytest.approx(0.4 / price)
    facts = report["facts"]
    assert renting["spot"]["interruptions_per_hour"] == pytest.approx(
        (price / 0.3 - 1) / facts["start_h"]
    )


def test_what_spot_costs_is_the_price_of_spot() -> None:
    """The scenario's figure is that of its plan, and interruptions make it spot."""
    run = simulate(load_scenario("spot-8b-l4", ["workload.requests=200"]), intervals=False)
    prices = break_even(run, load_economics(None, []))["prices_usd_per_device_hour"]
    assert prices == {"on_demand": 0.76, "spot": 0.3}


def test_own_devices_use_the_power_of_the_run(fixed: Result) -> None:
    asked = load_economics(PRICES, [])
    own = break_even(fixed, asked)["owning"]
    facts = facts_of(fixed)
    assert own["devices"] == 3
    assert own["purchase_usd"] == pytest.approx(3 * 27_000 * 1.35)
    kilowatts = (facts.device_w + 300.0) / 1e3 * 1.3
    assert own["energy_usd_per_device_hour_held"] == pytest.approx(kilowatts * 0.12)
    assert own["usd_per_hour"] == pytest.approx(
        3 * (own["fixed_usd_per_device_hour"] + kilowatts * 0.12)
    )
    rent = own["against"]["on_demand"]
    assert rent["rent_usd_per_hour"] == pytest.approx(fixed.summary()["cost"]["usd_per_hour"])


def test_an_api_is_compared_at_the_runs_traffic(fixed: Result) -> None:
    report = break_even(fixed, load_economics(PRICES, [RESERVED]))
    facts, api = report["facts"], report["api"]
    per_day = 86_400 * facts["requests_per_s"]
    tokens = facts["input_tokens"] + facts["output_tokens"]
    assert api["run"]["api_usd_per_day"] == pytest.approx(per_day * tokens * 0.72e-6)
    demand = api["against"]["on_demand"]
    assert demand["run_usd_per_day"] == pytest.approx(24 * fixed.summary()["cost"]["usd_per_hour"])
    # At the volume of the run the three replicas are as full as they were.
    assert api["capacity"]["tokens_per_day_per_replica"] * 3 == pytest.approx(per_day * tokens)
    cheaper = demand["run_usd_per_day"] < api["run"]["api_usd_per_day"]
    assert demand["cheaper"] == ("serving" if cheaper else "API")
    assert (demand["utilization"] < 1) == cheaper
    assert demand["utilization"] == pytest.approx(
        demand["run_usd_per_day"] / api["run"]["api_usd_per_day"]
    )


def test_the_interval_of_the_run_goes_on_to_the_utilization(fixed: Result) -> None:
    low, high = facts_of(fixed).spread or (1.0, 1.0)
    api = break_even(fixed, load_economics(PRICES, []))["api"]
    demand = api["against"]["on_demand"]
    assert demand["utilization_interval"] == pytest.approx(
        [demand["utilization"] * low, demand["utilization"] * high]
    )
    found = break_even(fixed, load_economics(PRICES, []), (1.0, 2.0, 4.0))["api"]
    between = found["against"]["on_demand"]["utilization_interval"]
    used = found["against"]["on_demand"]["utilization"]
    assert between == pytest.approx([used / 2, used * 2])
    assert found["capacity"]["interval"] == [1.0, 4.0]


def test_what_is_paid_at_night_serves_less(following: Result) -> None:
    """A reserved replica is paid all day: at the run's own volume it is as full as the run."""
    report = break_even(following, load_economics(PRICES, [RESERVED]))
    for way in report["api"]["against"].values():
        ratio = way["run_usd_per_day"] / report["api"]["run"]["api_usd_per_day"]
        assert way["utilization"] == pytest.approx(ratio)
        assert way["cheaper"] == ("API" if ratio > 1 else "serving")


def test_what_cannot_be_compared_is_one_sentence(fixed: Result) -> None:
    with pytest.raises(UserError, match="nothing to compare: no reserved price is known for"):
        break_even(fixed, load_economics(None, []))
    slow = simulate(load_scenario(DAY, [*SHORT, *FIXED, "slo.ttft_ms=1"]), intervals=False)
    api = "api={usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 1}"
    with pytest.raises(ScenarioError, match="slo: the deployment misses its SLO at this traffic"):
        break_even(slow, load_economics(None, [api]))
    capacity = "capacity_requests_per_s_per_replica=2"
    given_ = break_even(slow, load_economics(None, [api, capacity]))["api"]["capacity"]
    assert given_["requests_per_s_per_replica"] == 2.0
    no_limits = simulate(load_scenario(DAY, [*SHORT, *FIXED, "slo={}"]), intervals=False)
    with pytest.raises(ScenarioError, match="slo: how much a replica can serve is unknown"):
        break_even(no_limits, load_economics(None, [api]))
    pools = simulate(load_scenario("mixed-pools-8b", ["workload.requests=30"]), intervals=False)
    with pytest.raises(ScenarioError, match="break-even points are those of one kind"):
        break_even(pools, load_economics(PRICES, []))


MISTAKES = {
    "owning.device_usd=27000": "owning.server_factor: is required",
    "owning={device_usd: 27000, price: 1}": "owning.price: unknown key",
    "api.usd_per_million_input_tokens=free": "must be a number, got 'free'",
    "renting.on_demand=3": "renting.on_demand: unknown key",
    "spare_replicas": "must be a path and a value; write --given path.to.field=value",
}


@pytest.mark.parametrize("given_", MISTAKES)
def test_mistakes_in_prices_name_their_key(given_: str) -> None:
    with pytest.raises(UserError) as caught:
        load_economics(None, [given_])
    assert MISTAKES[given_] in str(caught.value)


def test_a_file_of_prices_names_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        "api:\n  usd_per_million_output_tokens: 1\n  usd_per_million_input_tokens: -1\n"
    )
    with pytest.raises(UserError, match=r"prices\.yaml:3: api\.usd_per_million_input_tokens"):
        load_economics(str(file), [])


# --- the command ---------------------------------------------------------------------------------


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, ["break-even", DAY, *args, *[f"--set={s}" for s in SHORT]])


def test_the_command_prints_a_table_or_one_document() -> None:
    fixed_ = [f"--set={text}" for text in FIXED]
    told = invoke("--economics", PRICES, "--given", RESERVED, "--json", *fixed_)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert set(report["api"]["against"]) == {"on_demand", "reserved", "own"}
    assert report["given"]["renting"]["reserved_usd_per_device_hour"] == 0.4
    shown = invoke("--given", RESERVED, "--given", SPOT)
    assert shown.exit_code == 0, shown.output
    assert "pays for devices in use more than" in shown.output
    assert "interruptions of a replica an hour" in shown.output
    nothing = invoke(*fixed_)
    assert nothing.exit_code == 2
    assert "there is nothing to compare" in nothing.output


def test_capacity_is_searched_for_where_replicas_are_fixed() -> None:
    refused = invoke("--economics", PRICES, "--search")
    assert refused.exit_code == 2
    assert "--search needs a fixed number of replicas" in refused.output
    idle = invoke("--given", RESERVED, "--search")
    assert idle.exit_code == 2
    assert "--search is for the break-even with an API" in idle.output


def test_a_searched_capacity_is_that_of_one_replica() -> None:
    """The highest rate that two replicas hold, halved; its interval goes on to the utilization."""
    api = "api={usd_per_million_input_tokens: 0.1, usd_per_million_output_tokens: 0.4}"
    small = ["workload.requests=150", "workload.arrivals.period_s=300", "deployment.replicas=2",
             "deployment.autoscaling=null", "deployment.cold_start={}"]  # fmt: skip
    told = CliRunner().invoke(
        cli,
        ["break-even", DAY, "--given", api, "--search", "--no-store", "--workers", "1", "--json",
         *[f"--set={text}" for text in small]],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    found, demand = report["api"]["capacity"], report["api"]["against"]["on_demand"]
    low, high = found["interval"]
    assert report["facts"]["requests_per_s"] / 2 < found["requests_per_s_per_replica"] < 4.0
    assert low < found["requests_per_s_per_replica"] < high
    most, least = demand["utilization_interval"]
    assert most < demand["utilization"] < least
    rate = found["requests_per_s_per_replica"]
    assert demand["utilization"] * rate == pytest.approx(most * high) == pytest.approx(least * low)
