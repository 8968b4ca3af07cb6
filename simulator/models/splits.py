"""Which splits over devices a model allows."""

from __future__ import annotations

from dataclasses import replace

from simulator.errors import UserError
from simulator.models.layout import ALONE, Layout
from simulator.models.spec import GroupedAttention, ModelSpec, MoeMlp


def check_split(spec: ModelSpec, layout: Layout) -> None:
    """Make sure that the model can be split like that.

    Raises:
        UserError: naming what does not divide, and the numbers that would work.
    """
    if layout.ep > 1 or layout.redundant is not None:
        _check_experts(spec, layout)
    if layout.cp > 1:
        _check_context(spec, layout)
    for key, degree in (("cp", layout.cp), ("dp", layout.dp), ("pp", layout.pp)):
        if layout.fsdp > 1 and degree > 1:
            raise UserError(
                f"sharded weights together with {key} = {degree} are not modelled",
                where="parallelism.fsdp",
                hint=f"use tp, ep and fsdp, or {key} without fsdp",
            )
    problem = _indivisible(spec, layout)
    if problem is None:
        return
    works = ", ".join(str(n) for n in tensor_parallel_sizes(spec, layout))
    raise UserError(
        f"{spec.name} cannot be split over tp = {layout.tp}: {problem}", hint=f"tp may be {works}"
    )


def tensor_parallel_sizes(spec: ModelSpec, layout: Layout = ALONE) -> list[int]:
    """Every ``tp`` that the model can be split over, all else as in ``layout``."""
    parts = [part for group in spec.groups for part in (group.attention, group.recurrent) if part]
    most = min(part.heads for part in parts)
    layouts = [replace(layout, tp=tp) for tp in range(1, most + 1)]
    return [
        found.tp
        for found in layouts
        if found.tp * found.dp % found.ep == 0 and _indivisible(spec, found) is None
    ]


def _indivisible(spec: ModelSpec, layout: Layout) -> str | None:
    """What keeps devices from sharing the layers evenly."""
    tp = layout.tp
    if tp < 1:
        return "it must be at least 1"
    for group in spec.groups:
        attention, mlp = group.attention, group.mlp
        if group.recurrent is not None and (problem := group.recurrent.indivisible(tp)):
            return problem
        if attention is not None and attention.heads % tp:
            return f"{attention.heads} attention heads do not divide evenly"
        if isinstance(attention, GroupedAttention) and max(attention.kv_heads, tp) % min(
            attention.kv_heads, tp
        ):
            return f"{attention.kv_heads} KV heads neither divide evenly nor repeat evenly"
        if isinstance(mlp, MoeMlp):
            if mlp.intermediate % layout.expert_tp:
                return f"feed-forward width {mlp.intermediate} does not divide evenly" + (
                    f" over the {layout.expert_tp} devices of an expert" if layout.ep > 1 else ""
                )
            if mlp.shared_intermediate % tp:
                return f"shared experts' width {mlp.shared_intermediate} does not divide evenly"
        elif mlp is not None and mlp.intermediate % tp:
            return f"feed-forward width {mlp.intermediate} does not divide evenly"
    return None


def _check_context(spec: ModelSpec, layout: Layout) -> None:
    why = ""
    if any(group.span.kind != "full" for group in spec.groups):
        why = f"layers of {spec.name} see a window or chunk that lies on one rank"
    if any(group.recurrent is not None for group in spec.groups):
        why = f"layers of {spec.name} pass a state from token to token"
    if why:
        raise UserError(
            f"{why}, so that ranks cannot share their context",
            where="parallelism.cp",
            hint="leave cp out",
        )
    for key, degree in (("dp", layout.dp), ("pp", layout.pp)):
        if degree > 1:
            raise UserError(
                f"context parallelism together with {key} = {degree} is not modelled",
                where="parallelism.cp",
                hint=f"use tp and cp, or tp and {key}",
            )


def _check_experts(spec: ModelSpec, layout: Layout) -> None:
    blocks = [group.mlp for group in spec.groups if isinstance(group.mlp, MoeMlp)]
    if not blocks:
        raise UserError(
            f"{spec.name} has no experts that could lie on different devices",
            where="parallelism.ep",
            hint="leave ep out",
        )
    if layout.redundant is not None and layout.ep == 1:
        raise UserError(
            "copies of experts lie on other ranks, and with ep = 1 there are none",
            where="parallelism.redundant_experts",
            hint="set parallelism.ep, or leave it out",
        )
    devices = layout.tp * layout.dp
    if devices % layout.ep:
        works = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise UserError(
            f"ep = {layout.ep} does not divide the {devices} device{'s' if devices > 1 else ''} of "
            "tensor and data parallelism",
            where="parallelism.ep",
            hint=f"ep may be {works}",
        )
    for mlp in blocks:
        if layout.ep > mlp.experts:
            raise UserError(
                f"{spec.name} has {mlp.experts} experts, fewer than ep = {layout.ep}",
                where="parallelism.ep",
                hint=f"at most {mlp.experts}",
            )
        if layout.redundant is None:
            continue
        most = mlp.experts * (layout.ep - 1)
        wanted = min(most, layout.redundant + -(mlp.experts + layout.redundant) % layout.ep)
        if layout.redundant > most or wanted != layout.redundant:
            raise UserError(
                f"{mlp.experts} experts and {layout.redundant} copies do not lie evenly on "
                f"{layout.ep} ranks, each at most once",
                where="parallelism.redundant_experts",
                hint=f"{wanted} would",
            )
