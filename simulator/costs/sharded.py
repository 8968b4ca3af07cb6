"""Fully sharded weights: each layer's weights lie in parts on several replicas and are gathered
before use, a layer ahead (ZeRO-Inference, arXiv:2207.00032, section 6; FSDP, arXiv:2304.11277).

While one layer is computed, the next one's weights come from the peers. Over a step that takes

    t = max(what the layers take, gathering + what the layers themselves send)

because both go over the same links: gathers that are shorter than a layer's work are hidden, longer
ones set the pace. Replicas fetch parts from each other's memory whenever they need them and step
each at their own time; the next step's first layer is gathered during the last one of this step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simulator.costs.build import OperatorBuilder
from simulator.costs.exchange import NodeCollective
from simulator.costs.links import Fabric
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Collective, Operator
from simulator.costs.parts import CostParts
from simulator.costs.rows import table, table_shape
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.hardware.profile import HardwareProfile
from simulator.models.counting import layer_bytes_per_rank
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.results.record import StepTable, StepWork

GATHER = "weight_gather"


def gathers(
    spec: ModelSpec,
    hardware: HardwareProfile,
    engine: str,
    precision: ResolvedPrecision,
    layout: Layout,
) -> list[Operator]:
    """One all-gather for each layer; their messages do not depend on the tokens, so ask for one."""
    builder = OperatorBuilder(spec, hardware, engine, precision, layout)
    group = Fabric(hardware).group(layout.fsdp, where="parallelism.fsdp", stride=layout.devices)
    return [
        builder.collective(GATHER, count, size, all_reduce=False, group=group)
        for count, size in layer_bytes_per_rank(spec, precision.weights, layout)
    ]


def _over_links(operators: Sequence[Operator]) -> list[Operator]:
    return [op for op in operators if isinstance(op, Collective | NodeCollective)]


class ShardedCostModel(StepCostModel):
    """Predicted step times of a replica that has a part of its weights, ``layout.fsdp`` replicas
    having all of them."""

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: EngineProfile,
        precision: ResolvedPrecision,
        layout: Layout,
        limits: Limits,
    ) -> None:
        found = gathers(spec, hardware, engine.name, precision, layout)
        once = table_shape(tokens=np.ones(1))
        demands = [op.demand(once) for op in found]
        self.gather_s = float(sum(demand.seconds[0] for demand in demands))
        self._gather_bytes = float(sum(demand.link[0] for demand in demands))
        self._sending_s: list[float] = []
        super().__init__(spec, hardware, engine, precision, layout, limits)

    def _grow_tokens(self, most: int) -> None:
        super()._grow_tokens(most)
        self._sending_s = table(_over_links(self._token_ops), most + 1)

    def parts(self) -> CostParts:
        """See ``StepCostModel.parts``."""
        return replace(super().parts(), least_s=self.gather_s)

    def _padding(self, tokens: int, *, mixed: bool) -> tuple[int, float]:
        """Tokens with padding, and the least time of launches and of the links."""
        padded, floor = super()._padding(tokens, mixed=mixed)
        if padded >= len(self._sending_s):
            self._reach_tokens(padded)
        return padded, max(floor, self.gather_s + self._sending_s[padded])

    def account(self, steps: StepTable) -> StepWork:
        """See ``Accountant.account``; what no work hides of the gathers is an operator."""
        work = super().account(steps)
        shape = self._shape_of(steps)
        k = steps.steps.astype(np.float64)
        sending = sum((op.demand(shape).seconds for op in _over_links(self._token_ops)), 0.0 * k)
        device = sum(
            (taken for name, taken in work.operator_s.items() if name not in ("host", "stall")),
            0.0 * k,
        )
        bare = np.maximum((self.gather_s + sending) * k - device, 0.0)
        bare = np.minimum(bare, work.operator_s["host"])
        host = work.operator_s["host"] - bare
        return replace(
            work,
            link_bytes=work.link_bytes + self._gather_bytes * k,
            operator_s=work.operator_s | {GATHER: bare, "host": host},
            resource_s=work.resource_s
            | {"network": work.resource_s["network"] + bare, "host": host},
        )
