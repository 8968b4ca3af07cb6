"""Where a device's memory goes, and how many KV blocks each engine makes of the rest."""

from __future__ import annotations

from dataclasses import replace
from math import floor
from typing import NamedTuple

from simulator.deployment import Limits, MemoryBudget, ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.errors import DoesNotFitError, ScenarioError
from simulator.models.counting import (
    kv_bytes_per_rank,
    state_bytes_per_rank,
    weight_bytes_per_rank,
)
from simulator.models.layout import ALONE, Layout
from simulator.models.spec import ModelSpec, MoeMlp
from simulator.models.splits import tensor_parallel_sizes
from simulator.serving.kv_cache import KvLayout

GIB = float(1 << 30)


class Beside(NamedTuple):
    """What else lies on a device: weights, and the cache of every token (a draft's).

    ``name``: in what is told where it does not fit.
    """

    name: str = ""
    weights_gib: float = 0.0
    kv_bytes_per_token: float = 0.0


NOTHING_BESIDE = Beside()


def activation_bytes(spec: ModelSpec, limits: Limits, layout: Layout) -> float:
    """Most bytes of activations in a step with the full token budget, one device.

    Residual stream and its copy, the widest pair of intermediate results that live together, and
    the logits of a full batch in 32 bits with one copy for sampling.
    """
    tokens, hidden = -(-limits.max_num_batched_tokens // layout.cp), spec.hidden
    widest = 0.0
    # Tokens of all data-parallel ranks come to the experts; without them a device has all tokens,
    # and buffers for all of their experts, wherever these are.
    passing = max(1.0, layout.dp / layout.ep)
    for group in spec.groups:
        mlp = group.mlp
        if group.recurrent is not None:
            part = group.recurrent.share(layout.tp)
            widest = max(widest, part.in_width + part.inner)
        if mlp is None:
            continue
        rows = 3 if mlp.gated else 2
        if isinstance(mlp, MoeMlp):
            chosen = mlp.top_k * passing
            whole = layout.tp / layout.expert_tp
            width = chosen * mlp.intermediate * whole + mlp.shared_intermediate
            results = chosen * hidden
        else:
            width, results = mlp.intermediate, 0.0
        widest = max(widest, rows * width / layout.tp + results)
    layers = tokens * (3 * hidden + widest) * 2.0 + _score_bytes(spec, limits, layout)
    logits = min(-(-limits.decode_tokens // layout.cp), tokens) * spec.vocab * 4.0 * 2.0
    return layers + (logits if spec.samples else 0.0)


def _score_bytes(spec: ModelSpec, limits: Limits, layout: Layout) -> float:
    """Scores of one layer before and after the softmax, in 16 bits, of a step's tokens at the end
    of the longest context, where attention is not fused."""
    if limits.kernels.attention != "unfused":
        return 0.0
    heads = max(
        (group.attention.heads for group in spec.groups if group.attention is not None), default=0
    )
    tokens = min(limits.max_num_batched_tokens, limits.max_model_len)
    return 2 * 2.0 * heads / layout.tp * tokens * limits.max_model_len


def memory_budget(
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
    """Weights, activations, reserve and KV cache of one device.

    Args:
        layout: how the replica lies on devices.
        device_gib: memory that software can allocate.
        fraction: the engine's memory fraction, with the meaning of its rule.
        kv_cache_tokens: capacity given by the user instead.
        hardware_title, node_devices: for the sentence that says what would fit.
        beside: what else lies on a device.

    Raises:
        DoesNotFitError: no room for the weights, or for one KV block; with the arithmetic.
    """
    reserved = engine.memory.reserved_gib
    weights, activations, room, text = _room(
        spec, engine, precision, limits, layout, device_gib, fraction, beside
    )
    block_bytes, pages = _pages(spec, engine, precision, layout, limits, beside)
    blocks = floor(room * GIB / block_bytes)
    if kv_cache_tokens is not None:
        if not pages.growing and not pages.local_ratio:
            raise ScenarioError(
                f"{spec.name} caches nothing for each token, only a state for each sequence",
                where="engine.kv_cache_tokens",
                hint="leave it out; engine.max_num_seqs limits sequences",
            )
        wanted = pages.blocks_for(kv_cache_tokens)
        if wanted > blocks:
            raise DoesNotFitError(
                f"{kv_cache_tokens} tokens of KV cache take {wanted * block_bytes / GIB:.1f} GiB, "
                f"but there are {max(room, 0.0):.1f} GiB ({text})",
                where="engine.kv_cache_tokens",
                hint=f"at most {max(blocks, 0) * limits.block_size} tokens fit",
            )
        blocks = wanted
    # A sequence of one token: a block, and what recurrent and local layers keep of it.
    if blocks < max(1, pages.blocks_for(1)):
        if beside.weights_gib and room + beside.weights_gib * fraction > 0.0:
            raise DoesNotFitError(
                f"{beside.name} of {beside.weights_gib:.1f} GiB does not fit beside {spec.name} on "
                f"{layout.devices} × {hardware_title}: {text} = {room:.1f} GiB for the KV cache",
                where="engine.speculative",
                hint="take a smaller draft, narrower weights or more devices",
            )
        raise DoesNotFitError(
            f"{spec.name} in {precision.weights} does not fit on {layout.devices} × "
            f"{hardware_title}: {text} = {room:.1f} GiB for the KV cache",
            where="hardware",
            hint=_what_would_fit(
                spec, engine, precision, limits, layout, device_gib, fraction, node_devices, beside
            ),
        )
    used = blocks * block_bytes / GIB
    budget = MemoryBudget(
        device_gib=device_gib,
        weights_gib=weights,
        activations_gib=activations,
        reserved_gib=reserved,
        unused_gib=max(0.0, device_gib - weights - activations - reserved - used),
        kv_cache_gib=used,
        block_bytes=block_bytes,
        kv_blocks=blocks,
        kv_tokens=blocks * limits.block_size,
        rule=f"{engine.memory.rule}: {text}",
        state_blocks=-int(-pages.state_blocks // 1),
        beside_gib=beside.weights_gib,
    )
    return budget, replace(pages, blocks=blocks)


def _pages(
    spec: ModelSpec,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    layout: Layout,
    limits: Limits,
    beside: Beside,
) -> tuple[float, KvLayout]:
    """Bytes of a block and how sequences take blocks (the number of blocks is not known yet). A
    model that keeps nothing for each token has blocks of one sequence's state."""
    kv = kv_bytes_per_rank(spec, precision.kv_cache, layout)
    kv = kv._replace(full=kv.full + beside.kv_bytes_per_token)
    state = state_bytes_per_rank(spec, precision.recurrent_state, layout)
    size = limits.block_size
    if size % layout.cp:
        raise ScenarioError(
            f"cp = {layout.cp} does not divide the {size} tokens of a KV block",
            where="parallelism.cp",
            hint=f"set engine.block_size: {size // layout.cp * layout.cp or layout.cp}",
        )
    if not kv.total:
        return state, KvLayout(1, size, False, state_blocks=1.0)
    if not engine.hybrid_kv or not kv.local or limits.kv_reserve:
        block = size * kv.total
        return block, KvLayout(1, size, state_blocks=state / block)
    span = max(group.span.tokens for group in spec.groups)
    if not kv.full:
        block = size * kv.local
        return block, KvLayout(1, size, False, 1.0, span, state / block)
    block = size * kv.full
    return block, KvLayout(1, size, True, kv.local / kv.full, span, state / block)


def _room(
    spec: ModelSpec,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    limits: Limits,
    layout: Layout,
    device_gib: float,
    fraction: float,
    beside: Beside,
) -> tuple[float, float, float, str]:
    """GiB of weights, of activations, of what is left for the KV cache, and the arithmetic."""
    weights = weight_bytes_per_rank(spec, precision.weights, layout) / GIB + beside.weights_gib
    activations = activation_bytes(spec, limits, layout) / GIB
    reserved = engine.memory.reserved_gib
    match engine.memory.rule:
        case "of_total":
            room = fraction * device_gib - weights - activations - reserved
            formula = "{f:g} × {d:.1f} − {w:.1f} weights − {a:.1f} activations − {r:.1f} reserved"
        case "of_free":
            room = fraction * (device_gib - weights - activations - reserved)
            formula = "{f:g} × ({d:.1f} − {w:.1f} weights − {a:.1f} activations − {r:.1f} reserved)"
        case "static":
            room = min(
                fraction * (device_gib - reserved) - weights,
                device_gib - reserved - weights - activations,
            )
            formula = "{f:g} × ({d:.1f} − {r:.1f} reserved) − {w:.1f} weights"
    text = formula.format(f=fraction, d=device_gib, w=weights, a=activations, r=reserved)
    return weights, activations, room, text


def _what_would_fit(
    spec: ModelSpec,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    limits: Limits,
    layout: Layout,
    device_gib: float,
    fraction: float,
    node_devices: int,
    beside: Beside,
) -> str:
    weights = weight_bytes_per_rank(spec, precision.weights, ALONE) / GIB
    whole = f"its weights take {weights:.0f} GiB in all"
    for devices in tensor_parallel_sizes(spec, layout):
        if layout.tp < devices <= node_devices:
            wider = replace(layout, tp=devices)
            room = _room(spec, engine, precision, limits, wider, device_gib, fraction, beside)[2]
            size, pages = _pages(spec, engine, precision, wider, limits, beside)
            if room * GIB >= size * max(1, pages.blocks_for(1)):
                return f"{whole}: parallelism.tp: {devices} would fit"
    return f"{whole}: take a narrower precision.weights or a device with more memory"
