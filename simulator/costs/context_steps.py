"""Step times of ranks that share prompts and KV cache (simulator.costs.context)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.context import RingAttention, RingPrompts
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Shape
from simulator.costs.parts import CostParts
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.results.record import StepTable
from simulator.workload.requests import Floats

_ATTENTION = (DecodeAttention, PrefillAttention)


class ContextCostModel(StepCostModel):
    """Predicted step times of ``layout.cp`` groups of devices that share prompts and KV cache."""

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: EngineProfile,
        precision: ResolvedPrecision,
        layout: Layout,
        limits: Limits,
    ) -> None:
        self._ranks = layout.cp
        super().__init__(spec, hardware, engine, precision, layout, limits)
        rings = [op for op in self.operators if isinstance(op, RingAttention)]
        if rings:
            self._full_prompts = RingPrompts(rings)

    def parts(self) -> CostParts:
        """See ``StepCostModel.parts``."""
        return replace(super().parts(), ranks=self._ranks)

    def _padding(self, tokens: int, *, mixed: bool) -> tuple[int, float]:
        """Tokens of one rank."""
        return super()._padding(-(-tokens // self._ranks), mixed=mixed)

    def _grow_sampled(self, most: int) -> None:
        super()._grow_sampled(-(-most // self._ranks))
        self._sampled_s = [self._sampled_s[-(-s // self._ranks)] for s in range(most + 1)]

    def _shape_of(self, steps: StepTable) -> Shape:
        whole, n = super()._shape_of(steps), self._ranks
        tokens = np.ceil((steps.decode + steps.prefill_tokens) / n)
        return replace(
            whole, tokens=self._pad(tokens, steps.prefill > 0),
            sampled=np.ceil(whole.sampled / n), prefill=whole.prefill / n, pairs=whole.pairs / n,
        )  # fmt: skip

    def _useful_shares(self, steps: StepTable, shape: Shape) -> dict[type, Floats]:
        found = super()._useful_shares(steps, shape)
        per_token = {kind: share / self._ranks for kind, share in found.items()}
        return found | {kind: per_token[kind] for kind in found if kind not in _ATTENTION}
