"""``list``: everything that a scenario can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from simulator.cli.output import echo_json, echo_table
from simulator.cli.scenarios import json_option
from simulator.errors import UserError

Rows = list[dict[str, Any]]


def _models() -> Rows:
    from simulator.models import load_model, preset_names
    from simulator.models.counting import active_parameters, kv_bytes_per_token, parameters

    rows: Rows = []
    for name in preset_names():
        spec = load_model(name)
        rows.append(
            {
                "name": name,
                "parameters_b": round(parameters(spec) / 1e9, 2),
                "active_b": round(active_parameters(spec) / 1e9, 2),
                "layers": spec.layers,
                "kv_kib_per_token": round(kv_bytes_per_token(spec, "bf16") / 1024, 1),
                "max_context": spec.max_context,
                "distilled_from": spec.distilled_from or None,
            }
        )
    return rows


def _students() -> Rows:
    from simulator.models import load_model, preset_names
    from simulator.models.counting import parameters

    specs = [load_model(name) for name in preset_names()]
    return [
        {
            "name": spec.name,
            "parameters_b": round(parameters(spec) / 1e9, 2),
            "teacher": spec.distilled_from,
            "teacher_parameters_b": round(parameters(load_model(spec.distilled_from)) / 1e9, 2),
        }
        for spec in specs
        if spec.distilled_from
    ]


def _architectures() -> Rows:
    from simulator.models.architectures import ARCHITECTURES

    return [{"model_type": name} for name in sorted(ARCHITECTURES)]


def _hardware() -> Rows:
    from simulator.hardware import load_hardware, profile_names

    rows: Rows = []
    for name in profile_names():
        profile = load_hardware(name)
        peak = profile.peak_tflops.get("bf16")
        demand = [p.usd_per_device_hour for p in profile.prices if p.plan == "on_demand"]
        rows.append(
            {
                "name": name,
                "title": profile.title,
                "memory_gib": profile.memory.capacity_gib.value,
                "bandwidth_gb_per_s": profile.memory.bandwidth_gb_per_s.value,
                "bf16_tflops": peak.value if peak else None,
                "usd_per_hour_from": min(demand, default=None),
                "efficiency": profile.efficiency.provenance.method,
            }
        )
    return rows


def _engines() -> Rows:
    from simulator.engines import load_engine, profile_names

    rows: Rows = []
    for name in profile_names():
        profile = load_engine(name)
        rows.append(
            {
                "name": name,
                "title": profile.title,
                "version": profile.version,
                "policy": profile.policy.kind,
                "max_num_seqs": profile.max_num_seqs,
                "max_num_batched_tokens": profile.max_num_batched_tokens,
                "fitted": profile.fitted,
            }
        )
    return rows


def _traces() -> Rows:
    from simulator.workload import trace_names

    return [{"name": name} for name in trace_names()]


def _tables() -> Rows:
    from simulator.workload import table_names

    return [{"name": name} for name in table_names()]


def _scenarios() -> Rows:
    from simulator.scenario.shipped import scenario_names, shipped, summary_line

    return [{"name": name, "shows": summary_line(shipped()[name])} for name in scenario_names()]


def _plans() -> Rows:
    from simulator.scenario.shipped import plan_names, shipped, summary_line

    return [{"name": name, "finds": summary_line(shipped()[name])} for name in plan_names()]


def _fragments() -> Rows:
    from simulator.scenario.shipped import fragment_names, shipped, summary_line

    return [{"name": name, "holds": summary_line(shipped()[name])} for name in fragment_names()]


def _kinds(annotation: Any) -> Rows:
    from typing import get_args

    from simulator.scenario.fields import meaning_of, tag_of

    union = get_args(annotation)[0]
    return [
        {"kind": tag_of(m), "meaning": meaning_of(m).replace("``", "")} for m in get_args(union)
    ]


def _policies() -> Rows:
    from simulator.scenario.policies import Policy

    return _kinds(Policy)


def _routers() -> Rows:
    from simulator.scenario.routers import Router

    return _kinds(Router)


def _arrivals() -> Rows:
    from simulator.scenario.workload import Arrivals

    return _kinds(Arrivals)


LISTS: dict[str, Callable[[], Rows]] = {
    "scenarios": _scenarios,
    "plans": _plans,
    "fragments": _fragments,
    "models": _models,
    "architectures": _architectures,
    "students": _students,
    "hardware": _hardware,
    "engines": _engines,
    "traces": _traces,
    "tables": _tables,
    "policies": _policies,
    "routers": _routers,
    "arrivals": _arrivals,
}

HEADERS: dict[str, dict[str, str]] = {
    "models": {
        "name": "name",
        "parameters_b": "billions",
        "active_b": "active",
        "layers": "layers",
        "kv_kib_per_token": "KV KiB/token",
        "max_context": "context",
    },
    "students": {
        "name": "name",
        "parameters_b": "billions",
        "teacher": "teacher",
        "teacher_parameters_b": "its billions",
    },
    "hardware": {
        "name": "name",
        "memory_gib": "GiB",
        "bandwidth_gb_per_s": "GB/s",
        "bf16_tflops": "TFLOP/s",
        "usd_per_hour_from": "$/h from",
        "efficiency": "kernels",
    },
    "engines": {
        "name": "name",
        "version": "version",
        "policy": "policy",
        "max_num_seqs": "seqs",
        "max_num_batched_tokens": "tokens",
        "fitted": "fitted",
    },
}
"""What the table shows of a list, and how it calls it; it fits into 80 columns."""


@click.command("list")
@click.argument("what", metavar="WHAT")
@json_option
def list_names(what: str, as_json: bool) -> None:
    """List what a scenario can name.

    WHAT is scenarios, plans (for `simulate plan`), fragments (parts to include), models,
    architectures (of a config.json), students (models distilled from another), hardware, engines,
    traces, tables (of rates and lengths over time), policies, routers or arrivals.
    """
    if what not in LISTS:
        from simulator.sentences import closest

        near = closest(what, LISTS)
        raise UserError(
            f"there is no list of '{what}', only of {', '.join(LISTS)}",
            hint=f"did you mean '{near}'?" if near else "",
        )
    rows = LISTS[what]()
    if as_json:
        echo_json(rows)
        return
    if not rows:
        click.echo(f"There are no {what}.")
        return
    headers = HEADERS.get(what) or {key: key for key in rows[0]}
    numbers = {headers[k] for k in headers if any(_is_number(row[k]) for row in rows)}
    cells = [[_cell(row[key]) for key in headers] for row in rows]
    echo_table(list(headers.values()), cells, numbers=numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"
    return str(value)
