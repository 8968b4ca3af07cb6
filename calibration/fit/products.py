"""Rows of matrix products and of experts, and what to compute for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np

from calibration.fit.solve import Axes, Floats, Sample
from calibration.fit.tables import Tables, columns, groups, measured
from simulator.hardware.forms import MatmulEfficiency
from simulator.models.counting import element_bytes
from simulator.scenario.serving import Dtype

if TYPE_CHECKING:
    import pandas as pd


def stored_bytes(key: str) -> float:
    """Bytes a weight of products with this key, with scales; fp4 that another type is multiplied
    with is MXFP4, whose groups are of 32."""
    computed, stored = key.split("-")[0], key.split("-")[-1]
    return element_bytes(_dtype(stored), 32 if stored == "fp4" != computed else None)


def input_bytes(key: str) -> float:
    """Bytes an input of products with this key."""
    return element_bytes(_dtype(key.removeprefix("block-").split("-")[0]))


def _dtype(name: str) -> Dtype:
    return next(dtype for dtype in get_args(Dtype) if dtype == name)


_M = (16, 64, 128, 192, 256, 512, 1024, 2048)
MATMUL_GRIDS: tuple[Axes, ...] = (
    {"m": _M, "n": (512, 2048, 8192), "k": (3072,)},
    {"m": _M, "k": (1024, 2048, 4096, 8192)},
    {"n": (512, 2048, 8192), "k": (1024, 2048, 4096, 8192)},
)
_PER_EXPERT = (0.03, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
EXPERT_GRIDS: tuple[Axes, ...] = (
    {"tokens_per_expert": _PER_EXPERT, "width": (512, 2048)},
    {"tokens_per_expert": _PER_EXPERT, "hidden": (3072,)},
    {"tokens_per_expert": (0.5, 4, 64), "experts": (32, 128)},
)


def samples(tables: Tables) -> Iterator[Sample]:
    """Dense products and experts."""
    yield from _matmul(tables)
    yield from _experts(tables)


def _matmul(tables: Tables) -> Iterator[Sample]:
    """Dense products. Those of fp8 with block scales are TensorRT-LLM's for all engines: vLLM's
    were measured eagerly, one matrix again and again, so that up to 200 µs they are launches.
    Weight-only and int8 ones are in TensorRT-LLM's tables for A100."""
    device = tables.device
    needed = ("gemm_dtype", "m", "n", "k")
    rows = tables.get("gemm", "gemm", needed)
    kinds = [("bf16", rows, "bfloat16"), ("fp8", rows, "fp8"), ("fp4", rows, "nvfp4")]
    if tables.base:
        other = tables.get("gemm", "gemm", needed, "trtllm")
        names = {"block-fp8": "fp8_block"}
        if "fp8" not in device.peaks:
            names = {"int8": "sq", "bf16-int8": "int8_wo", "bf16-int4": "int4_wo"}
        kinds += [(key, other, name) for key, name in names.items()]
    for key, source, name in kinds:
        if source is None:
            continue
        d = source[source.gemm_dtype == name]
        d = d[(d.n >= 128) & (d.k >= 512)]
        if not len(d):
            continue
        d = _undisturbed(_calibrated(tables, d) if key == "fp8" else d)
        m, n, k = columns(d, "m", "n", "k")
        inputs, weights = input_bytes(key), stored_bytes(key)
        start = {"compute": 0.7, "bandwidth": 0.8, "overhead_us": 3.0, "sharpness": 2.0}
        converted: Floats | float = 0.0
        if inputs < 2:
            start["conversion"] = 0.3
            converted = m * k * (2 + inputs)
        moved = n * k * weights + m * k * inputs + m * n * 2
        args = (moved, 2 * m * n * k, converted, device.bandwidth, device.peak(key))
        yield Sample(
            "matmul", key, MatmulEfficiency, start, args, measured(d),
            {"m": m, "n": n, "k": k}, MATMUL_GRIDS, groups(d, "n", "k"),
        )  # fmt: skip


