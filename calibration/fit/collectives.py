"""Rows of collectives, and what to compute for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibration.fit.solve import Axes, Sample
from calibration.fit.tables import Tables, columns, groups, measured
from simulator.hardware.forms import CollectiveEfficiency

if TYPE_CHECKING:
    import pandas as pd

REDUCE_GRIDS: tuple[Axes, ...] = (
    {"devices": (4,), "traffic": (2**12, 2**15, 2**17, 2**19, 2**21, 2**24)},
)


def samples(tables: Tables) -> Iterator[Sample]:
    """All-reduces; all-gathers are NCCL's in every engine."""
    yield from _all_reduce(tables)
    if tables.base:
        yield from _all_gather(tables)


def _all_reduce(tables: Tables) -> Iterator[Sample]:
    """All-reduce in one node: the engine's own kernel in a graph on NVLink, NCCL over PCIe."""
    start = {"bandwidth": 0.6, "latency_us": 4.0, "per_peer_us": 0.3}
    common = ("num_gpus", "message_size")
    d: pd.DataFrame | None = None
    if tables.device.link > 100e9:
        d = tables.get("comm", "custom_allreduce", common)
        if d is not None and "backend" in d:
            d = d[d.backend == f"{tables.framework}_graph"]
    elif tables.base:
        start["contention"] = 0.5
        d = tables.get("comm", "nccl", (*common, "op_name", "nccl_dtype"), "nccl")
        d = None if d is None else d[(d.op_name == "all_reduce") & (d.nccl_dtype == "half")]
    if d is None or not len(d):
        return
    d = d[d.message_size <= 2**27]  # elements of two bytes
    g, message = columns(d, "num_gpus", "message_size")
    traffic = 2 * (g - 1) / g * message * 2
    yield Sample(
        "collective", "", CollectiveEfficiency, start, (g, traffic, tables.device.link),
        measured(d), {"devices": g, "traffic": traffic}, REDUCE_GRIDS,
        groups(d, "message_size"),
    )  # fmt: skip


def _all_gather(tables: Tables) -> Iterator[Sample]:
    """All-gather in one node by NCCL; the message is the whole that every device ends up with."""
    start = {"bandwidth": 0.6, "latency_us": 4.0, "per_peer_us": 0.3}
    if tables.device.link <= 100e9:
        start["contention"] = 0.5
    d = tables.get("comm", "nccl", ("num_gpus", "message_size", "op_name", "nccl_dtype"), "nccl")
    d = None if d is None else d[(d.op_name == "all_gather") & (d.nccl_dtype == "half")]
    if d is None or not len(d):
        return
    d = d.groupby(["num_gpus", "message_size"])[["latency"]].median().reset_index()
    g, message = columns(d, "num_gpus", "message_size")
    traffic = (g - 1) / g * message * 2
    yield Sample(
        "all_gather", "", CollectiveEfficiency, start, (g, traffic, tables.device.link),
        measured(d), {"devices": g, "traffic": traffic}, REDUCE_GRIDS,
        groups(d, "message_size"),
    )  # fmt: skip
