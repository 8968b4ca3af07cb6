"""A commented plan to start from, generated from the models' own descriptions."""

from __future__ import annotations

from typing import Any

from simulator.planner.document import Plan
from simulator.scenario.starter import commented

_START: dict[str, Any] = {
    "description": "The cheapest deployment for chat traffic",
    "scenario": "chat-8b-h100",
    "space": {"hardware": ["l4", "l40s", "h100-sxm"], "tp": [1, 2], "max_devices": 8},
    "constraints": [
        {"metric": "ttft_ms.p99", "max": 1000},
        {"metric": "tpot_ms.p99", "max": 50},
    ],
    "objective": {"metric": "cost_per_hour"},
    "headroom": 0.2,
    "spare_replicas": 1,
}
"""What the starter asks for; every other key stands beside it as a comment."""

_HEAD = """\
# A plan for `simulate plan`. A key behind a # has the value shown until you take the # away.
# `simulate check` says whether the file is right and how large the search is; docs/planning.md
# explains every key.
"""


def starter(name: str) -> str:
    """YAML that loads as it is and shows every key of a plan."""
    return f"{_HEAD}\n{commented(Plan, {'name': name, **_START})}"
