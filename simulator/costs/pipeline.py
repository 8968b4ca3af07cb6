"""Step times of a replica in stages: each has a part of the layers, and hidden states travel on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.costs.model import UNMEASURED, StepCostModel
from simulator.costs.protocol import Chunk, Passage
from simulator.costs.rows import added
from simulator.costs.transfers import transfers
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import EngineProfile, HostOverhead
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.models.stages import stage_specs
from simulator.results.record import StepTable, StepWork
from simulator.workload.requests import Floats


class PipelineCostModel:
    """Predicted passages through ``layout.pp`` stages (``PipelineCost``), and what is behind them
    (``Accountant``).

    The engine's host work of a step comes before the first stage; workers of the others prepare
    theirs while the stages before them work. The front end that no step may outrun takes the tokens
    of the last stage.

    Raises:
        UserError: the device cannot run this, or nothing joins the stages' devices.
    """

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: EngineProfile,
        precision: ResolvedPrecision,
        layout: Layout,
        limits: Limits,
    ) -> None:
        parts = stage_specs(spec, layout.pp)
        one = replace(layout, pp=1)
        made: dict[ModelSpec, int] = {}
        self.models: list[StepCostModel] = []
        self.model_of: list[int] = []
        """Stages with equal layers have one model."""
        for part in parts:
            if part not in made:
                made[part] = len(self.models)
                own = _of_stage(engine, first=part.embeds, last=part.samples)
                self.models.append(StepCostModel(part, hardware, own, precision, one, limits))
            self.model_of.append(made[part])
        self.stages = layout.pp
        self._power = hardware.power
        self.ways = transfers(spec, hardware, engine, precision, layout)
        self.lags: list[float] = []
        for transfer in self.ways:
            self.lags += [0.0, transfer.latency_s]
        self.lags.append(0.0)
        self.local_span = max(model.local_span for model in self.models)
        self.local_is_chunked = any(model.local_is_chunked for model in self.models)
        stages = [self.models[number] for number in self.model_of]
        self.peak_flops = sum(model.peak_flops for model in stages)
        self.peak_bytes_per_s = sum(model.peak_bytes_per_s for model in stages)
        self.idle_w = sum(model.idle_w for model in stages)

    # --- the clock's questions -------------------------------------------------------------------

    def decode_passage(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> Passage:
        """See ``PipelineCost.decode_passage``."""
        lines = [
            model.decode(sequences, context, local_context, local_growth) for model in self.models
        ]
        first: list[float] = []
        slope: list[float] = []
        for stage, number in enumerate(self.model_of):
            if stage:
                first.append(self.ways[stage - 1].seconds_per_token * sequences)
                slope.append(0.0)
            seconds, growth, _ = lines[number]
            first.append(seconds)
            slope.append(growth)
        return Passage(first, slope, min([line[2] for line in lines]))

    def step_passage(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> list[float]:
        """See ``PipelineCost.step_passage``."""
        seconds = [
            model.step(sequences, context, local_context, chunks, sampled) for model in self.models
        ]
        tokens = sequences + sum([chunk.new for chunk in chunks])
        times: list[float] = []
        for stage, number in enumerate(self.model_of):
            if stage:
                times.append(self.ways[stage - 1].seconds_per_token * tokens)
            times.append(seconds[number])
        return times

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; alone in the pipeline."""
        first, slope, most = self.decode_passage(sequences, context, local_context, local_growth)
        return sum(first) + sum(self.lags), sum(slope), most

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``; alone in the pipeline."""
        times = self.step_passage(sequences, context, local_context, chunks, sampled)
        return sum(times) + sum(self.lags)

    # --- after the run ---------------------------------------------------------------------------

    def account(self, steps: StepTable) -> StepWork:
        """Work behind each row, of all stages. Operators and resources are seconds of the lane and
        add up to the row's duration; what no operator explains is the host's, before the first
        stage. Devices work on a row while it is on their stage, and only then."""
        travel, latency = self._travel(steps)
        works = [_on_stage(model, steps) for model in self.models]
        device_s = np.sum([works[number].device_s for number in self.model_of], axis=0)
        inside = np.maximum(steps.duration_s - steps.stall_s - travel - latency, 0.0)
        host = np.maximum(inside - device_s, 0.0)
        operator_s: dict[str, Floats] = {}
        resource_s = {"host": host, "stall": steps.stall_s, "network": travel, "latency": latency}
        load: dict[str, Floats] = {}
        energy, flops, moved, link = (np.zeros(len(steps)) for _ in range(4))
        for stage, number in enumerate(self.model_of):
            model, own = self.models[number], works[number]
            took = own.device_s + host if stage == 0 else own.device_s
            _add(operator_s, own.work.operator_s)
            _add(resource_s, own.work.resource_s)
            _add(load, own.load_s)
            shares = {
                name: np.minimum(seconds / np.maximum(took, 1e-30), 1.0)
                for name, seconds in own.load_s.items()
            }
            energy += took * model.devices * self._power.step_w(shares)
            flops += own.work.model_flops
            moved += own.work.hbm_bytes
            link += own.work.link_bytes
        _add(operator_s, {"host": host, "stall": steps.stall_s, "stage_transfer": travel + latency})
        sent = sum([transfer.bytes_per_token for transfer in self.ways])
        busy = device_s + host
        return StepWork(
            model_flops=flops,
            hbm_bytes=moved,
            link_bytes=(link + sent * _tokens(steps)) / self.stages,
            energy_j=energy,
            operator_s=operator_s,
            resource_s=resource_s,
            load={name: seconds / np.maximum(busy, 1e-30) for name, seconds in load.items()},
            busy_s=busy / self.stages,
            powered_s=busy / self.stages,
        )

    def binding(self, steps: StepTable) -> dict[str, dict[str, float]]:
        """See ``StepCostModel.binding``; of all stages, and of the way between them."""
        found: dict[str, dict[str, float]] = {}
        each = [model.binding(steps) for model in self.models]
        for number in self.model_of:
            for name, seconds in each[number].items():
                added(found.setdefault(name, {}), seconds)
        travel, latency = self._travel(steps)
        found["stage_transfer"] = {"network": float(travel.sum()), "latency": float(latency.sum())}
        return found

    def residual_range(self, steps: StepTable) -> tuple[float, float]:
        """See ``Accountant.residual_range``. Stages have the same kernels, which err together."""
        found, weights = [], []
        for model in self.models:
            own = _on_stage(model, steps)
            alone = replace(steps, first_s=own.device_s / steps.steps, slope_s=0.0 * steps.slope_s)
            found.append(model.residual_range(alone))
            weights.append(float(own.device_s.sum()))
        travel, latency = self._travel(steps)
        found.append(UNMEASURED)
        weights.append(float((travel + latency).sum()))
        shares = [weights[number] for number in (*self.model_of, -1)]
        ranges = [found[number] for number in (*self.model_of, -1)]
        total = max(float((steps.duration_s - steps.stall_s).sum()), 1e-30)
        low, high = (
            sum(share / total * abs(each[side]) for share, each in zip(shares, ranges, strict=True))
            for side in (0, 1)
        )
        return low, high

    def _travel(self, steps: StepTable) -> tuple[Floats, Floats]:
        """Seconds of each row on links: for its bytes, and latencies."""
        rate = sum([transfer.seconds_per_token for transfer in self.ways])
        return rate * _tokens(steps), sum(self.lags) * steps.steps.astype(np.float64)


@dataclass(frozen=True, slots=True)
class _OnStage:
    """What rows ask of one stage: ``device_s`` seconds of its devices, of which ``load_s`` at full
    load of each kind; ``work`` without host and stall."""

    work: StepWork
    device_s: Floats
    load_s: dict[str, Floats]


_LONG_S = 1e9


def _on_stage(model: StepCostModel, steps: StepTable) -> _OnStage:
    """Asks as if every step took so long that no share of it is cut at the whole."""
    long = np.full(len(steps), _LONG_S)
    nothing = np.zeros(len(steps))
    work = model.account(replace(steps, first_s=long, slope_s=nothing, stall_s=nothing))
    for parts in (work.operator_s, work.resource_s):
        parts.pop("host")
        parts.pop("stall")
    device_s = np.sum(list(work.operator_s.values()), axis=0)
    whole = long * steps.steps
    return _OnStage(work, device_s, {name: share * whole for name, share in work.load.items()})


def _add(sums: dict[str, Floats], parts: dict[str, Floats]) -> None:
    for name, seconds in parts.items():
        sums[name] = sums[name] + seconds if name in sums else seconds


def _tokens(steps: StepTable) -> Floats:
    """Tokens that pass the stages, all steps of each row together."""
    tokens: Floats = (steps.decode * steps.steps + steps.prefill_tokens).astype(np.float64)
    return tokens


def _of_stage(engine: EngineProfile, *, first: bool, last: bool) -> EngineProfile:
    """The engine's overheads as one stage feels them."""
    overheads = engine.overheads[-1]
    changes: dict[str, object] = {}
    if not first:
        changes["host"] = HostOverhead(step_ms=0.0, per_seq_us=0.0)
    if not last:
        changes["front_end"] = overheads.front_end.model_copy(update={"token_us": 0.0})
    if not changes:
        return engine
    return engine.model_copy(update={"overheads": (overheads.model_copy(update=changes),)})
