"""Fields of replicas with several lanes: each changes a result; see tests/test_matrix_fields.py."""

from __future__ import annotations

from typing import Any

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("parallelism.pp", 2, {}),
    ("parallelism.pp", 4, {"parallelism.pp": 2}),
    ("parallelism.dp", 2, {"model": "qwen3-30b-a3b"}),
    ("parallelism.dp", 4, {"model": "qwen3-30b-a3b", "parallelism.dp": 2}),
]
