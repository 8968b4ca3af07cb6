"""How long a step takes on one replica: the operators' times, host and launch overheads.

The clock asks millions of times, so everything that depends on the number of tokens or sequences
alone is in tables, and attention is a straight line in the summed context. Afterwards, ``account``
prices the recorded steps operator by operator with arrays.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.build import OperatorBuilder
from simulator.costs.context import ContextExchange
from simulator.costs.expert_ranks import RankExperts
from simulator.costs.kernels import with_kernels
from simulator.costs.operators import Demand, Experts, Matmul, Operator, Shape
from simulator.costs.parts import CostParts
from simulator.costs.protocol import Chunk, local_pairs
from simulator.costs.recurrent import PromptScans, RecurrentScan, RecurrentUpdate
from simulator.costs.rows import View, attribute, bound, table, table_shape, total
from simulator.costs.stretches import Bends, DecodeTable, PromptAttention, on_lines
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.results.record import StepTable, StepWork
from simulator.workload.requests import Floats, Ints

_ALWAYS = 1 << 60

UNMEASURED = (-0.25, 0.25)
"""ln(real / predicted) of kernels that nobody has measured: an assumption."""


class _Batch:
    """Of decode steps with so many sequences, all that does not depend on the context.

    ``fixed``: device seconds without attention; ``host``: host seconds that nothing hides;
    ``floor``: least device seconds, for launches and for the host's work behind it; ``full`` and
    ``local``: attention of the layers of each kind.
    """

    __slots__ = ("fixed", "floor", "full", "host", "local")

    def __init__(
        self, *, fixed: float, host: float, floor: float, full: Bends | None, local: Bends | None
    ) -> None:
        self.fixed = fixed
        self.host = host
        self.floor = floor
        self.full = full
        self.local = local


class StepCostModel:
    """Predicted step times of one replica (``StepCost``), and what is behind them (``Accountant``).

    Args:
        spec: the model.
        hardware: the device.
        engine: overheads and graphs.
        precision: number formats.
        layout: how the replica lies on devices.
        limits: the engine's limits; tables reach that far and grow on demand.
        builder: makes its operators.
        drafts: drafted tokens that every decoding sequence verifies in a step beside its last one.
        gain: tokens that this gives a sequence on average.

    Raises:
        UserError: the device cannot run this (no units for a type, no link).
    """

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: EngineProfile,
        precision: ResolvedPrecision,
        layout: Layout,
        limits: Limits,
        *,
        builder: type[OperatorBuilder] = OperatorBuilder,
        drafts: int = 0,
        gain: float = 1.0,
    ) -> None:
        built = builder(spec, hardware, engine.name, precision, layout)
        self.operators = with_kernels(built.build(), limits.kernels, hardware, built.efficiency)
        self._drafts = drafts
        self._gain = gain
        if drafts:
            self.operators = [_verifying(op, 1 + drafts) for op in self.operators]
        self._efficiency = built.efficiency
        self._adapters = limits.adapters
        self.devices = layout.devices
        self.peak_flops = self.devices * hardware.peak_flops_per_s(precision.activations)
        self.peak_bytes_per_s = self.devices * hardware.bandwidth_bytes_per_s
        self.idle_w = self.devices * hardware.power.idle_w.value
        self._power = hardware.power
        spans = {(g.span.kind, g.span.tokens) for g in spec.groups if g.span.kind != "full"}
        assert len(spans) <= 1, "all local layers of a model have the same span"
        kind, span = next(iter(spans), ("full", 0))
        self.local_span = span
        self.local_is_chunked = kind == "chunk"
        host = engine.host
        self._host_step = host.step_ms * 1e-3
        self._host_seq = host.per_seq_us * 1e-6
        self._host_token = host.per_token_us * 1e-6
        self._overlap = host.overlap if limits.async_scheduling else 0.0
        graphs = engine.cuda_graphs
        self._graph_sizes = graphs.sizes if limits.cuda_graphs else ()
        if drafts and graphs.per_sequence:
            self._graph_sizes = tuple(size * (1 + drafts) for size in self._graph_sizes)
        self._mixed_graphs = limits.cuda_graphs == "piecewise" or (
            graphs.piecewise and limits.cuda_graphs != "decode_only"
        )
        self._whole_graphs = limits.cuda_graphs != "piecewise"
        kernels = sum(op.kernels for op in self.operators)
        self._launch_s = kernels * engine.launches.kernel_us * 1e-6
        self._piece_s = spec.layers * engine.launches.piece_us * 1e-6
        self._emit_s = engine.front_end.token_us * 1e-6
        self._decode_ops: list[DecodeAttention | RecurrentUpdate | ContextExchange] = [
            op
            for op in self.operators
            if isinstance(op, DecodeAttention | RecurrentUpdate | ContextExchange)
        ]
        self._prefill_ops = [op for op in self.operators if isinstance(op, PrefillAttention)]
        self._token_ops = [
            op for op in self.operators if _per_token(op) and not _sampled(op) and self._is_own(op)
        ]
        self._sampled_ops = [op for op in self.operators if _sampled(op)]
        self._tokens_s: list[float] = []
        self._sampled_s: list[float] = []
        self._usual = limits.max_num_batched_tokens, limits.max_num_seqs
        self._full_prompts = PromptAttention.of([op for op in self._prefill_ops if not op.local])
        self._local_prompts = PromptAttention.of([op for op in self._prefill_ops if op.local])
        self._scans = PromptScans.of([op for op in self.operators if isinstance(op, RecurrentScan)])
        self._full = DecodeTable.of([op for op in self._decode_ops if not op.local])
        self._local = DecodeTable.of([op for op in self._decode_ops if op.local])
        self._batches: dict[int, _Batch] = {}
        self._alone: dict[int, float] = {}

    # --- the clock's questions -------------------------------------------------------------------

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        """See ``StepCost.decode``."""
        batch = self._batches.get(sequences) or self._batch(sequences)
        device = batch.fixed
        slope = 0.0
        steps = _ALWAYS
        if batch.full is not None:
            ends, starts, values, slopes = batch.full
            i = bisect_left(ends, context)
            device += values[i] + slopes[i] * (context - starts[i])
            slope = slopes[i] * sequences
            steps = (ends[i] - context) // sequences + 1
        if batch.local is not None:
            ends, starts, values, slopes = batch.local
            i = bisect_left(ends, local_context)
            device += values[i] + slopes[i] * (local_context - starts[i])
            if local_growth:
                slope += slopes[i] * local_growth
                steps = min(steps, (ends[i] - local_context) // local_growth + 1)
        if device >= batch.floor:
            return device + batch.host, slope, steps
        if slope > 0.0:
            steps = min(steps, int((batch.floor - device) / slope) + 1)
        return batch.floor + batch.host, 0.0, steps

    def decode_series(self, sequences: int, context: Ints, local_context: Ints) -> Floats:
        """See ``SeriesCost.decode_series``; the operations of ``decode`` in its order."""
        batch = self._batches.get(sequences) or self._batch(sequences)
        if batch.full is None:
            device = np.full(len(context), batch.fixed)
        else:
            device = on_lines(batch.full, context, context.item(0), context.item(-1))
            device += batch.fixed
        if batch.local is not None:
            low, high = int(local_context.min()), int(local_context.max())
            device += on_lines(batch.local, local_context, low, high)
        np.maximum(device, batch.floor, out=device)
        device += batch.host
        return device

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: Sequence[Chunk],
        sampled: int,
    ) -> float:
        """See ``StepCost.step``."""
        if len(chunks) == 1:
            new, past = chunks[0]
            # Most prompts come whole and alone: what their attention takes depends on one number.
            prompt = self._alone.get(new) if past == 0 else self._attend(chunks)
            if prompt is None:
                prompt = self._alone[new] = self._attend(chunks)
        else:
            new = sum([chunk[0] for chunk in chunks])
            prompt = self._attend(chunks)
        total = sequences + new
        emit = self._emit_s * sampled
        if self._drafts:
            total += self._drafts * sequences
            sampled += self._drafts * sequences
            emit += self._emit_s * (self._gain - 1.0) * sequences
        padded, floor = self._padding(total, mixed=True)
        if padded >= len(self._tokens_s):
            self._reach_tokens(padded)
        if sampled >= len(self._sampled_s):
            self._reach_sampled(sampled)
        device = self._tokens_s[padded] + self._sampled_s[sampled]
        if sequences:
            batch = self._batches.get(sequences) or self._batch(sequences)
            for bends, at in ((batch.full, context), (batch.local, local_context)):
                if bends is not None:
                    ends, starts, values, slopes = bends
                    i = bisect_left(ends, at)
                    device += values[i] + slopes[i] * (at - starts[i])
        device += prompt
        seqs = sequences + len(chunks)
        on_host = self._host_step + self._host_seq * seqs + self._host_token * total
        hidden = self._overlap * on_host
        floor = max(floor, hidden, emit)
        return (device if device > floor else floor) + on_host - hidden

    def _attend(self, chunks: Sequence[Chunk]) -> float:
        """Attention of prompt chunks, seconds."""
        span = self.local_span
        new = read = pairs = near_pairs = 0
        for tokens, past in chunks:
            new += tokens
            read += past + tokens
            pairs += tokens * past + tokens * (tokens + 1) // 2
            if span:
                near_pairs += local_pairs(tokens, past, span, chunked=self.local_is_chunked)
        seconds = 0.0
        if self._full_prompts is not None:
            seconds += self._full_prompts.seconds(new, read, pairs)
        if self._local_prompts is not None:
            near = min(read, new + len(chunks) * span)
            seconds += self._local_prompts.seconds(new, near, near_pairs)
        if self._scans is not None:
            seconds += self._scans.seconds(new, len(chunks))
        return seconds

    # --- tables ----------------------------------------------------------------------------------

    def _is_own(self, op: Operator) -> bool:
        """Whether an operator's tokens are those that a rank plans."""
        return True

    def _reach_tokens(self, tokens: int) -> None:
        """Tables up to the limits of a step when they are first asked for, which many deployments
        never are; up to twice as many tokens where padding or drafts exceed the limits."""
        usual = self._usual[0]
        self._grow_tokens(usual if tokens <= usual else 2 * tokens)

    def _reach_sampled(self, sampled: int) -> None:
        usual = self._usual[1]
        self._grow_sampled(usual if sampled <= usual else 2 * sampled)

    def _grow_tokens(self, most: int) -> None:
        self._tokens_s = table(self._token_ops, most + 1)

    def _grow_sampled(self, most: int) -> None:
        shape = table_shape(sampled=np.arange(most + 1, dtype=np.float64))
        self._sampled_s = total(self._sampled_ops, shape, most + 1).tolist()

    def _padding(self, tokens: int, *, mixed: bool) -> tuple[int, float]:
        """Tokens with padding to the next graph's size, and the least time the launches take."""
        sizes = self._graph_sizes
        if sizes and tokens <= sizes[-1] and (self._mixed_graphs or not mixed):
            in_pieces = mixed or not self._whole_graphs
            return sizes[bisect_left(sizes, tokens)], self._piece_s if in_pieces else 0.0
        return tokens, self._launch_s

    def _batch(self, sequences: int) -> _Batch:
        tokens = sequences * (1 + self._drafts)
        padded, floor = self._padding(tokens, mixed=False)
        if padded >= len(self._tokens_s):
            self._reach_tokens(padded)
        if tokens >= len(self._sampled_s):
            self._reach_sampled(tokens)
        ahead = self._drafts * sequences
        on_host = self._host_step + (self._host_seq + self._host_token) * sequences
        on_host += self._host_token * ahead
        emit = self._emit_s * self._gain * sequences
        batch = self._batches[sequences] = _Batch(
            fixed=self._tokens_s[padded] + self._sampled_s[tokens],
            host=(1.0 - self._overlap) * on_host,
            floor=max(floor, self._overlap * on_host, emit),
            full=self._full.bends(sequences, ahead) if self._full else None,
            local=self._local.bends(sequences, ahead) if self._local else None,
        )
        return batch

    def launch_floor_s(self, tokens: Floats, mixed: np.ndarray) -> Floats:
        """Least device seconds of steps with so many tokens, for launches. Shapes (steps,)."""
        in_pieces = mixed | (not self._whole_graphs)
        return np.where(self._in_graphs(tokens, mixed), in_pieces * self._piece_s, self._launch_s)

    def parts(self) -> CostParts:
        """What steps are made of; see ``CostParts``."""
        if not self._tokens_s:
            self._reach_tokens(0)
        if not self._sampled_s:
            self._reach_sampled(0)
        return CostParts(
            tokens_s=self._tokens_s,
            sampled_s=self._sampled_s,
            token_ops=self._token_ops,
            sampled_ops=self._sampled_ops,
            full=self._full,
            local=self._local,
            full_prompts=self._full_prompts,
            local_prompts=self._local_prompts,
            host_s=(self._host_step, self._host_seq, self._host_token),
            overlap=self._overlap,
            emit_s=self._emit_s,
            launch_s=self._launch_s,
            piece_s=self._piece_s,
            largest_graph=self._graph_sizes[-1] if self._graph_sizes else 0,
            mixed_graphs=self._mixed_graphs,
            whole_graphs=self._whole_graphs,
            drafts=self._drafts,
        )

    # --- after the run ---------------------------------------------------------------------------

    def device_s(self, steps: StepTable) -> Floats:
        """Seconds that the operators of each row take. Shape (rows,)."""
        return total(self.operators, self._shape_of(steps), len(steps)) * steps.steps

    def account(self, steps: StepTable) -> StepWork:
        """Work behind each row; see ``StepWork``. Sums over operators equal the rows' durations."""
        view = self._view(steps)
        shape, devices = view.shape, view.devices
        k = steps.steps.astype(np.float64)
        duration = steps.duration_s
        operator_s: dict[str, Floats] = {}
        resource_s = {
            name: np.zeros(len(steps))
            for name in ("compute", "memory", "network", "latency", "host", "stall")
        }
        flops = np.zeros(len(steps))
        model_flops = np.zeros(len(steps))
        useful = self._useful_shares(steps, shape)
        moved = np.zeros(len(steps))
        link = np.zeros(len(steps))
        attention_s, widening_s = np.zeros(len(steps)), np.zeros(len(steps))
        for op in self.operators:
            demand = op.demand(view.of(op))
            share, useful_share = view.shares(op)
            if isinstance(op, DecodeAttention):
                attention_s += demand.seconds * k
            elif isinstance(op, Matmul | Experts) and op.widens:
                widening_s += demand.seconds * k
            operator_s[op.name] = operator_s.get(op.name, 0.0) + demand.seconds * k
            attribute(demand, k, resource_s)
            flops += demand.flops * k * share
            model_flops += demand.flops * k * useful.get(type(op), 1.0) * useful_share
            moved += demand.moved * k * share
            link += demand.link * k
        if self._adapters is not None and steps.adapter_tokens.any():
            demand = self._adapters.cost.demand(
                steps.adapters.astype(np.float64), steps.adapter_tokens.astype(np.float64)
            )
            operator_s["adapters"] = demand.seconds * k
            attribute(demand, k, resource_s)
            flops += demand.flops * k
            model_flops += demand.flops * k
            moved += demand.moved * k
        device_s = np.sum(list(operator_s.values()), axis=0) if operator_s else np.zeros(len(k))
        host = np.maximum(duration - steps.stall_s - device_s, 0.0)
        for name, waited in (("host", host), ("stall", steps.stall_s)):
            operator_s[name] = resource_s[name] = waited
        busy = np.maximum(duration, 1e-30)
        load = {
            "compute": flops * self.devices / (busy * self.peak_flops),
            "memory": moved * self.devices / (busy * self.peak_bytes_per_s),
            "attention": attention_s / busy,
            "widening": widening_s / busy,
        }
        load = {name: np.minimum(share, 1.0) for name, share in load.items()}
        return StepWork(
            model_flops=model_flops * devices,
            hbm_bytes=moved * devices,
            link_bytes=link,
            energy_j=duration * devices * self._power.step_w(load),
            load=load,
            operator_s=operator_s,
            resource_s=resource_s,
        )

    def demands(self, steps: StepTable) -> Iterator[tuple[Operator, Demand]]:
        """Each operator with what it asks of one device in every row's average step."""
        view = self._view(steps)
        return ((op, op.demand(view.of(op))) for op in self.operators)

    @property
    def tokens_per_sequence(self) -> int:
        """Tokens that a decoding sequence computes in a step: its last one, and drafts."""
        return 1 + self._drafts

    def tokens_on_device(self, steps: StepTable) -> Floats:
        """Tokens that pass the layers of one device in every row's step, padding included."""
        return self._shape_of(steps).tokens

    def binding(self, steps: StepTable) -> dict[str, dict[str, float]]:
        """Seconds of each operator in all rows, by the resource that binds it there."""
        demands = ((op.name, demand) for op, demand in self.demands(steps))
        return bound(demands, steps.steps.astype(np.float64))

    def residual_range(self, steps: StepTable) -> tuple[float, float]:
        """See ``Accountant.residual_range``."""
        k = steps.steps.astype(np.float64)
        ranges: dict[tuple[float, float], float] = {}
        for op, demand in self.demands(steps):
            known = self._efficiency.residual_range(op.efficiency) or UNMEASURED
            ranges[known] = ranges.get(known, 0.0) + float((demand.seconds * k).sum())
        total = max(float(steps.duration_s.sum()), 1e-30)
        low, high = (
            math.sqrt(sum((taken / total * known[side]) ** 2 for known, taken in ranges.items()))
            for side in (0, 1)
        )
        return low, high

    def _view(self, steps: StepTable) -> View:
        """The rows as operators see them."""
        return View(self._shape_of(steps), self.devices)

    def _shape_of(self, steps: StepTable) -> Shape:
        """Sizes of each row's average step: times are straight lines, so the average tells all."""
        ahead = (steps.steps - 1) / 2
        width = 1 + self._drafts
        further = steps.decode * self._drafts
        tokens = (steps.decode * width + steps.prefill_tokens).astype(np.float64)
        read = steps.prefill_context
        new = steps.prefill_tokens.astype(np.float64)
        return Shape(
            tokens=self._pad(tokens, steps.prefill > 0),
            sampled=(steps.sampled + further).astype(np.float64),
            decode=steps.decode.astype(np.float64),
            context=steps.context + steps.decode * ahead + further,
            local_context=steps.local_context + steps.local_growth * ahead + further,
            prefill=new,
            read=read,
            local_read=np.minimum(read, new + steps.prefill * self.local_span),
            pairs=steps.prefill_pairs,
            local_pairs=steps.local_pairs,
            chunks=steps.prefill.astype(np.float64),
        )

    def _pad(self, tokens: Floats, mixed: np.ndarray) -> Floats:
        if not self._graph_sizes:
            return tokens
        sizes = np.asarray(self._graph_sizes, dtype=np.float64)
        place = np.minimum(np.searchsorted(sizes, tokens), len(sizes) - 1)
        return np.where(self._in_graphs(tokens, mixed), sizes[place], tokens)

    def _in_graphs(self, tokens: Floats, mixed: np.ndarray) -> np.ndarray:
        most = self._graph_sizes[-1] if self._graph_sizes else -1
        within: np.ndarray = (tokens <= most) & (self._mixed_graphs | ~mixed)
        return within

    def _useful_shares(self, steps: StepTable, shape: Shape) -> dict[type, Floats]:
        """Share of an operator's work that is neither padding nor recomputation, by its kind."""
        emitting = np.where(steps.gap_tokens > 0, steps.gap_tokens, steps.decode)
        emitting = emitting + steps.accepted_tokens
        new = steps.prefill_tokens - steps.wasted_tokens
        tokens = (emitting + new) / np.maximum(shape.tokens, 1.0)
        decoding = emitting / np.maximum(steps.decode * (1 + self._drafts), 1)
        prompts = new / np.maximum(steps.prefill_tokens, 1)
        return {
            Matmul: tokens,
            Experts: tokens,
            RankExperts: tokens,
            DecodeAttention: decoding,
            RecurrentUpdate: decoding,
            PrefillAttention: prompts,
            RecurrentScan: prompts,
        }


def _verifying(op: Operator, queries: int) -> Operator:
    """The operator where a decoding sequence has so many tokens: attention reads its keys and
    values once for all of them."""
    if not isinstance(op, DecodeAttention):
        return op
    return replace(
        op, query_bytes=queries * op.query_bytes, flops_per_token=queries * op.flops_per_token
    )


def _per_token(op: Operator) -> bool:
    sequences = DecodeAttention | PrefillAttention | RecurrentUpdate | RecurrentScan
    return not isinstance(op, sequences | ContextExchange)


def _sampled(op: Operator) -> bool:
    return bool(getattr(op, "sampled", False))
