"""Rows of tokens that travel to their experts and back, and what to compute for each.

The tables of DeepEP's own benchmark are the only ones over several nodes (of eight devices). Its
kernels for many tokens are taken with 20 multiprocessors, DeepEP's default, and up to four nodes:
over eight they take up to three times as long as the bytes tell, which this form has no term for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from calibration.fit.solve import Floats, Sample
from calibration.fit.tables import Tables, columns, groups
from simulator.costs.expert_ranks import ranks_reached
from simulator.hardware.forms import AllToAllEfficiency

if TYPE_CHECKING:
    import pandas as pd

FRAMEWORK = "sglang"
PER_NODE = 8
SMS = 20
MOST_NODES = 4
START = {"bandwidth": 0.6, "network": 0.9, "latency_us": 20.0, "per_doubling_us": 5.0}
COMMON = ("node_num", "hidden_size", "num_token", "num_topk", "num_experts")
BYTES = {"dispatch": 1.0, "combine": 2.0}
"""Of an element on its way: 8 bits there, 16 back."""


def samples(tables: Tables) -> Iterator[Sample]:
    """Dispatch and combine of both kinds of kernels; rates of the network are those of the
    profile."""
    if not tables.base or tables.device.network is None:
        return
    for kind, name in (("low-latency", "ll"), ("throughput", "normal")):
        for way in BYTES:
            seconds = ("avg_t_us",) if name == "ll" else ("transmit_us", "notify_us", "sms")
            wanted = [f"{way}_{part}" for part in seconds]
            d = tables.get(
                "comm", f"wideep_deepep_{name}", (*COMMON, *wanted), FRAMEWORK, latency=False
            )
            if d is None:
                return
            if name == "normal":
                d = d[(d[f"{way}_sms"] == SMS) & (d.node_num <= MOST_NODES)]
            yield _sample(d, kind, way, tables, wanted[:2] if name == "normal" else wanted)


def _sample(d: pd.DataFrame, kind: str, way: str, tables: Tables, parts: list[str]) -> Sample:
    nodes, hidden, tokens, top_k = columns(d, "node_num", "hidden_size", "num_token", "num_topk")
    size = tokens * hidden * BYTES[way]
    near, far = _copies(d) if kind == "throughput" else _all_copies(nodes, top_k)
    device = tables.device
    measured = np.sum([columns(d, part)[0] for part in parts], axis=0) * 1e-6
    return Sample(
        "exchange", f"{kind}-{way}", AllToAllEfficiency, dict(START),
        (size * near, size * far, np.log2(nodes), device.link, device.network or 0.0),
        measured, groups=groups(d, "node_num", "num_token"),
    )  # fmt: skip


def _all_copies(nodes: Floats, top_k: Floats) -> tuple[Floats, Floats]:
    """A copy for every expert: to other devices of the node, and to other nodes."""
    return top_k * (PER_NODE - 1) / (nodes * PER_NODE), top_k * (nodes - 1) / nodes


def _copies(d: pd.DataFrame) -> tuple[Floats, Floats]:
    """One copy for every device and every node that holds any."""
    rows = d[["node_num", "num_topk", "num_experts"]].itertuples(index=False)
    found = [
        (
            ranks_reached(e, k, n * PER_NODE) * (PER_NODE - 1) / PER_NODE,
            ranks_reached(e, k, n) * (n - 1) / n,
        )
        for n, k, e in rows
    ]
    near, far = np.array(found, dtype=np.float64).T
    return near, far
