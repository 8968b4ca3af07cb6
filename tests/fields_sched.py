"""Settings of the order of the queue and of traffic classes."""

from __future__ import annotations

from typing import Any


def _class(name: str, requests: int, low: int, high: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "workload": {
            "kind": "synthetic",
            "requests": requests,
            "arrivals": {"kind": "poisson", "rate_per_s": 25.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "uniform", "low": low, "high": high},
                "output": {"kind": "uniform", "low": 1, "high": 150},
            },
        },
        **more,
    }


def _mix(**second: Any) -> dict[str, Any]:
    return {
        "kind": "mix",
        "classes": [_class("chat", 30, 100, 300), _class("batch", 30, 300, 600, **second)],
    }


NARROW: dict[str, Any] = {"workload": _mix(), "engine.max_num_seqs": 4}


def _order(**settings: Any) -> dict[str, Any]:
    return NARROW | {"engine.queue": settings}


PRIORITY, SHORTEST = _order(kind="priority"), _order(kind="shortest_first")
DEADLINE, FAIR = _order(kind="deadline"), _order(kind="fair")

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("engine.queue", {"kind": "shortest_first"}, NARROW),
    ("engine.queue", {"kind": "fair"}, NARROW),
    ("workload.classes", _mix(priority=-1)["classes"], PRIORITY),
    ("workload.classes", _mix(weight=4.0)["classes"], FAIR),
    ("engine.queue", {"kind": "shortest_first", "input_weight": 0.0}, SHORTEST),
    ("engine.queue", {"kind": "shortest_first", "output_weight": 0.0}, SHORTEST),
    ("engine.queue", {"kind": "shortest_first", "prediction_error": 2.0}, SHORTEST),
    ("engine.queue", {"kind": "shortest_first", "aging_tokens_per_s": 1000.0}, SHORTEST),
    ("engine.queue", {"kind": "deadline", "limit": "e2e"},
     DEADLINE | {"workload": _mix(slo={"ttft_ms": 500.0, "e2e_ms": 300.0})}),
    ("engine.queue", {"kind": "deadline", "defer_hopeless": True}, DEADLINE),
    ("engine.queue", {"kind": "fair", "input_weight": 9.0}, FAIR),
    ("engine.queue", {"kind": "fair", "output_weight": 9.0}, FAIR),
]  # fmt: skip
