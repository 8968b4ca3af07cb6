"""What the measurements were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from simulator import __version__
from simulator.errors import UserError


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


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, driver, clocks, versions and date; every value can go into JSON."""
    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "processor": processor_name(),
        "memory_gib": round(_host_memory() / 2**30, 1),
        "kind": device.type,
    }
    return about | (_gpu(device) if device.type == "cuda" else _cpu())


def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    return found.get("model name") or platform.machine()


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    version: str = triton.__version__
    return version


def _cpu() -> dict[str, Any]:
    return {
        "device": processor_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


_ASKED = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def _gpu(device: torch.device) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(device)
    return {
        "device": about.name,
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "l2_mb": round(about.L2_cache_size / 1e6, 1),
        "device_memory_gib": round(about.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    } | _nvidia_smi()


def _nvidia_smi() -> dict[str, Any]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    values = answer.stdout.splitlines()[0].split(", ")
    return dict(zip(_ASKED.split(","), values, strict=False))
