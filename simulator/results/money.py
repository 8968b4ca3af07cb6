"""What the window and the run cost in energy, carbon and currency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.results.fleet import Part
from simulator.results.rates import Delivered
from simulator.results.window import Window

J_PER_KWH = 3.6e6


def energy_section(parts: Sequence[Part], window: Window, out: Delivered) -> dict[str, Any]:
    """Power and energy of all devices, idle time included, times PUE; carbon if the scenario gives
    the grid's intensity. Per token and request: the window's energy over what came out in it."""
    energy = parts[0].deployment.scenario.energy
    pue, intensity = energy.pue, energy.grid_gco2e_per_kwh
    span = window.duration_s
    idle_j = _idle_j([(part, part.held_s, part.sums.powered_s) for part in parts])
    joules = pue * (sum(part.sums.step_energy_j for part in parts) + idle_j)
    run_joules = pue * (
        sum(part.sums.run_energy_j for part in parts)
        + _idle_j([(part, part.run_held_s, part.sums.run_powered_s) for part in parts])
    )
    devices = devices_held(parts, window)
    carbon = None if intensity is None else intensity / J_PER_KWH

    def grams(energy_j: float | None) -> float | None:
        return None if carbon is None or energy_j is None else energy_j * carbon

    per_request, per_token = _per(joules, out.requests), _per(joules, out.output_tokens)
    return {
        "pue": pue,
        "power_w_mean": joules / span if span > 0 else None,
        "power_w_mean_per_device": joules / span / devices if devices > 0 else None,
        "energy_kwh": joules / J_PER_KWH,
        "idle_share": pue * idle_j / joules if joules > 0 else None,
        "joules_per_output_token": per_token,
        "joules_per_total_token": _per(joules, out.total_tokens),
        "joules_per_request": per_request,
        "whole_run_kwh": run_joules / J_PER_KWH,
        "grid_gco2e_per_kwh": intensity,
        "gco2e": grams(joules),
        "gco2e_per_request": grams(per_request),
        "gco2e_per_million_output_tokens": grams(None if per_token is None else 1e6 * per_token),
        "whole_run_gco2e": grams(run_joules),
    }


def cost_section(parts: Sequence[Part], window: Window, out: Delivered) -> dict[str, Any]:
    """Price of all devices held through the window, busy or not, over what came out in it."""
    prices = [part.deployment.usd_per_device_hour for part in parts]
    spent = paid_for(parts, [part.held_s for part in parts])
    run = paid_for(parts, [part.run_held_s for part in parts])
    span = window.duration_s
    per_hour = paid_for(parts, [3600.0 * part.record.replicas for part in parts])
    if per_hour is not None and spent is not None and span > 0:
        per_hour = spent / span * 3600
    same = len(set(prices)) == 1
    return {
        "usd_per_device_hour": prices[0] if same else None,
        "price_note": "; ".join(dict.fromkeys(part.deployment.price_note for part in parts)),
        "usd_per_hour": per_hour,
        "usd": spent,
        "usd_per_request": _per(spent, out.requests),
        "usd_per_million_output_tokens": _per(spent, out.output_tokens, 1e6),
        "usd_per_million_total_tokens": _per(spent, out.total_tokens, 1e6),
        "whole_run_usd": run,
    }


def _idle_j(spans: list[tuple[Part, float, float]]) -> float:
    """Energy of devices that were held and did not run, from replica-seconds of both; devices that
    pools share are idle when none of them runs."""
    idle: dict[str, tuple[float, float]] = {}
    for part, held_s, powered_s in spans:
        _, before_s = idle.get(part.devices_of, (0.0, 0.0))
        idle[part.devices_of] = part.accountant.idle_w, before_s + held_s - powered_s
    return sum(idle_w * max(0.0, idle_s) for idle_w, idle_s in idle.values())


def devices_held(parts: Sequence[Part], window: Window) -> float:
    """Devices held on average over the window."""
    span = window.duration_s
    if span <= 0:
        return 0.0
    return sum(part.held_s * part.devices_per_replica for part in parts) / span


def paid_for(parts: Sequence[Part], held_s: list[float]) -> float | None:
    """What the devices cost for so many replica-seconds; None if a price is not known."""
    total = 0.0
    for part, seconds in zip(parts, held_s, strict=True):
        price = part.deployment.usd_per_device_hour
        if price is None:
            return None
        total += price * part.devices_per_replica * seconds / 3600
    return total


def _per(amount: float | None, count: int, scale: float = 1.0) -> float | None:
    return None if amount is None or count == 0 else scale * amount / count
