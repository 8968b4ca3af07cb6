"""Plans and sweeps that take a second or two, for tests of what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.planner.document import load_plan
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.work import Work
from simulator.planner.plan import plan
from simulator.yamlio import dump_yaml

CHAT: dict[str, Any] = {
    "name": "chat",
    "model": "llama-3.1-8b",
    "hardware": "l4",
    "workload": {
        "kind": "synthetic",
        "arrivals": {"kind": "poisson", "rate_per_s": 6},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "lognormal", "mean": 300, "cv": 0.8, "high": 2000},
            "output": {"kind": "lognormal", "mean": 60, "cv": 0.6, "high": 300},
        },
        "requests": 150,
    },
}

PLAN: dict[str, Any] = {
    "name": "small",
    "description": "A chat on the devices that are left",
    "scenario": CHAT,
    "space": {"hardware": ["l4", "l40s"], "tp": [1, 2], "max_devices": 6},
    "constraints": [
        {"metric": "ttft_ms.p99", "max": 1500},
        {"metric": "tpot_ms.p99", "max": 120},
    ],
    "seeds": 2,
    "runners_up": 2,
}


def write(folder: Path, document: dict[str, Any], name: str = "plan.yaml") -> str:
    """The document as a file; its path."""
    path = folder / name
    path.write_text(dump_yaml(document), encoding="utf-8")
    return str(path)


def planned(folder: Path, **changed: Any) -> dict[str, Any]:
    """The report of the plan with some keys changed."""
    asked = load_plan(write(folder, PLAN | changed))
    with Work(LocalBackend(1)) as work:
        return plan(asked, work)
