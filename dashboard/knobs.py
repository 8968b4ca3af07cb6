"""Which values of a scenario have a knob in the sidebar, and how each is turned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import session
from dashboard.choice import Choice
from simulator import Scenario, Setting, UserError, scenario_field

DEFAULT = "default"
"""In a list of choices, for null: what the model, the device or the engine say."""

_TRAFFIC = (
    ("rate_scale", "Rate × recorded"),
    ("arrivals.rate_per_s", "Arrivals"),
    ("arrivals.start_per_s", "Arrivals at the start"),
    ("arrivals.end_per_s", "Arrivals at the end"),
    ("arrivals.concurrency", "Users"),
    ("arrivals.think_time_s", "Think time"),
    ("think_time_s", "Think time"),
    ("arrivals.cv", "Burstiness (CV)"),
    ("max_in_flight", "In flight at once"),
    ("lengths.input.tokens", "Prompt"),
    ("lengths.input.mean", "Prompt, mean"),
    ("lengths.output.tokens", "Output"),
    ("lengths.output.mean", "Output, mean"),
    ("user_tokens.tokens", "New tokens a turn"),
    ("user_tokens.mean", "New tokens a turn, mean"),
    ("output_tokens.tokens", "Output"),
    ("output_tokens.mean", "Output, mean"),
    ("slice.start_s", "Slice from"),
    ("slice.duration_s", "Slice length"),
    ("slice.requests", "Slice, most requests"),
    ("requests", "Requests"),
    ("duration_s", "Duration"),
)

_SLO = (
    ("slo.ttft_ms", "TTFT limit"),
    ("slo.tpot_ms", "TPOT limit"),
    ("slo.e2e_ms", "E2E limit"),
    ("slo.attainment", "Attainment wanted"),
)

_GROUPS = (
    ("Model and precision", (
        ("model", "Model"),
        ("precision.weights", "Weights"),
        ("precision.kv_cache", "KV cache"),
    )),
    ("Hardware and parallelism", (
        ("hardware.profile", "Hardware"),
        ("parallelism.tp", "Tensor parallelism"),
        ("parallelism.pp", "Pipeline parallelism"),
    )),
    ("Engine", (
        ("engine.profile", "Engine"),
        ("engine.max_num_seqs", "Most sequences"),
        ("engine.max_num_batched_tokens", "Token budget of a step"),
        ("engine.prefix_caching", "Prefix caching"),
        ("engine.memory_fraction", "Memory fraction"),
    )),
    ("Traffic", (*((f"workload.{path}", label) for path, label in _TRAFFIC),
                 ("measurement.seed", "Seed"))),
    ("SLO", _SLO),
    ("Deployment", (
        ("deployment.replicas", "Replicas"),
        ("deployment.autoscaling.min", "Replicas, least"),
        ("deployment.autoscaling.max", "Replicas, most"),
        ("deployment.router", "Router"),
        ("deployment.timeout_s", "Clients give up after"),
        ("deployment.network_ms", "Network, one way"),
        ("cost.usd_per_device_hour", "Price of a device-hour"),
    )),
)  # fmt: skip
"""Title and knobs of each group; a knob shows where the scenario has such a key. Limits, choices,
units and help are the scenario's own words."""


OPEN = ("Model and precision", "Hardware and parallelism", "Traffic", "SLO")
"""Groups that are open until they are closed."""


@dataclass(frozen=True)
class Knob:
    """One knob.

    Args:
        label: above it, with the unit.
        setting: what it turns.
    """

    label: str
    setting: Setting


def groups(scenario: Scenario) -> Iterator[tuple[str, list[Knob]]]:
    """Titles and knobs that apply to a scenario."""
    for title, wanted in _GROUPS:
        knobs = [
            Knob(_label(label, setting), setting)
            for path, label in (*_of_parts(title, scenario), *wanted)
            if (setting := _setting(path, scenario)) is not None
        ]
        if knobs:
            yield title, knobs


