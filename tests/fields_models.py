"""Settings of model architectures and compression, and what else is set."""

from __future__ import annotations

from typing import Any

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("precision.recurrent_state", "fp32", {"model": "granite-4.0-h-micro"}),
]
