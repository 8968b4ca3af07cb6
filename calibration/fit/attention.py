"""Rows of attention kernels, and what to compute for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibration.fit.products import input_bytes
from calibration.fit.solve import Axes, Floats, Sample
from calibration.fit.tables import Device, Tables, columns, groups, measured
from simulator.hardware.forms import DecodeAttentionEfficiency, PrefillAttentionEfficiency

if TYPE_CHECKING:
    import pandas as pd

_REACH = (32, 64, 128, 256, 512, 1024, 2048)
_QUERIES = (512, 2048, 8192, 2**15, 2**17, 2**19)
PREFILL_GRIDS: tuple[Axes, ...] = (
    {"reach": _REACH, "queries": _QUERIES},
    {"reach": _REACH, "head_dim": (128,)},
    {"queries": _QUERIES, "head_dim": (128,)},
    {"reach": _REACH, "sharing": (4,)},
    {"queries": _QUERIES, "sharing": (4,)},
)
_UNITS = (4, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (16, 64, 256, 1024, 4096, 16384)
DECODE_GRIDS: tuple[Axes, ...] = (
    {"units": _UNITS, "tokens": (16, 64, 128, 256, 512, 1024, 4096, 16384)},
    {"tokens": _TOKENS, "head_dim": (128,)},
    {"units": _UNITS, "head_dim": (128,)},
    {"tokens": _TOKENS, "sharing": (2, 8, 16)},
    {"units": _UNITS, "sharing": (2, 8, 16)},
)
LATENT_GRIDS: tuple[Axes, ...] = (
    {"units": (4, 16, 64, 256), "tokens": _TOKENS, "sharing": (16, 64)},
)
LATENT_PREFILL_GRIDS: tuple[Axes, ...] = ({"reach": (32, 128, 512, 2048), "queries": _QUERIES},)
SHAPE = ("num_heads", "num_key_value_heads", "head_dim")
ATTENTION = (*SHAPE, "batch_size", "isl", "step", "kv_cache_dtype", "kernel_source")


def samples(tables: Tables) -> Iterator[Sample]:
    """Grouped-query attention; latent attention has tables of TensorRT-LLM for all engines."""
    yield from _prefill(tables)
    if tables.base:
        yield from _latent_prefill(tables)
    yield from _decode(tables)
    if tables.base:
        yield from _latent_decode(tables)


def _usual(rows: pd.DataFrame | None, kv: str) -> pd.DataFrame | None:
    """Rows of a cache type, without sliding windows and the fall-back kernels for head sizes that
    few models have; None if nothing is left."""
    if rows is None:
        return None
    odd = rows.kernel_source.isin(ODD)
    keep = ~odd & rows.head_dim.isin([64, 128, 256]) & (rows.window_size == 0)
    keep &= rows.kv_cache_dtype == kv
    if "attn_dtype" in rows and (rows[keep].attn_dtype == kv).any():
        keep &= rows.attn_dtype == kv  # else keys and values widen to 16 bits first
    return rows[keep] if keep.any() else None


ODD = ("vllm_triton_attn", "vllm_flash_attn_fa4", "torch_flow_flashinfer")
KV_TYPES = (("bf16", "bfloat16"), ("fp8", "fp8"))


def _prefill(tables: Tables) -> Iterator[Sample]:
    """Causal attention of whole prompts."""
    device = tables.device
    rows = tables.get("attention", "context_attention", ATTENTION)
    for key, name in KV_TYPES:
        d = _usual(rows, name)
        if d is None:
            continue
        d = d[d.isl >= 16]
        n, s, dim, heads, kv = columns(
            d, "batch_size", "isl", "head_dim", "num_heads", "num_key_value_heads"
        )
        moved = n * s * dim * (4 * heads + 2 * kv * input_bytes(key))
        flops = 4 * n * s * (s + 1) / 2 * heads * dim
        start = {"compute": 0.8, "bandwidth": 0.3, "half_head_dim": 40.0, "overhead_us": 12.0}
        at = {
            "reach": (s + 1) / 2,
            "queries": n * s * heads,
            "head_dim": dim,
            "sharing": heads / kv,
        }
        peak = device.peak(key) if key in device.peaks else device.peak("bf16")
        yield Sample(
            "prefill_attention", key, PrefillAttentionEfficiency, start,
            (moved, flops, dim, device.bandwidth, peak),
            measured(d), at, PREFILL_GRIDS, groups(d, *SHAPE),
        )  # fmt: skip


def _latent_prefill(tables: Tables) -> Iterator[Sample]:
    """Causal attention over expanded keys (192 elements) and values (128), as DeepSeek-V3."""
    device = tables.device
    needed = ("num_heads", "batch_size", "isl", "kv_cache_dtype")
    rows = tables.get("mla", "context_mla", needed, "trtllm")
    for key, name in KV_TYPES:
        d = None if rows is None else rows[(rows.kv_cache_dtype == name) & (rows.isl >= 16)]
        if d is None or not len(d):
            continue
        n, s, heads = columns(d, "batch_size", "isl", "num_heads")
        moved = n * s * heads * (192 + 128) * 4
        flops = 2 * n * s * (s + 1) / 2 * heads * (192 + 128)
        start = {"compute": 0.8, "bandwidth": 0.3, "half_head_dim": 40.0, "overhead_us": 12.0}
        at = {"reach": (s + 1) / 2, "queries": n * s * heads}
        peak = device.peak(key) if key in device.peaks else device.peak("bf16")
        yield Sample(
            "prefill_attention", f"latent-{key}", PrefillAttentionEfficiency, start,
            (moved, flops, 160.0, device.bandwidth, peak),
            measured(d), at, LATENT_PREFILL_GRIDS, groups(d, "num_heads", "batch_size"),
        )  # fmt: skip


def _decode(tables: Tables) -> Iterator[Sample]:
    """One token a sequence: grouped-query kernels."""
    rows = tables.get("attention", "generation_attention", ATTENTION)
    for key, name in KV_TYPES:
        d = _usual(rows, name)
        if d is None:
            continue
        n, step, dim, heads, kv = columns(
            d, "batch_size", "step", "head_dim", "num_heads", "num_key_value_heads"
        )
        context = n * (step + 1)
        stored = context * kv * dim * 2 * input_bytes(key)
        at = {"units": n * kv, "tokens": step + 1, "head_dim": dim, "sharing": heads / kv}
        args = (n * kv, 4 * n * heads * dim, stored, 4 * context * heads * dim)
        yield _one_token(tables.device, key, d, args, at, DECODE_GRIDS, groups(d, *SHAPE))


def _latent_decode(tables: Tables) -> Iterator[Sample]:
    """One token a sequence: latent kernels (MLA) from TensorRT-LLM, with 512 latent and 64 rotary
    elements, as DeepSeek-V3."""
    needed = ("num_heads", "batch_size", "step", "kv_cache_dtype")
    rows = tables.get("mla", "generation_mla", needed, "trtllm")
    for key, name in KV_TYPES:
        d = None if rows is None else rows[rows.kv_cache_dtype == name]
        if d is None or not len(d):
            continue
        n, step, heads = columns(d, "batch_size", "step", "num_heads")
        context = n * (step + 1)
        at = {"units": n, "tokens": step + 1, "sharing": heads}
        args = (
            n,
            n * heads * (576 + 512) * 2,
            context * 576 * input_bytes(key),
            2 * context * heads * (576 + 512),
        )
        yield _one_token(
            tables.device, f"latent-{key}", d, args, at, LATENT_GRIDS,
            groups(d, "num_heads", "batch_size"),
        )  # fmt: skip


def _one_token(
    device: Device,
    key: str,
    rows: pd.DataFrame,
    args: tuple[Floats, ...],
    at: dict[str, Floats],
    grids: tuple[Axes, ...],
    shapes: tuple[str, ...],
) -> Sample:
    """Leaves out rows whose keys and values the replayed kernel finds in the cache: a model has
    read all its other layers in between."""
    stored = args[2]
    keep = (stored > 1.3 * device.cache) | (stored < 0.08 * device.cache)
    kv = key.split("-")[-1]
    peak = device.peak(kv) if kv in device.peaks else device.peak("bf16")
    # compute starts low, where it binds: from the other side of max() nothing would pull at it
    start = {"bandwidth": 0.8, "compute": 0.1, "per_unit_us": 0.03, "overhead_us": 10.0}
    return Sample(
        "decode_attention", key, DecodeAttentionEfficiency, start,
        (*args, device.bandwidth, peak), measured(rows), at, grids, shapes,
    ).rows(keep)  # fmt: skip
