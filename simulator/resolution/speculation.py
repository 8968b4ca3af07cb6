"""Speculative decoding resolved: the draft's figures, and what its steps cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.costs.build import OperatorBuilder
from simulator.costs.memory import GIB, Beside
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Operator
from simulator.costs.speculative import Drafter, SpeculativeCost
from simulator.deployment import Limits, ResolvedPrecision, Speculation
from simulator.engines.profile import EngineProfile, FrontEnd, HostOverhead
from simulator.errors import ScenarioError, UserError
from simulator.hardware.profile import HardwareProfile
from simulator.models import load_model
from simulator.models.counting import (
    element_bytes,
    kv_bytes_per_rank,
    other_dtype,
    weight_bytes_per_rank,
)
from simulator.models.layout import ALONE, Layout
from simulator.models.spec import DenseMlp, LayerGroup, ModelSpec, MoeMlp, Span
from simulator.models.splits import check_split
from simulator.scenario.precision import Precision
from simulator.scenario.speculative import (
    DraftModelSpeculative,
    EagleSpeculative,
    MtpSpeculative,
    NgramSpeculative,
    Speculative,
)
from simulator.serving.acceptance import tokens_per_step

WHERE = "engine.speculative"

PrecisionOf = Callable[[Precision, ModelSpec], ResolvedPrecision]
"""Fills in the defaults of number formats for a model on the device at hand."""


@dataclass(frozen=True, slots=True)
class Target:
    """The deployment that is to speculate."""

    spec: ModelSpec
    hardware: HardwareProfile
    engine: EngineProfile
    precision: ResolvedPrecision
    layout: Layout
    limits: Limits


@dataclass(frozen=True, slots=True)
class Draft:
    """Who drafts: a model of its own, or layers on top of the target's.

    Args:
        spec: what one pass goes through.
        precision: its number formats.
        layout: devices that run it.
        builder: makes its operators.
        beside: what it takes of a device's memory.
    """

    spec: ModelSpec
    precision: ResolvedPrecision
    layout: Layout
    builder: type[OperatorBuilder]
    beside: Beside


class HeadBuilder(OperatorBuilder):
    """Operators of layers that draft from hidden states: one product brings a token's hidden state
    and the embedding of the next token together, on every device."""

    def build(self) -> list[Operator]:
        """All operators of a pass."""
        hidden = self.spec.hidden
        joined = self._elementwise("norm", 2, 4 * hidden * self.wide)
        projection = self._matmul("projection", 1, hidden, 2 * hidden, self.plain)
        return [joined, projection, *super().build()]


def speculate(
    asked: Speculative, target: Target, precision_of: PrecisionOf, base: Path | None, seed: int
) -> tuple[Limits, SpeculativeCost, Beside]:
    """What changes with speculative decoding: limits, cost of steps, memory.

    Raises:
        UserError: it cannot be had with this model, draft, policy or parallelism.
    """
    _check(target)
    most = target.limits.max_num_seqs if asked.max_batch is None else asked.max_batch
    speculation = Speculation(asked.tokens, asked.by_position, most, seed)
    limits = replace(target.limits, speculation=speculation)
    draft = _draft(asked, target, precision_of, base)
    of_target = (target.spec, target.hardware, target.engine, target.precision, target.layout)
    plain = StepCostModel(*of_target, limits)
    verify = StepCostModel(
        *of_target, limits, drafts=asked.tokens, gain=tokens_per_step(asked.by_position)
    )
    drafter = None
    if draft is not None:
        drafts = StepCostModel(
            draft.spec, target.hardware, _without_host(target.engine), draft.precision,
            draft.layout, limits, builder=draft.builder,
        )  # fmt: skip
        idle = target.layout.devices - draft.layout.devices
        drafter = Drafter(drafts, idle, target.hardware.power.idle_w.value)
    lookup_s = asked.lookup_us * 1e-6 if isinstance(asked, NgramSpeculative) else 0.0
    cost = SpeculativeCost(plain, verify, speculation, drafter=drafter, lookup_s=lookup_s)
    return limits, cost, draft.beside if draft is not None else Beside()


def _check(target: Target) -> None:
    policy, layout = target.limits.policy, target.layout
    if policy.kind in ("static", "dynamic"):
        raise ScenarioError(
            f"{policy.kind} batches do not speculate: their slots advance together",
            where=WHERE,
            hint="set engine.policy: {kind: continuous}, or leave speculative out",
        )
    if layout.dp > 1 or layout.pp > 1 or layout.cp > 1 or layout.fsdp > 1:
        raise ScenarioError(
            "speculative decoding goes with tensor and expert parallelism, not with pipelines, "
            "data-parallel attention, shared contexts or sharded weights",
            where=WHERE,
            hint="set parallelism.pp, dp, cp and fsdp to 1, or leave speculative out",
        )
    _check_rewinds(target.spec)


def _check_rewinds(spec: ModelSpec) -> None:
    """A rejected token is overwritten in a KV cache; a recurrent state cannot go back."""
    if spec.recurrent:
        raise ScenarioError(
            f"{spec.name} has recurrent layers, whose state cannot drop rejected tokens",
            where=WHERE,
            hint="leave speculative out, or take a model with attention in every layer",
        )


def _draft(
    asked: Speculative, target: Target, precision_of: PrecisionOf, base: Path | None
) -> Draft | None:
    match asked:
        case DraftModelSpeculative():
            return _model(asked, target, precision_of, base)
        case EagleSpeculative():
            return _eagle(asked, target, precision_of)
        case MtpSpeculative():
            return _mtp(asked, target)
        case NgramSpeculative():
            return None


def _model(
    asked: DraftModelSpeculative, target: Target, precision_of: PrecisionOf, base: Path | None
) -> Draft:
    with _at(f"{WHERE}.model"):
        spec = load_model(asked.model, base)
    if spec.vocab != target.spec.vocab:
        raise ScenarioError(
            f"{spec.name} has a vocabulary of {spec.vocab:,} tokens and {target.spec.name} one of "
            f"{target.spec.vocab:,}, so that it cannot draft for it",
            where=f"{WHERE}.model",
            hint="take a draft of the same family",
        )
    if spec.max_context < target.limits.max_model_len:
        raise ScenarioError(
            f"{spec.name} is made for {spec.max_context:,} tokens and sequences may have "
            f"{target.limits.max_model_len:,}",
            where=f"{WHERE}.model",
            hint=f"set engine.max_model_len to at most {spec.max_context}, or take another draft",
        )
    _check_rewinds(spec)
    layout = ALONE if asked.draft_tp == 1 else Layout(tp=target.layout.tp)
    with _at(f"{WHERE}.draft_tp"):
        check_split(spec, layout)
    own, given = asked.precision, target.precision
    wanted = Precision(
        weights=own.weights or given.weights,
        activations=own.activations or (None if own.weights else given.activations),
        kv_cache=own.kv_cache or given.kv_cache,
    )
    with _in(f"{WHERE}."):
        precision = precision_of(wanted, spec)
    weights = weight_bytes_per_rank(spec, precision.weights, layout)
    return Draft(
        spec, precision, layout, OperatorBuilder,
        Beside(f"the draft {spec.name}", weights / GIB, _kv(spec, precision, layout)),
    )  # fmt: skip


def _eagle(asked: EagleSpeculative, target: Target, precision_of: PrecisionOf) -> Draft:
    model = target.spec
    if asked.vocab is not None and asked.vocab > model.vocab:
        raise ScenarioError(
            f"a reduced vocabulary of {asked.vocab:,} tokens is larger than that of {model.name}, "
            f"{model.vocab:,}",
            where=f"{WHERE}.vocab",
            hint="leave it out to share the model's LM head",
        )
    last = next(group for group in reversed(model.groups) if group.attention and group.mlp)
    group = LayerGroup(1, last.attention, Span(), _dense(last), last.norms)
    spec = replace(
        model, name=f"{model.name} EAGLE layer", groups=(group,), vocab=asked.vocab or model.vocab,
        quantization_group=None, attention_quantized=True, mtp=None,
    )  # fmt: skip
    wanted = Precision(weights=asked.weights, kv_cache=target.precision.kv_cache)
    with _in(f"{WHERE}."):
        precision = precision_of(wanted, spec)
    layout = Layout(tp=target.layout.tp)
    weights = _layer_bytes(spec, precision, layout)
    if asked.vocab is not None:
        rows = -(-asked.vocab // layout.tp)
        weights += rows * model.hidden * element_bytes(other_dtype(precision.weights))
    return Draft(
        spec, precision, layout, HeadBuilder,
        Beside("the EAGLE layer", weights / GIB, _kv(spec, precision, layout)),
    )  # fmt: skip


def _dense(group: LayerGroup) -> DenseMlp | None:
    """Published heads have dense layers; for experts, one as wide as those that a token uses."""
    mlp = group.mlp
    if not isinstance(mlp, MoeMlp):
        return mlp
    return DenseMlp(mlp.top_k * mlp.intermediate + mlp.shared_intermediate, mlp.gated)


def _mtp(asked: MtpSpeculative, target: Target) -> Draft:
    model, layout, precision = target.spec, target.layout, target.precision
    if model.mtp is None:
        raise ScenarioError(
            f"{model.name} has no modules that predict further tokens",
            where=f"{WHERE}.kind",
            hint="take kind: eagle, draft_model or ngram; the preset deepseek-v3 has one",
        )
    modules, group = min(asked.tokens, model.mtp.layers), replace(model.mtp.group, count=1)
    spec = replace(
        model,
        name=f"{model.name} MTP module",
        groups=(group,),
        mtp=None,
    )
    weights = modules * _layer_bytes(spec, precision, layout)
    kv = modules * _kv(spec, precision, layout)
    return Draft(spec, precision, layout, HeadBuilder, Beside("the MTP module", weights / GIB, kv))


def _layer_bytes(spec: ModelSpec, precision: ResolvedPrecision, layout: Layout) -> float:
    """Weights of a head's layer and projection on a device; embedding and LM head are shared."""
    tied = replace(spec, tied_embeddings=True)
    whole = weight_bytes_per_rank(tied, precision.weights, layout)
    shared = weight_bytes_per_rank(
        replace(tied, groups=()), precision.weights, Layout(tp=layout.tp)
    )
    projection = 2 * spec.hidden * spec.hidden * element_bytes(other_dtype(precision.weights))
    return whole - shared + projection


def _kv(spec: ModelSpec, precision: ResolvedPrecision, layout: Layout) -> float:
    return kv_bytes_per_rank(spec, precision.kv_cache, layout).total


def _without_host(engine: EngineProfile) -> EngineProfile:
    """Passes of a draft follow each other without going through the engine's loop."""
    overheads = engine.overheads[-1].model_copy(
        update={
            "host": HostOverhead(step_ms=0.0, per_seq_us=0.0),
            "front_end": FrontEnd(request_ms=0.0, response_ms=0.0),
        }
    )
    return engine.model_copy(update={"overheads": (overheads,)})


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Says which key a mistake belongs to, where that is not known yet."""
    try:
        yield
    except UserError as error:
        error.where = error.where or where
        raise


@contextmanager
def _in(prefix: str) -> Iterator[None]:
    """Says that the keys of a mistake are those below another one."""
    try:
        yield
    except UserError as error:
        error.where = prefix + (error.where or "")
        raise
