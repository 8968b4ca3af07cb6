"""Discrete-event simulation of LLM inference: latency, throughput, cost and energy of a deployment.

>>> import simulator
>>> scenario = simulator.load_scenario("chat-8b-h100")
>>> result = simulator.simulate(scenario)  # doctest: +SKIP

Names are imported on first use, so that ``import simulator`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.engines import load_engine
    from simulator.errors import UserError
    from simulator.hardware import load_hardware
    from simulator.models import load_model
    from simulator.planner.api import plan, sweep
    from simulator.planner.document import load_plan
    from simulator.results import Definition, Result, compare
    from simulator.results.definitions import definition_of, value_at
    from simulator.results.format import with_unit
    from simulator.rooflines import Roofline, RooflineStep, StepOperator, roofline
    from simulator.scenario import Scenario, dump_scenario, load_scenario, parse_scenario
    from simulator.scenario.shipped import scenario_names
    from simulator.simulation import simulate

__version__ = "0.1.0"

_HOME = {
    "Definition": "simulator.results",
    "Result": "simulator.results",
    "Roofline": "simulator.rooflines",
    "RooflineStep": "simulator.rooflines",
    "Scenario": "simulator.scenario",
    "StepOperator": "simulator.rooflines",
    "UserError": "simulator.errors",
    "compare": "simulator.results",
    "definition_of": "simulator.results.definitions",
    "dump_scenario": "simulator.scenario",
    "load_engine": "simulator.engines",
    "load_hardware": "simulator.hardware",
    "load_model": "simulator.models",
    "load_plan": "simulator.planner.document",
    "load_scenario": "simulator.scenario",
    "parse_scenario": "simulator.scenario",
    "plan": "simulator.planner.api",
    "roofline": "simulator.rooflines",
    "scenario_names": "simulator.scenario.shipped",
    "simulate": "simulator.simulation",
    "sweep": "simulator.planner.api",
    "value_at": "simulator.results.definitions",
    "with_unit": "simulator.results.format",
}

__all__ = [
    "Definition",
    "Result",
    "Roofline",
    "RooflineStep",
    "Scenario",
    "StepOperator",
    "UserError",
    "__version__",
    "compare",
    "definition_of",
    "dump_scenario",
    "load_engine",
    "load_hardware",
    "load_model",
    "load_plan",
    "load_scenario",
    "parse_scenario",
    "plan",
    "roofline",
    "scenario_names",
    "simulate",
    "sweep",
    "value_at",
    "with_unit",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
