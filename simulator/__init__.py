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
    from simulator.engines import engine_names, load_engine
    from simulator.errors import UserError
    from simulator.hardware import load_hardware
    from simulator.launch import launch_files
    from simulator.measured import MeasuredRun, read_measurements
    from simulator.models import load_model
    from simulator.planner.api import deployment_scenario, describe_plan, load_report, plan, sweep
    from simulator.planner.document import load_plan, parse_plan
    from simulator.planner.explanation.explain import explain_result
    from simulator.planner.loads.load_words import load_lines
    from simulator.planner.pareto import on_front
    from simulator.planner.report.charts import plan_data
    from simulator.planner.report.plan_page import plan_page
    from simulator.planner.report.told import (
        AskedWords,
        PlanWords,
        asked_words,
        figure_text,
        figure_title,
        plan_table,
        plan_words,
    )
    from simulator.planner.written import dump_plan, plan_choices, plan_document
    from simulator.resolution.holding import values_that_hold
    from simulator.results import Definition, Line, Result, compare, compare_all
    from simulator.results.definitions import definition_of, value_at
    from simulator.results.format import duration, with_unit
    from simulator.results.history import FleetEvent, History
    from simulator.results.origins import engine_origins, hardware_origins, origins
    from simulator.results.said import run_lines
    from simulator.rooflines import Roofline, RooflineStep, StepOperator, roofline
    from simulator.scenario import Scenario, dump_scenario, load_scenario, parse_scenario
    from simulator.scenario.confined import scenario_files
    from simulator.scenario.difference import Difference, scenario_differences
    from simulator.scenario.load import load_with_places, parse_with_places
    from simulator.scenario.settable import Setting, scenario_field
    from simulator.scenario.shipped import plan_names, scenario_names
    from simulator.simulation import simulate, traffic_of
    from simulator.workload import table_names, trace_names
    from simulator.workload.describe_rates import is_rate_table
    from simulator.workload.profile import TraceProfile, profile_trace

__version__ = "0.1.0"

_HOME = {
    "AskedWords": "simulator.planner.report.told",
    "Definition": "simulator.results",
    "Difference": "simulator.scenario.difference",
    "FleetEvent": "simulator.results.history",
    "History": "simulator.results.history",
    "Line": "simulator.results",
    "MeasuredRun": "simulator.measured",
    "PlanWords": "simulator.planner.report.told",
    "Result": "simulator.results",
    "Roofline": "simulator.rooflines",
    "RooflineStep": "simulator.rooflines",
    "Scenario": "simulator.scenario",
    "Setting": "simulator.scenario.settable",
    "StepOperator": "simulator.rooflines",
    "TraceProfile": "simulator.workload.profile",
    "UserError": "simulator.errors",
    "asked_words": "simulator.planner.report.told",
    "compare": "simulator.results",
    "compare_all": "simulator.results",
    "definition_of": "simulator.results.definitions",
    "deployment_scenario": "simulator.planner.api",
    "describe_plan": "simulator.planner.api",
    "dump_plan": "simulator.planner.written",
    "dump_scenario": "simulator.scenario",
    "duration": "simulator.results.format",
    "engine_names": "simulator.engines",
    "engine_origins": "simulator.results.origins",
    "explain_result": "simulator.planner.explanation.explain",
    "figure_text": "simulator.planner.report.told",
    "figure_title": "simulator.planner.report.told",
    "hardware_origins": "simulator.results.origins",
    "is_rate_table": "simulator.workload.describe_rates",
    "launch_files": "simulator.launch",
    "load_engine": "simulator.engines",
    "load_hardware": "simulator.hardware",
    "load_lines": "simulator.planner.loads.load_words",
    "load_model": "simulator.models",
    "load_plan": "simulator.planner.document",
    "load_report": "simulator.planner.api",
    "load_scenario": "simulator.scenario",
    "load_with_places": "simulator.scenario.load",
    "on_front": "simulator.planner.pareto",
    "origins": "simulator.results.origins",
    "parse_plan": "simulator.planner.document",
    "parse_scenario": "simulator.scenario",
    "parse_with_places": "simulator.scenario.load",
    "plan": "simulator.planner.api",
    "plan_choices": "simulator.planner.written",
    "plan_data": "simulator.planner.report.charts",
    "plan_document": "simulator.planner.written",
    "plan_names": "simulator.scenario.shipped",
    "plan_page": "simulator.planner.report.plan_page",
    "plan_table": "simulator.planner.report.told",
    "plan_words": "simulator.planner.report.told",
    "profile_trace": "simulator.workload.profile",
    "read_measurements": "simulator.measured",
    "run_lines": "simulator.results.said",
    "roofline": "simulator.rooflines",
    "scenario_differences": "simulator.scenario.difference",
    "scenario_field": "simulator.scenario.settable",
    "scenario_files": "simulator.scenario.confined",
    "scenario_names": "simulator.scenario.shipped",
    "simulate": "simulator.simulation",
    "sweep": "simulator.planner.api",
    "table_names": "simulator.workload",
    "trace_names": "simulator.workload",
    "traffic_of": "simulator.simulation",
    "value_at": "simulator.results.definitions",
    "values_that_hold": "simulator.resolution.holding",
    "with_unit": "simulator.results.format",
}

__all__ = [
    "AskedWords",
    "Definition",
    "Difference",
    "FleetEvent",
    "History",
    "Line",
    "MeasuredRun",
    "PlanWords",
    "Result",
    "Roofline",
    "RooflineStep",
    "Scenario",
    "Setting",
    "StepOperator",
    "TraceProfile",
    "UserError",
    "__version__",
    "asked_words",
    "compare",
    "compare_all",
    "definition_of",
    "deployment_scenario",
    "describe_plan",
    "dump_plan",
    "dump_scenario",
    "duration",
    "engine_names",
    "engine_origins",
    "explain_result",
    "figure_text",
    "figure_title",
    "hardware_origins",
    "is_rate_table",
    "launch_files",
    "load_engine",
    "load_hardware",
    "load_lines",
    "load_model",
    "load_plan",
    "load_report",
    "load_scenario",
    "load_with_places",
    "on_front",
    "origins",
    "parse_plan",
    "parse_scenario",
    "parse_with_places",
    "plan",
    "plan_choices",
    "plan_data",
    "plan_document",
    "plan_names",
    "plan_page",
    "plan_table",
    "plan_words",
    "profile_trace",
    "read_measurements",
    "roofline",
    "run_lines",
    "scenario_differences",
    "scenario_field",
    "scenario_files",
    "scenario_names",
    "simulate",
    "sweep",
    "table_names",
    "trace_names",
    "traffic_of",
    "value_at",
    "values_that_hold",
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
