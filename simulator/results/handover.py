"""What the way of the KV cache from prefill to decode replicas took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.results.fleet import Part
from simulator.results.latency import statistics
from simulator.results.record import RunRecord
from simulator.results.window import Window, end_of_run


def handover_section(parts: Sequence[Part], record: RunRecord, window: Window) -> dict[str, Any]:
    """Transfers of the requests that count; empty where every pool serves whole requests."""
    stages = record.stages
    if stages is None:
        return {}
    counted = window.counted & np.isfinite(stages.landed_s)
    done, reserved, landed = (
        column[counted] for column in (stages.prompt_done_s, stages.reserved_s, stages.landed_s)
    )
    span = end_of_run(record)
    busiest = {"prefill": 0.0, "decode": 0.0}
    for part in parts:
        group = part.record.groups[0]
        own = float(stages.path_busy_s[group.first : group.end].max())
        busiest[part.role] = max(busiest[part.role], own)
    return {
        "transfer_ms": statistics(1e3 * (landed - done)),
        "blocks_wait_ms": statistics(1e3 * np.maximum(0.0, reserved - done)),
        "mb_per_request": float(stages.sent_bytes[counted].mean()) / 1e6 if counted.any() else None,
        "send_busy_share": busiest["prefill"] / span if span > 0 else None,
        "receive_busy_share": busiest["decode"] / span if span > 0 else None,
    }
