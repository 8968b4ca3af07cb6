"""Memory of a replica in stages: what the tightest one leaves for KV blocks."""

from __future__ import annotations

from dataclasses import replace

from simulator.costs.memory import GIB, NOTHING_BESIDE, Beside, memory_budget
from simulator.deployment import Limits, MemoryBudget, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.errors import DoesNotFitError, UserError
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.models.stages import stage_specs
from simulator.serving.kv_cache import KvLayout


def stages_budget(
    spec: ModelSpec,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    limits: Limits,
    layout: Layout,
    *,
    device_gib: float,
    fraction: float,
    kv_cache_tokens: int | None = None,
    hardware_title: str = "device",
    node_devices: int = 1,
    beside: Beside = NOTHING_BESIDE,
) -> tuple[MemoryBudget, KvLayout]:
    """The budget of a device of the stage with room for the fewest KV blocks, which all stages
    have then: a sequence takes a block on every stage. Arguments as of ``memory_budget``.

    Raises:
        DoesNotFitError: some stage has no room for its weights, or for a KV block of every lane.
        UserError: a stage has no layer that sees all of the context, and others have.
    """
    parts = stage_specs(spec, layout.pp)
    one = replace(layout, pp=1)
    found = []
    for stage, part in enumerate(parts, 1):
        if part.grows != spec.grows or not _caches(part):
            raise UserError(
                f"stage {stage} of {layout.pp} keeps nothing for each token of the context, as "
                "others do, and so cannot share out its memory like them",
                where="parallelism.pp",
                hint="use fewer stages",
            )
        try:
            budget, pages = memory_budget(
                part, engine, precision, limits, one,
                device_gib=device_gib, fraction=fraction,
                hardware_title=hardware_title, node_devices=node_devices, beside=beside,
            )  # fmt: skip
        except DoesNotFitError as error:
            raise DoesNotFitError(
                f"stage {stage} of {layout.pp}: {error.what}",
                where="hardware",
                hint="take more stages (parallelism.pp), more devices a stage (parallelism.tp), or "
                "a narrower precision.weights",
            ) from None
        found.append((budget, pages))
    tightest = min(range(layout.pp), key=lambda stage: found[stage][0].kv_blocks)
    budget, pages = found[tightest]
    pages = replace(
        pages,
        local_ratio=max(each.local_ratio for _, each in found),
        state_blocks=max(each.state_blocks for _, each in found),
    )
    if kv_cache_tokens is not None:
        wanted = pages.blocks_for(kv_cache_tokens)
        if wanted > pages.blocks:
            raise DoesNotFitError(
                f"{kv_cache_tokens} tokens of KV cache take {wanted} blocks, but stage "
                f"{tightest + 1} of {layout.pp} has room for {pages.blocks} ({budget.rule})",
                where="engine.kv_cache_tokens",
                hint=f"at most {pages.blocks * limits.block_size} tokens fit",
            )
        pages = replace(pages, blocks=wanted)
    if pages.blocks < layout.pp:
        raise DoesNotFitError(
            f"stage {tightest + 1} of {layout.pp} has room for {pages.blocks} KV blocks, and each "
            f"of the {layout.pp} micro-batches in flight needs some of its own",
            where="hardware",
            hint="take a device with more memory, or a narrower precision",
        )
    used = pages.blocks * budget.block_bytes / GIB
    budget = replace(
        budget,
        kv_blocks=pages.blocks,
        kv_tokens=pages.blocks * limits.block_size,
        kv_cache_gib=used,
        unused_gib=max(0.0, budget.unused_gib + budget.kv_cache_gib - used),
        rule=f"{budget.rule}, on stage {tightest + 1} of {layout.pp}, the tightest",
    )
    return budget, pages


def _caches(part: ModelSpec) -> bool:
    """Whether some layer keeps anything for a sequence."""
    return part.recurrent or any(group.attention is not None for group in part.groups)
