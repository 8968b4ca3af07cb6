"""What the kernels' sizes follow from: the chip they run on."""

from __future__ import annotations

from functools import cache

import torch


@cache
def architecture(device: torch.device) -> int:
    """Ten times the compute capability's first number: 80, 90 or 100. Interpreted kernels on a CPU
    take the sizes of 90."""
    if device.type != "cuda":
        return 90
    return 10 * torch.cuda.get_device_capability(device)[0]


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of the chip, 1 for a CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
