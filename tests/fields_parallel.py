"""Fields of parallelism within a replica: each changes a result; see tests/test_matrix_fields.py."""

from __future__ import annotations

from typing import Any

MIXTURE: dict[str, Any] = {"model": "qwen3-30b-a3b", "parallelism.tp": 4}

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("parallelism.ep", 4, MIXTURE),
    ("parallelism.redundant_experts", 0, MIXTURE | {"parallelism.ep": 4}),
    ("parallelism.redundant_experts", 32, MIXTURE | {"parallelism.ep": 4}),
    ("parallelism.cp", 2, {}),
    ("parallelism.fsdp", 2, {"deployment.replicas": 2}),
    ("hardware.devices_per_node", 2, {"parallelism.tp": 4}),
    ("hardware.network_gb_per_s", 5.0, {"parallelism.tp": 4, "hardware.devices_per_node": 2}),
    ("hardware.network_latency_us", 40.0, {"parallelism.tp": 4, "hardware.devices_per_node": 2}),
]
