"""Settings of the kernels."""

from __future__ import annotations

from typing import Any

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("engine.kernels.attention", "flash_3", {}),
    ("engine.kernels.attention", "flash_2", {}),
    ("engine.kernels.attention", "flash_1", {}),
    ("engine.kernels.attention", "unfused", {"engine.max_model_len": 2000}),
    ("engine.kernels.fusion", False, {}),
]
