"""The machine that the engine runs on: choosing its device, and saying what it is."""

from __future__ import annotations

import os
from typing import Any

import torch

from calibration.engine.build import NAME
from calibration.kernels import DEFAULT
from calibration.measure.machine import describe_machine
from simulator.errors import UserError
from simulator.resolve import Resolved

STEP_REPEATS = 3
"""How often a CPU runs each step; the median counts, because others on the machine disturb it."""


def description(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or to repeat a measurement."""
    on_gpu = device.type == "cuda"
    return describe_machine(device) | {
        "kernels": DEFAULT if on_gpu else "torch",
        "clock": "wall" if on_gpu else "computing time of one thread",
        "repeats": 1 if on_gpu else STEP_REPEATS,
    }


def calibrated_pace(resolved: Resolved, device: str) -> float | None:
    """Time of the clock's probe when the processor predicted for was calibrated, seconds; None if
    that was not a ``device``, whose pace says nothing about another's."""
    own = resolved.deployment.hardware.efficiency.engines.get(NAME)
    if own is None or f" on {device}," not in own.provenance.detail:
        return None
    return own.probe_s


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
