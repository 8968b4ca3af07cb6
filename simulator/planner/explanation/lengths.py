"""Traffic with longer or shorter prompts or outputs, the same draws behind them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from simulator.errors import ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.lengths import (
    EmpiricalLength,
    FixedLength,
    Length,
    LogNormalLength,
    NormalLength,
    TraceLengths,
    UniformLength,
)
from simulator.scenario.workload import MixWorkload, SessionsWorkload, TraceWorkload


def longer(scenario: Scenario, factor: float, *, prompts: bool) -> Scenario:
    """The scenario with prompts, or else outputs, ``factor`` times as long on average. Of sessions,
    the new tokens of every turn count as prompts.

    Raises:
        ScenarioError: the lengths come from a trace.
    """
    workload = scenario.workload
    if isinstance(workload, MixWorkload):
        classes = tuple(
            each.model_copy(update={"workload": _single(each.workload, factor, prompts=prompts)})
            for each in workload.classes
        )
        changed: BaseModel = workload.model_copy(update={"classes": classes})
    else:
        changed = _single(workload, factor, prompts=prompts)
    return scenario.model_copy(update={"workload": changed})


def _single(workload: Any, factor: float, *, prompts: bool) -> Any:
    if isinstance(workload, SessionsWorkload):
        name = "user_tokens" if prompts else "output_tokens"
        return workload.model_copy(update={name: _times(getattr(workload, name), factor)})
    if isinstance(workload, TraceWorkload) or isinstance(workload.lengths, TraceLengths):
        raise ScenarioError("lengths are as the trace has them")
    name = "input" if prompts else "output"
    length = _times(getattr(workload.lengths, name), factor)
    return workload.model_copy(
        update={"lengths": workload.lengths.model_copy(update={name: length})}
    )


def _times(length: Length, factor: float) -> Length:
    def whole(tokens: int) -> int:
        return max(1, round(tokens * factor))

    if isinstance(length, FixedLength):
        return length.model_copy(update={"tokens": whole(length.tokens)})
    if isinstance(length, UniformLength):
        ends = {"low": whole(length.low), "high": whole(length.high)}
        return length.model_copy(update=ends)
    if isinstance(length, EmpiricalLength):
        return length.model_copy(update={"tokens": tuple(map(whole, length.tokens))})
    changes: dict[str, float] = {"mean": length.mean * factor}
    if isinstance(length, NormalLength):
        changes["std"] = length.std * factor
    if not length.low <= changes["mean"] <= length.high:
        raise ScenarioError("the mean would leave low .. high")
    assert isinstance(length, NormalLength | LogNormalLength)
    return length.model_copy(update=changes)
