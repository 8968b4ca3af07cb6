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

CROWD = {"engine.max_num_seqs": 2, "engine.kv_cache_tokens": 1500}


def _gate(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rules": list(rules), **more}


QUEUE = {"kind": "queue_length", "max_waiting": 4}
BUCKET = {"kind": "rate_limit", "requests_per_s": 5.0}
AGAIN = {"retries": 2, "backoff_s": 0.2}


def _refused(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return CROWD | {"deployment.admission": _gate(*rules, **more)}


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
    ("deployment.admission", _gate(QUEUE), CROWD),
    ("deployment.admission", _gate(QUEUE | {"max_waiting": 9}), _refused(QUEUE)),
    ("deployment.admission", _gate({"kind": "kv_use", "max_use": 0.3}), CROWD),
    ("deployment.admission", _gate({"kind": "kv_use", "max_use": 0.9}),
     _refused({"kind": "kv_use", "max_use": 0.3})),
    ("deployment.admission", _gate({"kind": "predicted_ttft"}), CROWD),
    ("deployment.admission", _gate({"kind": "predicted_ttft", "factor": 9.0}),
     _refused({"kind": "predicted_ttft"})),
    ("deployment.admission", _gate(BUCKET), CROWD),
    ("deployment.admission", _gate(BUCKET | {"requests_per_s": 15.0}), _refused(BUCKET)),
    ("deployment.admission", _gate(BUCKET | {"burst": 9}), _refused(BUCKET)),
    ("deployment.admission", _gate(BUCKET | {"classes": ["chat"]}),
     _refused(BUCKET) | {"workload": _mix()}),
    ("deployment.admission", _gate(QUEUE, retries=2), _refused(QUEUE)),
    ("deployment.admission", _gate(QUEUE, retries=2, backoff_s=0.2), _refused(QUEUE, retries=2)),
    ("deployment.admission", _gate(QUEUE, **AGAIN, jitter=0.0), _refused(QUEUE, **AGAIN)),
]  # fmt: skip
