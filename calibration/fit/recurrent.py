"""Rows of recurrent layers' kernels (Gated DeltaNet), and what to compute for each.

The tables time the short convolution and the update of the state, apart, for a token of each
sequence and for prompts; states have 32 bits. Of Mamba-2 they have the convolution alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from calibration.fit.solve import Axes, Floats, Sample
from calibration.fit.tables import Tables, columns, groups, measured
from simulator.costs.recurrent import SCAN_CHUNK
from simulator.hardware.forms import ScanEfficiency, UpdateEfficiency

if TYPE_CHECKING:
    import pandas as pd

_SIZES = (
    "batch_size", "seq_len", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim", "d_conv",
)  # fmt: skip
_SHAPE = ("num_k_heads", "num_v_heads")
_MOVED = tuple(float(2**n) for n in range(16, 36, 2))
UPDATE_GRIDS: tuple[Axes, ...] = ({"moved": _MOVED},)
CONVOLUTION_GRIDS: tuple[Axes, ...] = ({"moved": _MOVED}, {"length": (64, 256, 1024)})
SCAN_GRIDS: tuple[Axes, ...] = (
    {
        "length": (64, 256, 1024, 4096, 16384),
        "units": (16, 64, 128, 256, 512, 2048, 8192),
    },
)
STATE = 4.0
"""Bytes of an element of the state, as measured."""
HALF = 2.0


def samples(tables: Tables) -> Iterator[Sample]:
    """Updates and scans of the convolution and of the state; one framework's for all engines, as
    TensorRT-LLM's tables have four shapes only."""
    if not tables.base:
        return
    rows = tables.get("linear_attention", "gdn", (*_SIZES, "kernel_source", "phase"))
    if rows is None:
        return
    convolution = rows.kernel_source.str.startswith("causal_conv1d")
    prompts = (rows.phase == "context") & (rows.seq_len >= 16)
    tokens = rows.phase == "generation"
    for chosen, made in (
        (tokens & ~convolution, _state_update),
        (tokens & convolution, _convolution_update),
        (prompts & ~convolution, _state_scan),
        (prompts & convolution, _convolution_scan),
    ):
        if chosen.any():
            yield made(tables, rows[chosen])


def _widths(rows: pd.DataFrame) -> tuple[Floats, Floats, Floats]:
    """Channels of the convolution, elements of the state, and elements a token brings and takes."""
    keys, key, values, value = columns(rows, *_SIZES[2:6])
    channels = 2 * keys * key + values * value
    return channels, values * key * value, channels + values * value + 2 * values


def _state_update(tables: Tables, rows: pd.DataFrame) -> Sample:
    device, (n,) = tables.device, columns(rows, "batch_size")
    _, state, io = _widths(rows)
    moved = n * (2 * STATE * state + HALF * io)
    return _update(tables, "gdn", rows, moved, 7 * n * state).rows(
        _cold(n * state * STATE, device.cache)
    )


def _convolution_update(tables: Tables, rows: pd.DataFrame) -> Sample:
    device, (n, width) = tables.device, columns(rows, "batch_size", "d_conv")
    channels, _, _ = _widths(rows)
    kept = n * channels * (width - 1) * HALF
    moved = 2 * kept + 2 * n * channels * HALF + channels * width * HALF
    flops = 2 * n * channels * width
    return _update(tables, "conv", rows, moved, flops).rows(_cold(kept, device.cache))


def _cold(stored: Floats, cache: float) -> np.ndarray:
    """Rows whose states the replayed kernel does not find in the cache, as a model, which has
    passed all its other layers in between, would not; and those too small for it to matter."""
    return (stored > 1.3 * cache) | (stored < 0.01 * cache)


def _update(tables: Tables, key: str, rows: pd.DataFrame, moved: Floats, flops: Floats) -> Sample:
    device = tables.device
    return Sample(
        "recurrent_update", key, UpdateEfficiency, {"bandwidth": 0.8, "overhead_us": 4.0},
        (moved, flops, device.bandwidth, device.peak("bf16")),
        measured(rows), {"moved": moved}, UPDATE_GRIDS, groups(rows, *_SHAPE),
    )  # fmt: skip


def _state_scan(tables: Tables, rows: pd.DataFrame) -> Sample:
    device = tables.device
    n, length, _, key, heads, value = columns(rows, *_SIZES[:6])
    _, state, io = _widths(rows)
    tokens = n * length
    moved = tokens * io * HALF + 2 * STATE * n * state
    flops = tokens * (6 * state + heads * SCAN_CHUNK * (3 * key + 2 * value))
    start = {"bandwidth": 0.5, "compute": 0.3, "serial_ns": 30.0, "overhead_us": 12.0}
    return Sample(
        "recurrent_scan", "gdn", ScanEfficiency, start,
        (moved, flops, length, device.bandwidth, device.peak("bf16")),
        measured(rows), {"length": length, "units": n * heads, "moved": moved},
        SCAN_GRIDS, groups(rows, *_SHAPE),
    )  # fmt: skip


def _convolution_scan(tables: Tables, rows: pd.DataFrame) -> Sample:
    device = tables.device
    n, length, width = columns(rows, "batch_size", "seq_len", "d_conv")
    channels, _, _ = _widths(rows)
    tokens = n * length
    kept = n * channels * (width - 1) * HALF
    moved = 2 * tokens * channels * HALF + 2 * kept + channels * width * HALF
    # Its arithmetic is in proportion to its bytes and hides behind them.
    start = {"bandwidth": 0.6, "overhead_us": 4.0}
    return Sample(
        "recurrent_scan", "conv", ScanEfficiency, start,
        (moved, 0.0 * moved, length, device.bandwidth, device.peak("bf16")),
        measured(rows), {"length": length, "units": n * channels, "moved": moved},
        CONVOLUTION_GRIDS, groups(rows, *_SHAPE),
    ).rows(_cold(tokens * channels * HALF, device.cache))  # fmt: skip
