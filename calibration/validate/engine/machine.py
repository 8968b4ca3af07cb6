"""The machine that the engine runs on: choosing its device, and saying what it is."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from calibration.kernels import DEFAULT
from simulator.errors import UserError
from simulator.resolve import Resolved


def choose_device(name: str | None) -> torch.device:
    """``cpu`` or ``cuda``; by default the better one there is.

    Raises:
        UserError: there is no CUDA device.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError(
            "PyTorch finds no CUDA device here", where="--device cuda", hint="use --device cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name is None and there) else "cpu")


def description(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or to repeat a measurement."""
    on_gpu = device.type == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "kind": device.type,
        "kernels": DEFAULT if on_gpu else "torch",
        "clock": "wall" if on_gpu else "computing time of one thread",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if on_gpu:
        found["cuda"] = torch.version.cuda
        found["memory_gib"] = round(
            torch.cuda.get_device_properties(device).total_memory / 2**30, 1
        )
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_memory(resolved: Resolved, device: torch.device) -> None:
    """Refuses, on CPUs, what the machine's memory cannot hold: nothing else would say so before the
    process is killed.

    Raises:
        UserError: weights and KV cache take more than there is.
    """
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    memory = resolved.deployment.memory
    needed = memory.weights_gib + memory.block_bytes * memory.kv_blocks / 2**30
    if needed > 0.9 * there:
        raise UserError(
            f"weights and KV cache take {needed:,.1f} GiB and this machine has {there:,.1f}",
            where="engine.kv_cache_tokens",
            hint="set it to what the test needs",
        )
