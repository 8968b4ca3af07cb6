"""Settings of the KV cache: each changes a result."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"engine.kv_cache_tokens": 1600}
"""So few blocks that sequences are preempted."""
TALKS: dict[str, Any] = {
    "engine.kv_cache_tokens": 3200,
    "workload": {
        "kind": "sessions",
        "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
        "turns": {"kind": "fixed", "tokens": 4},
        "user_tokens": {"kind": "uniform", "low": 50, "high": 150},
        "output_tokens": {"kind": "uniform", "low": 10, "high": 60},
        "think_time_s": 0.5,
    },
}
"""Conversations whose text is forgotten between two turns."""


def host(gib: float) -> list[dict[str, Any]]:
    return [{"kind": "host", "gib": gib}]


def ssd(**rates: float) -> list[dict[str, Any]]:
    slow = {"read_gb_per_s": 0.5, "write_gb_per_s": 0.5}
    return [{"kind": "ssd", "gib": 20.0, **slow, **rates}]


TIER: dict[str, Any] = TALKS | {"engine.kv_offload": ssd()}
BLOCKING: dict[str, Any] = {"kind": "swap", "host_gib": 8.0}
RUNS: dict[str, Any] = {
    "engine.max_model_len": 1000,
    "engine.kv_cache_tokens": 6000,
    "engine.prefix_caching": None,
}

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("engine.kv_watermark", 0.2, SMALL),
    ("engine.preemption", BLOCKING, SMALL),
    ("engine.preemption", BLOCKING | {"host_gib": 0.05}, SMALL | {"engine.preemption": BLOCKING}),
    ("engine.kv_allocation", {"kind": "contiguous"}, RUNS),
    (
        "engine.kv_allocation",
        {"kind": "contiguous", "reserve": "power_of_two"},
        RUNS | {"engine.kv_allocation": {"kind": "contiguous", "reserve": "exact"}},
    ),
    ("engine.kv_offload", host(4.0), TALKS),
    ("engine.kv_offload", host(0.1), TALKS | {"engine.kv_offload": host(4.0)}),
    ("engine.kv_offload", [*host(0.1), *ssd()], TALKS | {"engine.kv_offload": host(0.1)}),
    ("engine.kv_offload", ssd(gib=0.1), TIER),
    ("engine.kv_offload", ssd(read_gb_per_s=9.0), TIER),
    ("engine.kv_offload", ssd(write_gb_per_s=9.0), TIER),
    ("engine.kv_loading", {"overlap": False}, TIER),
    ("engine.kv_loading", {"min_tokens": 400}, TIER),
]
