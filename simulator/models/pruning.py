"""A model with parts cut out: fewer layers, narrower blocks, fewer heads or experts.

Structured pruning as Minitron (arXiv:2407.14679) and LLM-Pruner (arXiv:2305.11627) do it: whole
layers, channels, groups of heads or experts go, and what is left is an ordinary smaller model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from simulator.errors import ScenarioError
from simulator.models.spec import GroupedAttention, LayerGroup, Mlp, ModelSpec, MoeMlp

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a model, in the words of its configuration; None: all of it."""

    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    kv_heads: int | None = None
    experts: int | None = None


def prune(spec: ModelSpec, kept: Kept, where: str) -> ModelSpec:
    """The model that is left.

    Layers go from every group of equal layers in proportion, largest remainder first. With a KV
    head go the query heads that share it. ``intermediate`` is the width of dense blocks and of
    each routed expert, where all have the same.

    Args:
        where: key of the scenario, for errors.

    Raises:
        ScenarioError: more is to be kept than there is, or the model has no such part.
    """
    if spec.mtp is not None:
        spec = replace(spec, mtp=None)  # heads are trained for the model as it was
    groups = spec.groups
    if kept.layers is not None:
        groups = _fewer_layers(groups, _at_most(kept.layers, spec.layers, "layers", where, spec))
    if kept.intermediate is not None:
        groups = _narrower(groups, kept.intermediate, where, spec)
    if kept.kv_heads is not None:
        groups = _fewer_heads(groups, kept.kv_heads, where, spec)
    if kept.experts is not None:
        groups = _fewer_experts(groups, kept.experts, where, spec)
    hidden = spec.hidden
    if kept.hidden is not None:
        hidden = _at_most(kept.hidden, spec.hidden, "hidden", where, spec)
        if any(group.recurrent is not None and group.recurrent.kind == "conv" for group in groups):
            raise ScenarioError(
                f"{spec.name} has convolutions as wide as the model", where=f"{where}.hidden",
                hint="leave it out",
            )  # fmt: skip
    return replace(
        spec, name=f"{spec.name} (pruned)", groups=groups, hidden=hidden, parameters_published=None
    )


def _at_most(asked: int, there: int, name: str, where: str, spec: ModelSpec) -> int:
    if asked > there:
        raise ScenarioError(
            f"{spec.name} has {there:,} {name}, and {asked:,} are to be kept",
            where=f"{where}.{name}",
            hint=f"at most {there:,}",
        )
    return asked


def _fewer_layers(groups: tuple[LayerGroup, ...], kept: int) -> tuple[LayerGroup, ...]:
    total = sum(group.count for group in groups)
    shares = [kept * group.count / total for group in groups]
    counts = [int(share) for share in shares]
    rest = sorted(range(len(groups)), key=lambda i: (counts[i] - shares[i], i))
    for i in rest[: kept - sum(counts)]:
        counts[i] += 1
    return tuple(
        replace(group, count=count) for group, count in zip(groups, counts, strict=True) if count
    )


def _only(values: set[int], name: str, where: str, spec: ModelSpec) -> int:
    """The one size that all layers with such a part share."""
    if len(values) != 1:
        what = "has no" if not values else f"has several sizes of {name}:"
        told = ", ".join(f"{value:,}" for value in sorted(values)) or name
        raise ScenarioError(f"{spec.name} {what} {told}", where=f"{where}.{name}",
                            hint="leave it out")  # fmt: skip
    return values.pop()


def _changed(groups: tuple[LayerGroup, ...], change: Callable[[LayerGroup], LayerGroup]
             ) -> tuple[LayerGroup, ...]:  # fmt: skip
    return tuple(change(group) for group in groups)


def _narrower(
    groups: tuple[LayerGroup, ...], width: int, where: str, spec: ModelSpec
) -> tuple[LayerGroup, ...]:
    there = _only(
        {group.mlp.intermediate for group in groups if group.mlp}, "intermediate", where, spec
    )
    _at_most(width, there, "intermediate", where, spec)

    def block(mlp: Mlp | None) -> Mlp | None:
        return None if mlp is None else replace(mlp, intermediate=width)

    return _changed(groups, lambda group: replace(group, mlp=block(group.mlp)))


def _fewer_heads(
    groups: tuple[LayerGroup, ...], kv_heads: int, where: str, spec: ModelSpec
) -> tuple[LayerGroup, ...]:
    grouped = [g.attention for g in groups if isinstance(g.attention, GroupedAttention)]
    there = _only({attention.kv_heads for attention in grouped}, "kv_heads", where, spec)
    _at_most(kv_heads, there, "kv_heads", where, spec)

    def fewer(group: LayerGroup) -> LayerGroup:
        attention = group.attention
        if not isinstance(attention, GroupedAttention):
            return group
        heads = attention.heads // attention.kv_heads * kv_heads
        return replace(group, attention=replace(attention, heads=heads, kv_heads=kv_heads))

    return _changed(groups, fewer)


def _fewer_experts(
    groups: tuple[LayerGroup, ...], experts: int, where: str, spec: ModelSpec
) -> tuple[LayerGroup, ...]:
    blocks = [group.mlp for group in groups if isinstance(group.mlp, MoeMlp)]
    there = _only({mlp.experts for mlp in blocks}, "experts", where, spec)
    _at_most(experts, there, "experts", where, spec)
    most = max(mlp.top_k for mlp in blocks)
    if experts < most:
        raise ScenarioError(
            f"a token of {spec.name} takes {most} experts, and {experts} are to be kept",
            where=f"{where}.experts",
            hint=f"at least {most}",
        )

    def fewer(group: LayerGroup) -> LayerGroup:
        if not isinstance(group.mlp, MoeMlp):
            return group
        return replace(group, mlp=replace(group.mlp, experts=experts))

    return _changed(groups, fewer)