def _calibrated(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """TensorRT-LLM's fp8 rows were measured without scales for the inputs, so that a kernel of its
    own looks for the largest input first. Checkpoints for this engine bring those scales along
    (ModelOpt): its time, which is measured too, is taken off."""
    if tables.framework != "trtllm":
        return rows
    scales = tables.get("quantize", "computescale", ("m", "k"))
    if scales is None:
        return rows
    both = rows.merge(scales[["m", "k", "latency"]], on=["m", "k"], suffixes=("", "_scale"))
    return both.assign(latency=both.latency - both.latency_scale)


FLAT = 64
"""Rows up to which a product waits for its weights: time hardly depends on their number."""
DISTURBED = 1.5


def _undisturbed(rows: pd.DataFrame) -> pd.DataFrame:
    """Without measurements of up to ``FLAT`` rows that took ``DISTURBED`` times the median of the
    same matrix: some tables hold twice the time at single points, and their neighbours do not."""
    flat = rows.m <= FLAT
    usual = rows[flat].groupby(["n", "k"]).latency.median().rename("usual")
    limit = DISTURBED * rows.join(usual, on=["n", "k"]).usual
    return rows[~(flat & (rows.latency > limit))]


EXPERT_TYPES = {
    "bf16": "bfloat16", "fp8": "fp8", "block-fp8": "fp8_block", "fp4": "nvfp4",
    "bf16-int4": "int4_wo", "bf16-fp4": "w4a16_mxfp4", "fp8-fp4": "w4a8_mxfp4_mxfp8",
}  # fmt: skip
MXFP = EXPERT_TYPES["fp8-fp4"]
"""Rows of vLLM and TensorRT-LLM go together here: both run TensorRT-LLM's generated kernels, on
shapes of which each has few."""
ODD = "nongated|deepgemm|modeloptfp8moe_flashinfer_cutlass"
"""Kernels left out: experts of two matrices; TensorRT-LLM's DeepGEMM backend on Blackwell, whose
TRTLLM backend, the one for low latency, has the kernels of vLLM's tables; and one of vLLM that was
measured without tuning, at several times the time of 16-bit experts."""
PREFERRED = ("gptoss", "min_latency")
"""Kernels that stand for a format where there are several: what native fp4 models take, and
TensorRT-LLM's TRTLLM backend on Blackwell."""


def _experts(tables: Tables) -> Iterator[Sample]:
    """Routed experts of one layer. "Balanced" tables deal the tokens out evenly, so that T tokens
    with k experts each reach min(E, T·k) of them; others are taken as drawn at random."""
    import pandas as pd

    device = tables.device
    shape = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")
    other = ("moe_dtype", "num_tokens", "moe_ep_size", "distribution", "kernel_source")
    rows = tables.get("moe", "moe", (*shape, *other))
    if rows is None:
        return
    if tables.base and "fp4" in device.peaks:
        more = tables.get("moe", "moe", (*shape, *other), "trtllm")
        rows = rows if more is None else pd.concat([rows, more[more.moe_dtype == MXFP]])
    rows = rows[(rows.moe_ep_size == 1) & ~rows.kernel_source.str.contains(ODD)]
    for key, name in EXPERT_TYPES.items():
        d = rows[rows.moe_dtype == name]
        for kernel in PREFERRED:
            chosen = d.kernel_source.str.contains(kernel)
            d = d[chosen] if chosen.any() else d
        if not len(d):
            continue
        even = bool((d.distribution == "balanced").any())
        d = d[d.distribution == ("balanced" if even else d.distribution.min())]
        t, h, k, e = columns(d, "num_tokens", "hidden_size", "topk", "num_experts")
        i = d.inter_size.to_numpy(float) / d.moe_tp_size.to_numpy(float)
        reached = np.minimum(e, t * k) if even else e * (1 - (1 - k / e) ** t)
        weights = reached * 3 * h * i * stored_bytes(key)
        a = input_bytes(key)
        moved = weights + t * h * a + t * k * (h * 2 + i * (4 + a))
        cold = weights > 1.3 * device.cache  # the tables replay one layer: less stays in the cache
        at = {"tokens_per_expert": t * k / e, "experts": e, "hidden": h, "width": i}
        start = {"compute": 0.5, "bandwidth": 0.7, "overhead_us": 20.0, "sharpness": 1.5}
        yield Sample(
            "grouped_matmul", key, MatmulEfficiency, start,
            (moved, 6 * t * k * h * i, 0.0, device.bandwidth, device.peak(key)),
            measured(d), at, EXPERT_GRIDS, groups(d, *shape),
        ).rows(cold)  # fmt: skip
