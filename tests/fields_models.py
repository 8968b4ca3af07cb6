"""Settings of model architectures and compression, and what else is set."""

from __future__ import annotations

from typing import Any

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("precision.recurrent_state", "fp32", {"model": "granite-4.0-h-micro"}),
    ("precision.sparsity", "2:4", {}),
    ("precision.pruned", {"layers": 20}, {}),
    ("precision.pruned", {"hidden": 2048}, {}),
    ("precision.pruned", {"intermediate": 4096}, {}),
    ("precision.pruned", {"kv_heads": 4}, {}),
    ("precision.pruned", {"experts": 32}, {"model": "deepseek-v2-lite"}),
]
