"""A model cut into stages of layers."""

from __future__ import annotations

from dataclasses import replace

from simulator.errors import UserError
from simulator.models.spec import ModelSpec


def stage_sizes(layers: int, stages: int) -> list[int]:
    """Layers of each stage, as vLLM divides them: equal shares, and what is left over goes one by
    one to the stages from the last but one backwards, because the last one has the LM head and the
    first one the embedding (vllm/distributed/utils.py, get_pp_indices)."""
    share, over = divmod(layers, stages)
    sizes = [share] * stages
    for place in range(2, over + 2):
        sizes[-place] += 1
    return sizes


def stage_specs(spec: ModelSpec, stages: int) -> list[ModelSpec]:
    """The parts of a model: the embedding lies on the first stage, the last norm and the LM head
    on the last one.

    Raises:
        UserError: there are fewer layers than stages, or layers that need what another stage
            stored.
    """
    if any(getattr(group.attention, "shares_kv", False) for group in spec.groups):
        raise UserError(
            f"layers of {spec.name} read keys and values that earlier layers stored, which may lie "
            "on another stage",
            where="parallelism.pp",
            hint="use tp",
        )
    if stages > spec.layers:
        raise UserError(
            f"{spec.name} has {spec.layers} layers, which cannot make {stages} stages",
            where="parallelism.pp",
            hint=f"at most {spec.layers}",
        )
    order = spec.order or tuple(
        number for number, group in enumerate(spec.groups) for _ in range(group.count)
    )
    parts = []
    start = 0
    for stage, size in enumerate(stage_sizes(spec.layers, stages)):
        mine = order[start : start + size]
        start += size
        kept = sorted(set(mine))
        groups = tuple(replace(spec.groups[g], count=mine.count(g)) for g in kept)
        parts.append(
            replace(
                spec,
                groups=groups,
                order=tuple(kept.index(g) for g in mine),
                embeds=stage == 0,
                samples=stage == stages - 1,
                parameters_published=None,
                mtp=spec.mtp if stage == stages - 1 else None,
            )
        )
    return parts
