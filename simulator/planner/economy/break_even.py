"""A run compared with other ways of paying for the same: figures, then break-even points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from simulator.errors import ScenarioError, UserError
from simulator.planner.economy.economics import (
    HOURS_PER_MONTH,
    Economics,
    Owning,
    api_volume,
    cheapest_mixture,
    owning_share,
    payback_months,
    reserved_share,
    spot_interruptions_per_hour,
)
from simulator.planner.economy.facts import Facts, facts_of
from simulator.resolution.pools import resolve_pools
from simulator.results.result import Result
from simulator.scenario.document import Document
from simulator.scenario.overrides import apply_override
from simulator.yamlio import load_yaml, validation_sentence

PLANS = ("on_demand", "reserved", "spot")
ALWAYS_PAID = ("reserved", "own")
"""Ways in which as many replicas are paid all the time as are held at once at the most."""

DAY_S = 86_400.0

Report = dict[str, Any]


def load_economics(file: str | None, overrides: Sequence[str]) -> Economics:
    """What is given in a YAML file and by ``path=value``.

    Raises:
        UserError: the file or a value is wrong; one sentence with file, line and key.
    """
    document = Document({})
    if file is not None:
        data, lines = load_yaml(Path(file))
        document = Document(data, dict(lines))
    for override in overrides:
        document = apply_override(document, override, option="--given")
    try:
        return Economics.model_validate(document.data)
    except ValidationError as error:
        name = file or "--given"
        raise validation_sentence(error, name, document.places, Economics) from None


def break_even(
    result: Result, economics: Economics, capacity: tuple[float, float, float] | None = None
) -> Report:
    """Everything that can be compared with what is given.

    Args:
        result: a run.
        economics: prices of other ways.
        capacity: requests/s of one replica at its SLO: lowest, found, highest; None: as given in
            ``economics``, or what a replica served in the run.

    Raises:
        UserError: nothing can be compared, or the run is not one of a single kind of replicas.
    """
    facts = facts_of(result)
    prices, notes = _prices(result, economics)
    report: Report = {
        "name": result.summary()["name"],
        "facts": asdict(facts),
        "given": economics.model_dump(mode="json"),
        "prices_usd_per_device_hour": prices,
        "renting": _renting(facts, prices),
        "owning": None,
        "api": None,
        "notes": notes,
    }
    if economics.owning is not None:
        report["owning"] = _owning(facts, prices, economics.owning)
    if economics.api is not None:
        report["api"] = _api(facts, prices, economics, report["owning"], capacity)
    if not report["renting"] and not report["owning"] and not report["api"]:
        raise UserError(
            f"there is nothing to compare: {'; '.join(notes)}",
            hint="give owning, api or another price, in a file or by --given "
            "renting.reserved_usd_per_device_hour=2",
        )
    return report


def _prices(result: Result, economics: Economics) -> tuple[dict[str, float], list[str]]:
    """Of each plan that has one, and a sentence for each that has none."""
    # As resolved: with deployment.spot the plan is spot.
    deployment = resolve_pools(result.deployment.scenario)[0].resolved.deployment
    cost, hardware = deployment.scenario.cost, deployment.hardware
    prices, notes = {}, []
    for plan in PLANS:
        given = getattr(economics.renting, f"{plan}_usd_per_device_hour")
        if given is None and plan == cost.plan:
            given = cost.usd_per_device_hour
        listed = [p.usd_per_device_hour for p in hardware.prices if p.plan == plan]
        if given is None and listed:
            given = min(listed)
        if given is None:
            notes.append(
                f"no {plan.replace('_', '-')} price is known for {hardware.title} "
                f"(renting.{plan}_usd_per_device_hour)"
            )
        else:
            prices[plan] = given
    return prices, notes


# --- comparisons ---------------------------------------------------------------------------------


def _renting(facts: Facts, prices: dict[str, float]) -> Report:
    demand = prices.get("on_demand")
    if demand is None:
        return {}
    report: Report = {}
    devices = facts.replica_devices
    if "reserved" in prices:
        share = reserved_share(prices["reserved"], demand)
        mixture = cheapest_mixture(
            facts.held_shares, prices["reserved"] * devices, demand * devices
        )
        report["reserved"] = {
            "share_of_time": share,
            "hours_per_month": None if share is None else share * HOURS_PER_MONTH,
            **asdict(mixture),
        }
    if "spot" in prices:
        report["spot"] = {
            "interruptions_per_hour": spot_interruptions_per_hour(
                prices["spot"], demand, facts.start_h
            ),
            "always_cheaper": facts.start_h <= 0.0 and prices["spot"] < demand,
            "start_h": facts.start_h,
        }
    return report


def _owning(facts: Facts, prices: dict[str, float], owning: Owning) -> Report:
    devices = len(facts.held_shares) * facts.replica_devices
    held = facts.replicas * facts.replica_devices
    fixed = owning.fixed_usd_per_device_hour(facts.tdp_w)
    busy = owning.energy_usd_per_device_hour(facts.device_w)
    idle = owning.energy_usd_per_device_hour(facts.idle_w)
    hourly = devices * fixed + held * busy + (devices - held) * idle
    capital = devices * owning.capital_usd_per_device_year / 12.0
    purchase = devices * owning.purchase_usd_per_device
    running = hourly * HOURS_PER_MONTH - capital
    against = {}
    for plan, price in prices.items():
        paid = devices if plan in ALWAYS_PAID else held
        rent = paid * price
        against[plan] = {
            "rent_usd_per_hour": rent,
            "share_of_time": owning_share(fixed, idle, busy, price)
            if plan not in ALWAYS_PAID else None,
            "payback_months": payback_months(purchase, running, rent * HOURS_PER_MONTH),
            "cheaper": "own" if hourly < rent else "rented",
        }  # fmt: skip
    return {
        "devices": devices,
        "purchase_usd": purchase,
        "fixed_usd_per_device_hour": fixed,
        "energy_usd_per_device_hour_held": busy,
        "energy_usd_per_device_hour_idle": idle,
        "usd_per_hour": hourly,
        "usd_per_month": hourly * HOURS_PER_MONTH,
        "against": against,
    }


def _api(
    facts: Facts,
    prices: dict[str, float],
    economics: Economics,
    owning: Report | None,
    capacity: tuple[float, float, float] | None,
) -> Report:
    api, spare = economics.api, economics.spare_replicas
    assert api is not None
    low, served, high, source = _capacity(facts, economics, capacity)
    each = api.usd(facts.input_tokens, facts.cached_tokens, facts.output_tokens)
    tokens = facts.input_tokens + facts.output_tokens
    per_day = facts.requests_per_s * DAY_S
    ways = {plan: price * facts.replica_devices * 24.0 for plan, price in prices.items()}
    if owning is not None:
        ways["own"] = owning["usd_per_hour"] / len(facts.held_shares) * 24.0
    paid = {way: float(len(facts.held_shares)) if way in ALWAYS_PAID else facts.replicas
            for way in ways}  # fmt: skip
    # What is paid at night as well serves less for each replica that is paid.
    use = {way: facts.replicas / replicas for way, replicas in paid.items()}
    return {
        "usd_per_request": each,
        "usd_per_million_tokens": 1e6 * each / tokens,
        "tokens_per_request": tokens,
        "capacity": {
            "source": source,
            "requests_per_s_per_replica": served,
            "interval": [low, high],
            "tokens_per_day_per_replica": served * DAY_S * tokens,
        },
        "run": {
            "tokens_per_day": per_day * tokens,
            "api_usd_per_day": per_day * each,
        },
        "against": {
            way: {
                "replica_usd_per_day": usd,
                "run_usd_per_day": usd * (paid[way] + spare),
                "cheaper": "API" if per_day * each < usd * (paid[way] + spare) else "serving",
                **_volumes(usd, each, served * use[way], tokens, spare),
                "utilization_interval": [
                    usd / each / (bound * use[way] * DAY_S) for bound in (high, low)
                ] if each > 0 else None,
            }
            for way, usd in ways.items()
        },
    }  # fmt: skip


def _volumes(usd: float, each: float, served: float, tokens: float, spare: int) -> Report:
    volume = api_volume(usd, each, served * DAY_S, spare)

    def of(requests: float | None) -> float | None:
        return None if requests is None or not np.isfinite(requests) else requests * tokens

    return {
        "one_replica_tokens_per_day": of(volume.one_replica),
        "utilization": volume.utilization if np.isfinite(volume.utilization) else None,
        "first_tokens_per_day": of(volume.first),
        "first_replicas": volume.first_replicas,
        "always_tokens_per_day": of(volume.always),
    }


def _capacity(
    facts: Facts, economics: Economics, found: tuple[float, float, float] | None
) -> tuple[float, float, float, str]:
    """Requests/s of one replica at its SLO, with its interval, and where the figure is from."""
    given = economics.capacity_requests_per_s_per_replica
    if given is not None:
        return given, given, given, "as given"
    if found is not None:
        return (*found, "the highest rate that holds the SLO")
    if facts.slo_held is None:
        raise ScenarioError(
            "how much a replica can serve is unknown without an SLO",
            where="slo",
            hint="give slo.ttft_ms or slo.tpot_ms, or capacity_requests_per_s_per_replica",
        )
    if not facts.slo_held:
        raise ScenarioError(
            "the deployment misses its SLO at this traffic, so what a replica can serve is unknown",
            where="slo",
            hint="add replicas, lower the traffic, use --search, or give "
            "capacity_requests_per_s_per_replica",
        )
    served = facts.requests_per_s / facts.replicas
    low, high = facts.spread or (1.0, 1.0)
    return (
        served / high,
        served,
        served / low,
        "what a replica served in this run, SLO held, so at least that (see --search)",
    )
