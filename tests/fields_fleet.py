"""Settings of pools and of who serves what."""

from __future__ import annotations

from typing import Any

SESSIONS: dict[str, Any] = {
    "workload": {
        "kind": "sessions", "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
        "turns": {"kind": "fixed", "tokens": 5},
        "user_tokens": {"kind": "fixed", "tokens": 150},
        "output_tokens": {"kind": "fixed", "tokens": 30},
    },
    "deployment.replicas": 3,
}  # fmt: skip


def _pools(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "a"}, {"name": "b", **changes}]


def _halves(**changes: Any) -> list[dict[str, Any]]:
    """Two pools that each take less than half of a device's memory."""
    return [pool | {"engine": {"kv_cache_tokens": 20_000}} for pool in _pools(**changes)]


TWO: dict[str, Any] = {"deployment.pools": _pools()}
CODE: dict[str, Any] = {
    "workload": {
        "kind": "mix",
        "classes": [
            {
                "name": name,
                "workload": {
                    "kind": "synthetic", "requests": 30,
                    "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
                    "lengths": {
                        "kind": "independent",
                        "input": {"kind": "fixed", "tokens": 200},
                        "output": {"kind": "fixed", "tokens": 20},
                    },
                },
            }
            for name in ("chat", "code")
        ],
    },
}  # fmt: skip

APART: dict[str, Any] = {
    "deployment.pools": [{"name": "p", "role": "prefill"}, {"name": "d", "role": "decode"}],
    "deployment.transfer.gb_per_s": 1.0,
}

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("deployment.pools", _pools(), {}),
    ("deployment.pools", _pools(replicas=2), TWO),
    ("deployment.pools", _pools(model="llama-3.2-1b"), TWO),
    ("deployment.pools", _pools(hardware={"profile": "l4"}), TWO),
    ("deployment.pools", _pools(engine={"max_num_seqs": 1}), TWO),
    ("deployment.pools", _pools(precision={"weights": "fp8"}), TWO),
    ("deployment.pools", _pools(parallelism={"tp": 2}), TWO),
    ("deployment.pools", _pools(usd_per_device_hour=0.5), TWO),
    ("deployment.pools", _pools(weight=4.0), TWO),
    ("deployment.pools", _pools(classes=["code"]), TWO | CODE),
    ("deployment.pools", _halves(shares="a"), {"deployment.pools": _halves()}),
    ("deployment.pools", [*APART["deployment.pools"], {"name": "e", "role": "decode"}], APART),
    ("deployment.transfer.mode", "whole", APART),
    ("deployment.transfer.gb_per_s", 5.0, APART),
    ("deployment.transfer.shared_gb_per_s", 0.2, APART),
    ("deployment.transfer.latency_ms", 9.0, APART),
    ("deployment.transfer.over", "link",
     APART | {"deployment.transfer.gb_per_s": None, "deployment.transfer.mode": "whole"}),
    ("deployment.router", {"kind": "session_affinity"}, SESSIONS),
    ("deployment.router", {"kind": "session_affinity", "max_imbalance": 0},
     SESSIONS | {"deployment.router": {"kind": "session_affinity"}}),
]  # fmt: skip
