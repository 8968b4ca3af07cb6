"""Steps with speculative decoding: the target that verifies, and the draft before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.costs.model import StepCostModel
from simulator.costs.protocol import Chunk
from simulator.costs.rows import added
from simulator.deployment import Speculation
from simulator.results.record import DRAFT, StepTable, StepWork
from simulator.workload.requests import Floats, Ints

LOOKUP = DRAFT + "lookup"
"""The operator that looks drafts up in what a sequence has said."""


class Drafter:
    """The passes of a draft over its own weights and cache.

    A step that drafts k tokens takes k decode passes one after another, the first of them together
    with the step's prompt tokens. A step that drafts nothing takes none; what the draft has to read
    later because of that is not counted. Passes of a step are priced at the context in the middle.

    Args:
        cost: of the draft alone, without work on the host.
        idle_devices: devices of the replica that wait meanwhile.
        idle_w: what each of them draws.
    """

    def __init__(self, cost: StepCostModel, idle_devices: int = 0, idle_w: float = 0.0) -> None:
        self.cost = cost
        self.idle_w = idle_devices * idle_w
        self._span = cost.local_span

    def seconds(self, passes: int, sequences: int, context: int) -> float:
        """Decode passes of a step without prompts."""
        return self._decode(passes, sequences, context)

    def mixed_seconds(
        self, passes: int, sequences: int, context: int, chunks: Sequence[Chunk], sampled: int
    ) -> float:
        """The same of a step with prompts, the first pass with these."""
        local = self._local(sequences, context)
        first = self.cost.step(sequences, context, local, chunks, sampled)
        if passes == 1 or not sequences:
            return first
        return first + self._decode(passes - 1, sequences, context + sequences)

    def _decode(self, passes: int, sequences: int, context: int) -> float:
        middle = context + sequences * (passes - 1) // 2
        local = self._local(sequences, middle)
        return passes * self.cost.decode(sequences, middle, local, 0)[0]

    def seconds_series(self, passes: int, sequences: int, context: Ints) -> Floats:
        """``seconds`` for each context. Shapes (steps,)."""
        middle = context + sequences * (passes - 1) // 2
        local = np.minimum(middle, sequences * self._span) if self._span else middle
        seconds = self.cost.decode_series(sequences, middle, local)
        seconds *= passes
        return seconds

    def _local(self, sequences: int, context: int) -> int:
        """Tokens in the draft's local span; the target's span says nothing about them."""
        return min(context, sequences * self._span)

    # --- after the run ---------------------------------------------------------------------------

    def tables(self, steps: StepTable, passes: Ints) -> list[StepTable]:
        """The passes behind each row, a row for those alike, with their durations: first passes
        with prompts, then all that only decode; rows without any last no time. ``passes`` of each
        row, none where it drafts nothing, have shape (rows,)."""
        alone = replace(
            steps,
            stall_s=0.0 * steps.stall_s,
            slope_s=0.0 * steps.slope_s,
            local_growth=0.0 * steps.local_growth,
            accepted_tokens=0 * steps.accepted_tokens,
            gap_tokens=0 * steps.gap_tokens,
        )
        mixed = (steps.prefill > 0) & (passes > 0)
        spans = steps.decode * float(self._span)
        first = replace(
            alone,
            steps=mixed.astype(np.int64),
            local_context=np.minimum(steps.context, spans),
            local_pairs=np.minimum(steps.prefill_pairs, steps.prefill_tokens * float(self._span)),
        )
        others = np.where(steps.decode > 0, passes - mixed, 0)
        middle = steps.context + steps.decode * mixed + steps.decode * (others - 1) // 2
        none, nothing = 0 * steps.prefill, 0.0 * steps.context
        rest = replace(
            alone,
            steps=others,
            context=middle - steps.decode * (others - 1) / 2,
            local_context=np.minimum(middle, spans),
            sampled=steps.decode,
            prefill=none, prefill_tokens=none, wasted_tokens=none,
            prefill_pairs=nothing, local_pairs=nothing, prefill_context=nothing,
        )  # fmt: skip
        return [self._timed(first), self._timed(rest)]

    def _timed(self, table: StepTable) -> StepTable:
        tokens = (table.decode + table.prefill_tokens).astype(np.float64)
        floor = self.cost.launch_floor_s(tokens, table.prefill > 0)
        device = self.cost.device_s(table) / np.maximum(table.steps, 1)
        return replace(table, first_s=np.maximum(device, floor))


class SpeculativeCost:
    """Steps of a replica that speculates (``StepCost`` and ``Accountant``).

    Args:
        plain: the target where a step drafts nothing.
        verify: the target where each decoding sequence has its drafts to verify.
        speculation: when that is.
        drafter: who drafts; None: nobody on a device.
        lookup_s: host seconds to look up the drafts of one sequence.
    """

    def __init__(
        self,
        plain: StepCostModel,
        verify: StepCostModel,
        speculation: Speculation,
        *,
        drafter: Drafter | None = None,
        lookup_s: float = 0.0,
    ) -> None:
        self.local_span = plain.local_span
        self.local_is_chunked = plain.local_is_chunked
        self.devices = plain.devices
        self.peak_flops = plain.peak_flops
        self.peak_bytes_per_s = plain.peak_bytes_per_s
        self.idle_w = plain.idle_w
        self._plain = plain
        self._verify = verify
        self._drafter = drafter
        self._lookup_s = lookup_s
        self._tokens = speculation.tokens
        self.max_batch = speculation.max_batch

    @property
    def models(self) -> tuple[StepCostModel, StepCostModel]:
        """Of steps that draft nothing, and of those that verify drafts."""
        return self._plain, self._verify

    # --- the clock's questions -------------------------------------------------------------------

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``; a straight line never holds for more than one step."""
        if sequences > self.max_batch:
            return self._plain.decode(sequences, context, local_context, 0)[0], 0.0, 1
        seconds = self._verify.decode(sequences, context, local_context, 0)[0]
        seconds += self._lookup_s * sequences
        if self._drafter is not None:
            seconds += self._drafter.seconds(self._tokens, sequences, context)
        return seconds, 0.0, 1

    def decode_series(self, sequences: int, context: Ints, local_context: Ints) -> Floats:
        """See ``SeriesCost.decode_series``; the operations of ``decode`` in its order."""
        if sequences > self.max_batch:
            return self._plain.decode_series(sequences, context, local_context)
        seconds = self._verify.decode_series(sequences, context, local_context)
        if self._lookup_s:
            seconds += self._lookup_s * sequences
        if self._drafter is not None:
            seconds += self._drafter.seconds_series(self._tokens, sequences, context)
        return seconds

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        if sequences > self.max_batch:
            return self._plain.step(sequences, context, local_context, chunks, sampled)
        seconds = self._verify.step(sequences, context, local_context, chunks, sampled)
        seconds += self._lookup_s * sequences
        if self._drafter is not None:
            seconds += self._drafter.mixed_seconds(
                self._tokens, sequences, context, chunks, sampled
            )
        return seconds

    # --- after the run ---------------------------------------------------------------------------

    def account(self, steps: StepTable) -> StepWork:
        """Work behind each row; the draft's operators have names of their own."""
        work = _Sum(steps, self.devices)
        for part in self._parts(steps):
            work.add(part, self._drafter.idle_w if part.drafts and self._drafter else 0.0)
        work.wait(self._looked_up(steps), self.idle_w)
        return work.total(self._rejected(steps))

    def binding(self, steps: StepTable) -> dict[str, dict[str, float]]:
        """See ``StepCostModel.binding``; of the draft as well."""
        found: dict[str, dict[str, float]] = {}
        for part in self._parts(steps):
            prefix = DRAFT if part.drafts else ""
            for name, seconds in part.model.binding(part.table).items():
                added(found.setdefault(prefix + name, {}), seconds)
        return found

    def _drafting(self, steps: StepTable) -> npt.NDArray[np.bool_]:
        drafting: npt.NDArray[np.bool_] = steps.decode <= self.max_batch
        return drafting

    def _looked_up(self, steps: StepTable) -> Floats:
        """Seconds of each row in which drafts are looked up."""
        return np.where(self._drafting(steps), self._lookup_s * steps.decode, 0.0)

    def _parts(self, steps: StepTable) -> list[_Part]:
        """Who works in which rows, and for how long."""
        drafting = self._drafting(steps)
        parts = []
        if self._drafter is not None:
            passes = np.where(drafting, self._tokens, 0)
            everything = np.arange(len(steps))
            for table in self._drafter.tables(steps, passes):
                parts.append(_Part(self._drafter.cost, table, everything, drafts=True))
        drafted = sum((part.table.duration_s for part in parts), start=self._looked_up(steps))
        own = replace(steps, first_s=steps.first_s - drafted)
        for model, rows in ((self._verify, drafting), (self._plain, ~drafting)):
            chosen = np.flatnonzero(rows)
            if len(chosen):
                parts.append(_Part(model, own.select(chosen), chosen, drafts=False))
        return parts

    def _rejected(self, steps: StepTable) -> Floats:
        """Rejected tokens of each row for every token of use. Shape (rows,)."""
        drafted = np.where(self._drafting(steps), self._tokens * steps.decode, 0)
        useful = steps.decode + steps.accepted_tokens + steps.prefill_tokens - steps.wasted_tokens
        share: Floats = (drafted - steps.accepted_tokens) / np.maximum(useful, 1)
        return share

    def residual_range(self, steps: StepTable) -> tuple[float, float]:
        """See ``Accountant.residual_range``. The draft's kernels are of the same families as the
        target's and are taken to be off together with them."""
        total = max(float(steps.duration_s.sum()), 1e-30)
        low = high = 0.0
        for part in self._parts(steps):
            share = float(part.table.duration_s.sum()) / total
            below, above = part.model.residual_range(part.table)
            low, high = low + share * below, high + share * above
        return low, high


