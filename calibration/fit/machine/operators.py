"""Measured operators as samples of the closed forms, one for each family and number format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.fit.solve import Axes, Floats, Sample
from calibration.measure.rows import Row
from simulator.costs import routing
from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.build import OperatorBuilder
from simulator.costs.operators import Collective, Elementwise, Experts, Matmul, Operator
from simulator.deployment import ResolvedPrecision
from simulator.hardware.efficiency import plain
from simulator.hardware.forms import (
    DecodeAttentionEfficiency,
    ElementwiseEfficiency,
    ExpertsEfficiency,
    MatmulEfficiency,
    PrefillAttentionEfficiency,
)
from simulator.hardware.profile import HardwareProfile
from simulator.models import load_model
from simulator.models.layout import ALONE
from simulator.models.spec import ModelSpec

KINDS = {
    "norm": "norm",
    "qk_norm": "qk_norm",
    "rope_kv_write": "rotation",
    "activation": "activation",
    "router_topk": "routing",
    "sampling": "sampling",
    "embedding": "embedding",
}
"""Kinds of elementwise kernels by the operators that stand for them."""

_M = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096)
_MOST_KNOTS = 8


@dataclass(frozen=True)
class Measured:
    """Rows of one operator of one model in one set of number formats, and the cost model's view of
    it."""

    operator: Operator
    precision: ResolvedPrecision
    rows: tuple[Row, ...]

    def column(self, name: str) -> Floats:
        """One number of each row."""
        return np.array([getattr(row, name) for row in self.rows], dtype=np.float64)

    @property
    def seconds(self) -> Floats:
        """Of one kernel."""
        return self.column("seconds")


def models_of(rows: Sequence[Row], folder: Path) -> dict[str, ModelSpec]:
    """The models that rows speak of, from the configurations beside them."""
    return {
        name: load_model(str(folder / "models" / f"{name}.json"))
        for name in sorted({row.model for row in rows if row.model})
    }


def precision_of(row: Row) -> ResolvedPrecision:
    """Number formats of a row."""
    return ResolvedPrecision(row.weights, row.activations, row.kv_cache)  # type: ignore[arg-type]


def operators(
    spec: ModelSpec, hardware: HardwareProfile, engine: str, precision: ResolvedPrecision
) -> dict[str, Operator]:
    """Operators by name; those whose work differs from layer to layer are left out."""
    found: dict[str, list[Operator]] = defaultdict(list)
    for operator in OperatorBuilder(spec, hardware, engine, precision, ALONE).build():
        found[operator.name].append(operator)
    return {name: same[0] for name, same in found.items() if len({_work(op) for op in same}) == 1}


def _work(operator: Operator) -> tuple[object, ...]:
    fields = ("n", "k", "bytes_per_token", "heads", "kv_heads", "head_dim", "width", "experts",
              "local")  # fmt: skip
    return tuple(getattr(operator, name, None) for name in fields)


def measured(
    rows: Sequence[Row], models: dict[str, ModelSpec], hardware: HardwareProfile, engine: str
) -> list[Measured]:
    """Rows of operators, put together; those the cost model does not know are left out."""
    groups: dict[tuple[str, ResolvedPrecision, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.what == "operator":
            groups[row.model, precision_of(row), row.name].append(row)
    result = []
    known: dict[tuple[str, ResolvedPrecision], dict[str, Operator]] = {}
    for (model, precision, name), same in groups.items():
        here = known.get((model, precision))
        if here is None:
            here = operators(models[model], hardware, engine, precision)
            known[model, precision] = here
        if name in here:
            operator = here[name]
            if getattr(operator, "local", False):  # where the window cuts nothing off
                span = max(group.span.tokens for group in models[model].groups)
                same = [row for row in same if _longest(row) <= span]
            result.append(Measured(operator, precision, tuple(same)))
    return result


def _longest(row: Row) -> float:
    """Tokens that the longest sequence of a step attends to; those that decode are alike."""
    decoding = row.context / row.decode if row.decode else 0.0
    return max(decoding, *(c.new + c.past for c in row.prompt_chunks), 0)


def best_rates(found: Sequence[Measured]) -> dict[str, float]:
    """The highest FLOP/s of any measured product, by the type it computes in: a ceiling that a
    disturbed measurement put too low is no ceiling."""
    best: dict[str, float] = {}
    for each in found:
        op = each.operator
        if isinstance(op, Matmul):
            m = each.column("sampled" if op.sampled else "rows")
            kind = each.precision.activations if op.input_bytes < 2.0 else _wide(each.precision)
            best[kind] = max(best.get(kind, 0.0), float((2 * m * op.n * op.k / each.seconds).max()))
    return best


def _wide(precision: ResolvedPrecision) -> str:
    return precision.activations if precision.activations in ("fp32", "fp16") else "bf16"


def samples(found: Sequence[Measured], hardware: HardwareProfile) -> Iterator[Sample]:
    """One sample for each family and format that was measured."""
    bandwidth = hardware.bandwidth_bytes_per_s
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for each in found:
        for sample in _samples(each, bandwidth):
            if len(sample.measured):
                groups[sample.family, sample.key].append(sample)
    for same in groups.values():
        yield _joined(same)


def _samples(each: Measured, bandwidth: float) -> Iterator[Sample]:
    match each.operator:
        case Matmul():
            yield _product(each, each.operator, bandwidth)
        case Experts():
            yield _experts(each, each.operator, bandwidth)
        case DecodeAttention():
            yield _decode(each, each.operator, bandwidth)
        case PrefillAttention():
            yield _prefill(each, each.operator, bandwidth)
        case Elementwise():
            yield _elementwise(each, each.operator, bandwidth)
        case Collective():
            pass


def _names(prefix: object, *sizes: Floats) -> tuple[str, ...]:
    """Each size is a group of its own: what is held out are sizes, of shapes that were measured."""
    columns = zip(*(size.tolist() for size in sizes), strict=True)
    return tuple(f"{prefix} {' '.join(f'{x:g}' for x in row)}" for row in columns)


def _product(each: Measured, op: Matmul, bandwidth: float) -> Sample:
    m = each.column("sampled" if op.sampled else "rows")
    moved = m * op.k * op.input_bytes + m * op.n * max(2.0, op.input_bytes)
    moved += op.n * op.k * op.weight_bytes
    start = {"compute": 0.7, "bandwidth": 0.5, "overhead_us": 5.0, "sharpness": 2.0}
    converted: Floats | float = 0.0
    if op.input_bytes < 2.0:
        start["conversion"] = 0.3
        converted = m * op.k * (2.0 + op.input_bytes)
    n, k = np.full_like(m, op.n), np.full_like(m, op.k)
    return Sample(
        "matmul", _product_key(each.precision, op), MatmulEfficiency, start,
        (moved, 2.0 * m * n * k, converted, bandwidth, op.peak),
        each.seconds, {"m": m, "n": n, "k": k}, ({"m": _M, "n": ()}, {"m": _M, "k": ()}),
        _names(f"{op.n} {op.k}", m),
    )  # fmt: skip


def _product_key(precision: ResolvedPrecision, op: Matmul | Experts) -> str:
    """As profiles call it: the type computed in, and that of the weights where it is narrower."""
    computed = plain(precision.activations)
    if op.input_bytes >= 2.0 and computed not in ("fp32", "bf16"):
        computed = "bf16"  # what quantized models leave in 16 bits
    if op.weight_bytes >= op.input_bytes:
        return computed
    return f"{computed}-{plain(precision.weights)}"


def _experts(each: Measured, op: Experts, bandwidth: float) -> Sample:
    tokens = each.column("rows")
    load = tokens * op.top_k / op.experts
    reached = op.experts * routing.drawn(load[:, None], tokens)[:, 0]
    moved, flops = routing.work(
        tokens, reached, top_k=op.top_k, hidden=op.hidden, width=op.width,
        matrices=op.matrices, weight_bytes=op.weight_bytes, input_bytes=op.input_bytes,
    )  # fmt: skip
    at = {"tokens_per_expert": load, "experts": np.full_like(load, op.experts)}
    at |= {"hidden": np.full_like(load, op.hidden), "width": np.full_like(load, op.width)}
    start = {"compute": 0.4, "bandwidth": 0.4, "overhead_us": 50.0, "sharpness": 1.5}
    loads = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    return Sample(
        "grouped_matmul", _product_key(each.precision, op), ExpertsEfficiency, start,
        (moved, flops, 0.0, bandwidth, op.peak), each.seconds, at,
        ({"tokens_per_expert": loads, "experts": ()},),
        _names(f"{op.experts} {op.top_k} {op.hidden} {op.width}", tokens),
    )  # fmt: skip


def _decode(each: Measured, op: DecodeAttention, bandwidth: float) -> Sample:
    chosen = tuple(row for row in each.rows if row.decode)
    each = Measured(each.operator, each.precision, chosen)
    n = each.column("decode")
    context = each.column("context")
    at = {
        "units": n * op.kv_heads,
        "tokens": context / n,
        "head_dim": np.full_like(n, op.head_dim),
        "sharing": np.full_like(n, op.heads / op.kv_heads),
    }
    start = {"bandwidth": 0.5, "compute": 0.1, "per_unit_us": 0.5, "overhead_us": 10.0}
    units, tokens = (4, 8, 16, 32, 64, 128, 256, 512, 1024), (16, 64, 256, 1024, 4096, 16384)
    return Sample(
        "decode_attention", plain(each.precision.kv_cache), DecodeAttentionEfficiency, start,
        (n * op.kv_heads, n * op.query_bytes, context * op.kv_bytes,
         context * op.flops_per_token, bandwidth, op.peak),
        each.seconds, at,
        ({"units": units, "tokens": tokens}, {"tokens": tokens, "sharing": ()}),
        _names(f"{op.heads} {op.kv_heads} {op.head_dim}", n, context),
    )  # fmt: skip


def _prefill(each: Measured, op: PrefillAttention, bandwidth: float) -> Sample:
    chosen = tuple(row for row in each.rows if row.chunks)
    each = Measured(each.operator, each.precision, chosen)
    chunks = [row.prompt_chunks for row in each.rows]
    new = np.array([sum(c.new for c in row) for row in chunks], dtype=np.float64)
    read = np.array([sum(c.new + c.past for c in row) for row in chunks], dtype=np.float64)
    pairs = np.array([sum(c.new * c.past + c.new * (c.new + 1) / 2 for c in row) for row in chunks])
    at = {
        "reach": pairs / new,
        "queries": new * op.heads,
        "head_dim": np.full_like(new, op.head_dim),
        "sharing": np.full_like(new, op.heads / op.kv_heads),
    }
    start = {"compute": 0.3, "bandwidth": 0.3, "half_head_dim": 40.0, "overhead_us": 20.0}
    reach = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    queries = (64, 256, 1024, 4096, 2**14, 2**16, 2**18)
    return Sample(
        "prefill_attention", plain(each.precision.kv_cache), PrefillAttentionEfficiency, start,
        (new * op.query_bytes + read * op.kv_bytes, pairs * op.flops_per_pair,
         at["head_dim"], bandwidth, op.peak),
        each.seconds, at,
        ({"reach": reach, "queries": queries}, {"reach": reach, "sharing": ()}),
        _names(f"{op.heads} {op.kv_heads} {op.head_dim}", new, pairs),
    )  # fmt: skip


def _elementwise(each: Measured, op: Elementwise, bandwidth: float) -> Sample:
    m = each.column("sampled" if op.sampled else "rows")
    moved = m * op.bytes_per_token
    return Sample(
        "elementwise", KINDS.get(op.name, op.name), ElementwiseEfficiency,
        {"bandwidth": 0.5, "overhead_us": 5.0},
        (moved, bandwidth), each.seconds, {"moved": moved}, ({"moved": ()},),
        _names(op.bytes_per_token, m),
    )  # fmt: skip


def _joined(same: Sequence[Sample]) -> Sample:
    """Samples of one family and format as one. Knots that no rule gives lie on the sizes that were
    measured."""
    first = same[0]
    args = tuple(
        _one_column([sample.args[i] for sample in same], same) for i in range(len(first.args))
    )
    at = {name: np.concatenate([sample.at[name] for sample in same]) for name in first.at}
    return Sample(
        first.family, first.key, first.form, first.start, args,
        np.concatenate([sample.measured for sample in same]), at,
        tuple(_on_sizes(axes, at) for axes in first.grids),
        tuple(name for sample in same for name in sample.groups),
    )  # fmt: skip


def _one_column(values: Sequence[Floats | float], same: Sequence[Sample]) -> Floats | float:
    """An argument of all samples; a number stays one where it is the same for all."""
    numbers = {value for value in values if not isinstance(value, np.ndarray)}
    if len(numbers) == 1 and not any(isinstance(value, np.ndarray) for value in values):
        return numbers.pop()
    return np.concatenate(
        [np.broadcast_to(v, len(s.measured)) for v, s in zip(values, same, strict=True)]
    )


def _on_sizes(axes: Axes, at: dict[str, Floats]) -> Axes:
    def knots(name: str) -> tuple[float, ...]:
        sizes = np.unique(at[name])
        if len(sizes) > _MOST_KNOTS:
            sizes = np.unique(np.quantile(sizes, np.linspace(0, 1, _MOST_KNOTS), method="nearest"))
        return tuple(sizes.tolist())

    return {name: given or knots(name) for name, given in axes.items()}