def _of_parts(title: str, scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Knobs of traffic classes and of pools."""
    if title in ("Traffic", "SLO"):
        for position, each in enumerate(getattr(scenario.workload, "classes", ())):
            at = f"workload.classes.{position}"
            if title == "Traffic":
                yield from (
                    (f"{at}.workload.{p}", f"{each.name}: {label}") for p, label in _TRAFFIC
                )
            elif each.slo is not None:
                yield from ((f"{at}.{path}", f"{each.name}: {label}") for path, label in _SLO)
    elif title == "Deployment":
        for position, pool in enumerate(scenario.deployment.pools):
            scaled = pool.autoscaling or scenario.deployment.autoscaling
            if not scaled:
                yield f"deployment.pools.{position}.replicas", f"{pool.name}: Replicas"
    elif title == "Hardware and parallelism":
        for position, pool in enumerate(scenario.deployment.pools):
            at = f"deployment.pools.{position}"
            yield f"{at}.hardware.profile", f"{pool.name}: Hardware"
            yield f"{at}.parallelism.tp", f"{pool.name}: Tensor parallelism"


def _setting(path: str, scenario: Scenario) -> Setting | None:
    deployment = scenario.deployment
    if path == "deployment.replicas" and (deployment.pools or deployment.autoscaling):
        return None
    if path == "deployment.router" and deployment.replicas == 1 and not (
        deployment.pools or deployment.autoscaling
    ):  # fmt: skip
        return None
    try:
        setting = scenario_field(path, scenario)
    except UserError:
        return None
    # Of requests and duration_s exactly one is given.
    sized = path.endswith(("requests", "duration_s")) and "slice" not in path
    return None if sized and setting.value is None else setting


def _label(label: str, setting: Setting) -> str:
    short = {"milliseconds": "ms", "seconds": "s", "a rate per second": "requests/s",
             "USD for a device and hour": "USD"}  # fmt: skip
    unit = "" if setting.unit.startswith("a fraction") else short.get(setting.unit, setting.unit)
    return f"{label} ({unit})" if unit else label


def draw(knob: Knob, choice: Choice, where: str = "knob") -> None:
    """Draws a knob at the value that the choice has; ``where``: the place, if it is not the
    sidebar."""
    setting = knob.setting
    key = f"{where} {setting.path}"
    given = choice.value_set(setting.path)
    common: dict[str, Any] = {
        "key": key, "help": _help(setting), "on_change": turned, "args": (setting.path, key),
    }  # fmt: skip
    changed = f"{knob.label} :blue[•]" if given is not None else knob.label
    value = setting.value
    if setting.choices or setting.kind == "switch":
        options = list(setting.choices or (True, False))
        if setting.nullable:
            options.insert(0, DEFAULT)
        shown = DEFAULT if value is None else value
        if shown not in options:
            options.append(shown)
        st.session_state[key] = shown
        unset = _unset(choice, setting)
        st.selectbox(
            changed, options, format_func=lambda v: unset if v == DEFAULT else _said(v), **common
        )
    elif setting.kind in ("number", "whole"):
        whole = setting.kind == "whole"
        st.session_state[key] = value
        limits: dict[str, Any] = {
            "value": None if setting.nullable else "min",
            "min_value": _end(setting.least, whole), "max_value": _end(setting.most, whole),
            "step": _step(_own(choice, setting.path), whole), "format": None if whole else "%g",
        }  # fmt: skip
        st.number_input(changed, placeholder=_unset(choice, setting), **limits, **common)
    else:
        st.session_state[key] = "" if value is None else value
        st.text_input(changed, **common)


def _unset(choice: Choice, setting: Setting) -> str:
    """What stands in a knob without a value: what holds then, or that nothing does."""
    if not setting.nullable or setting.value is not None:
        return DEFAULT
    held = choice.held.get(setting.path)
    if held is not None:
        return f"default: {_said(held)}"
    decided = setting.path.startswith(("engine.", "precision."))  # by each pool's engine or model
    return DEFAULT if decided else "not set"


def turned(path: str, key: str) -> None:
    """Takes the new value of a knob."""
    value = st.session_state[key]
    if value == DEFAULT:
        value = None
    session.choose(session.choice().with_value(path, value))


def _own(choice: Choice, path: str) -> Any:
    """The value that the choice does not replace: steps must not change while a knob is turned."""
    try:
        return scenario_field(path, choice.base).value
    except UserError:
        return None


def _help(setting: Setting) -> str:
    parts = [setting.meaning]
    if setting.limits:
        parts.append(setting.limits)
    if not setting.required and setting.default is not None:
        parts.append(f"default: {_said(setting.default)}")
    return f"{'; '.join(parts)} · `{setting.path}`"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _end(limit: float | None, whole: bool) -> float | int | None:
    """A limit of the widget; what a browser cannot count to is none."""
    if limit is None or abs(limit) > 2**53 - 1:
        return None
    return int(limit) if whole else limit


def _step(value: Any, whole: bool) -> float | int:
    """A step that moves the value by a tenth to a half."""
    if not value:
        return 1 if whole else 1.0
    step = 10.0 ** math.floor(math.log10(abs(value) / 2))
    return max(1, int(step)) if whole else step
