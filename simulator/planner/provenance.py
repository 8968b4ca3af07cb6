"""Where the figures behind a plan or a sweep come from: profiles, fits and prices, with dates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from simulator import __version__
from simulator.engines import EngineProfile, load_engine
from simulator.errors import UserError
from simulator.hardware import HardwareProfile, load_hardware

Data = Mapping[str, Any]


def provenance(scenarios: Iterable[Data], seeds: Iterable[int]) -> dict[str, Any]:
    """What stands behind some deployments.

    Args:
        scenarios: the data of each, as a scenario's file holds it.
        seeds: of the traffic.

    Returns:
        Plain data: version, seeds, the user's own price if there is one, and every device (origin
        and date of its kernels' times, its lowest price in each plan that is used) and engine, each
        once, by name.
    """
    plans: dict[str, set[str]] = {}
    engines: set[str] = set()
    own: set[float] = set()
    for data in scenarios:
        cost = data.get("cost") or {}
        plan = cost.get("plan", "on_demand")
        if cost.get("usd_per_device_hour") is not None:
            own.add(cost["usd_per_device_hour"])
        for part in _parts(data):
            plans.setdefault(part["hardware"]["profile"], set()).add(plan)
            engines.add((part.get("engine") or {}).get("profile", "vllm"))
    return {
        "version": __version__,
        "seeds": list(seeds),
        "own_usd_per_device_hour": sorted(own),
        "devices": [
            _device(profile, used)
            for name, used in sorted(plans.items())
            if (profile := _loaded(load_hardware, name)) is not None
        ],
        "engines": [
            _engine(name, engine)
            for name in sorted(engines)
            if (engine := _loaded(load_engine, name)) is not None
        ],
    }


T = TypeVar("T")


def _loaded(load: Callable[[str], T], name: str) -> T | None:
    """None where there is no such profile: then nothing ran with it, and the report says so."""
    try:
        return load(name)
    except UserError:
        return None


def _parts(data: Data) -> Iterable[Data]:
    pools = (data.get("deployment") or {}).get("pools") or [{}]
    for pool in pools:
        yield {key: pool.get(key) or data.get(key) for key in ("hardware", "engine")}


def _device(profile: HardwareProfile, plans: set[str]) -> dict[str, Any]:
    origin = profile.efficiency.provenance
    prices = {
        price.plan: price
        for price in sorted(profile.prices, key=lambda price: -price.usd_per_device_hour)
        if price.plan in plans
    }
    return {
        "name": profile.name,
        "title": profile.title,
        "kernels": origin.method,
        "kernels_date": origin.date.isoformat(),
        "prices": [
            {
                "plan": plan,
                "usd_per_device_hour": price.usd_per_device_hour,
                "cloud": price.cloud,
                "as_of": price.as_of.isoformat(),
            }
            for plan, price in sorted(prices.items())
        ],
    }


def _engine(name: str, profile: EngineProfile) -> dict[str, Any]:
    return {
        "name": name,
        "title": profile.title,
        "version": profile.version,
        "fitted": profile.fitted,
    }