class _Part(NamedTuple):
    """What one model does in the rows with the given numbers, a row of ``table`` for each."""

    model: StepCostModel
    table: StepTable
    rows: Ints
    drafts: bool


class _Sum:
    """Adds up the work of several models behind the same rows."""

    def __init__(self, steps: StepTable, devices: int) -> None:
        n = len(steps)
        self._n = n
        self._devices = devices
        self._duration = np.maximum(steps.duration_s, 1e-30)
        self._model_flops, self._draft_flops = np.zeros(n), np.zeros(n)
        self._hbm, self._link, self._energy = np.zeros(n), np.zeros(n), np.zeros(n)
        self._operators: dict[str, Floats] = {}
        self._resources: dict[str, Floats] = {}
        self._load: dict[str, Floats] = {}

    def add(self, part: _Part, idle_w: float) -> None:
        """What a model does, while devices that it does not use draw ``idle_w``."""
        work, rows, duration = part.model.account(part.table), part.rows, part.table.duration_s
        (self._draft_flops if part.drafts else self._model_flops)[rows] += work.model_flops
        self._hbm[rows] += work.hbm_bytes
        self._link[rows] += work.link_bytes
        self._energy[rows] += work.energy_j + idle_w * duration
        prefix = DRAFT if part.drafts else ""
        for name, seconds in work.operator_s.items():
            self._operators.setdefault(prefix + name, np.zeros(self._n))[rows] += seconds
        for name, seconds in work.resource_s.items():
            self._resources.setdefault(name, np.zeros(self._n))[rows] += seconds
        share = duration / self._duration[rows] * part.model.devices / self._devices
        for name, load in work.load.items():
            self._load.setdefault(name, np.zeros(self._n))[rows] += load * share

    def wait(self, seconds: Floats, idle_w: float) -> None:
        """All devices wait for the host to look drafts up."""
        if seconds.any():
            self._operators[LOOKUP] = seconds
            self._resources["host"] = self._resources["host"] + seconds
            self._energy += idle_w * seconds

    def total(self, rejected: Floats) -> StepWork:
        """Everything together; ``rejected``: tokens in vain for every token of use."""
        return StepWork(
            model_flops=self._model_flops,
            hbm_bytes=self._hbm,
            link_bytes=self._link,
            energy_j=self._energy,
            operator_s=self._operators,
            resource_s=self._resources,
            load=self._load,
            lost_flops={
                "drafting": self._draft_flops, "rejected": self._model_flops * rejected,
            },
        )  # fmt: skip
