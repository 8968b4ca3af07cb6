"""Rows of matrix products, and what to compute for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from calibration.fit.solve import Axes, Floats, Sample
from calibration.fit.tables import Tables, columns, groups, measured
from simulator.hardware.forms import MatmulEfficiency
from simulator.models.counting import element_bytes
from simulator.scenario.precision import Dtype

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


def samples(tables: Tables) -> Iterator[Sample]:
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
