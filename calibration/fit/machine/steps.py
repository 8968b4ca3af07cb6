"""What a step takes beyond its operators: planning, packing, launching, handing out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from calibration.fit.machine.operators import precision_of
from calibration.fit.solve import Floats, median_error
from calibration.measure.rows import Row
from simulator.costs.model import StepCostModel
from simulator.costs.protocol import step_seconds
from simulator.deployment import Limits
from simulator.engines.profile import EngineProfile, HostOverhead, Launches
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import ALONE
from simulator.models.spec import ModelSpec

_NOTHING = {"host": HostOverhead(step_ms=0, per_seq_us=0), "launches": Launches(kernel_us=0)}


@dataclass(frozen=True)
class Steps:
    """Steps of bursts, with what the cost model says of their operators alone.

    Shapes (steps,): sequences, tokens, kernels launched one by one (0 in a graph), seconds of the
    operators, measured seconds, host seconds; ``burst``: which one each step is of.
    """

    sequences: Floats
    tokens: Floats
    kernels: Floats
    operators: Floats
    measured: Floats
    host: Floats
    prompts: np.ndarray
    burst: np.ndarray

    def part(self, chosen: np.ndarray) -> Steps:
        """Some of them."""
        return Steps(**{name: values[chosen] for name, values in vars(self).items()})


def steps_of(
    rows: Sequence[Row],
    models: dict[str, ModelSpec],
    hardware: HardwareProfile,
    engine: EngineProfile,
    limits: Limits,
) -> Steps:
    """All steps of bursts, but those before which nothing ran."""
    bare = engine.overheads[-1].model_copy(update=_NOTHING)
    engine = engine.model_copy(update={"overheads": (bare,)})
    costs: dict[Any, StepCostModel] = {}
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if row.what != "step" or row.idle:
            continue
        key = row.model, precision_of(row)
        if key not in costs:
            costs[key] = StepCostModel(models[row.model], hardware, engine, key[1], ALONE, limits)
        cost, chunks = costs[key], row.prompt_chunks
        alone = not chunks and bool(limits.cuda_graphs)
        columns["operators"].append(predicted(cost, row))
        columns["sequences"].append(row.decode + len(chunks))
        columns["tokens"].append(row.rows)
        columns["kernels"].append(0 if alone else sum(op.kernels for op in cost.operators))
        columns["measured"].append(row.seconds)
        columns["host"].append(row.host_s)
        columns["prompts"].append(bool(chunks))
        columns["burst"].append(f"{row.model} {row.name}")
    return Steps(**{name: np.asarray(values) for name, values in columns.items()})


def predicted(cost: StepCostModel, row: Row) -> float:
    """What the cost model says of a measured step."""
    return step_seconds(
        cost, row.decode, row.context, row.local_context, row.prompt_chunks, row.sampled
    )


def fit_steps(steps: Steps, *, on_host: bool) -> tuple[HostOverhead, Launches]:
    """Host time a step, a sequence and a token, none below zero. ``on_host``: the processor is the
    device, so that nothing hides it; otherwise it is what the host took to plan and enqueue."""
    ones = np.ones(len(steps.measured))
    if on_host:
        a = np.stack([ones, steps.sequences, steps.tokens], axis=1)
        step, sequence, token = _relative(a, steps.measured - steps.operators, steps.measured)
        return _host(step, sequence, token, overlap=0.0), Launches(kernel_us=0)
    a = np.stack([ones, steps.sequences, steps.tokens, steps.kernels], axis=1)
    step, sequence, token, kernel = _relative(a, steps.host, steps.host)
    on_host_s = a[:, :3] @ np.array([step, sequence, token])
    hidden = np.maximum(steps.operators, a[:, 3] * kernel)
    seen = np.median(np.maximum(steps.measured - hidden, 0.0) / np.maximum(on_host_s, 1e-9))
    overlap = 1.0 - min(float(seen), 1.0)
    return _host(step, sequence, token, overlap=overlap), Launches(kernel_us=_rounded(kernel * 1e6))


def fitted_seconds(steps: Steps, host: HostOverhead, launches: Launches) -> Floats:
    """Steps as the cost model predicts them with these overheads."""
    on_host = (
        host.step_ms * 1e-3
        + host.per_seq_us * 1e-6 * steps.sequences
        + host.per_token_us * 1e-6 * steps.tokens
    )
    floor = np.maximum(steps.kernels * launches.kernel_us * 1e-6, host.overlap * on_host)
    result: Floats = np.maximum(steps.operators, floor) + (1 - host.overlap) * on_host
    return result


def left_out(steps: Steps, *, on_host: bool) -> Floats:
    """ln(measured / predicted) of every step from a fit without its burst."""
    logs = np.zeros(len(steps.measured))
    for burst in np.unique(steps.burst):
        here = steps.burst == burst
        rest = steps.part(~here) if not here.all() else steps
        found = fit_steps(rest, on_host=on_host)
        part = steps.part(here)
        logs[here] = np.log(part.measured / fitted_seconds(part, *found))
    return logs


def errors(logs: Floats, prompts: np.ndarray) -> dict[str, float]:
    """Median errors in percent: steps with prompts stand for TTFT, the others for TPOT."""
    kinds = {"ttft_ms": prompts, "tpot_ms": ~prompts}
    return {
        name: round(100 * median_error(logs[chosen]), 2)
        for name, chosen in kinds.items()
        if chosen.any()
    }


def _relative(a: Floats, target: Floats, scale: Floats) -> list[float]:
    """Coefficients, none negative, with the least sum of relative errors, large ones damped."""
    scale = np.maximum(scale, 1e-9)
    weighted, wanted = a / scale[:, None], target / scale
    start, _ = nnls(weighted, wanted)
    size = np.maximum(start, 1e-9)
    found = least_squares(
        lambda x: weighted @ (x * size) - wanted, start / size, bounds=(0, np.inf),
        loss="soft_l1", f_scale=0.02,
    )  # fmt: skip
    return [float(x) for x in found.x * size]


def _host(step: float, sequence: float, token: float, *, overlap: float) -> HostOverhead:
    return HostOverhead(
        step_ms=_rounded(step * 1e3),
        per_seq_us=_rounded(sequence * 1e6),
        per_token_us=_rounded(token * 1e6),
        overlap=round(overlap, 3),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if value > 1e-6 else 0.0
