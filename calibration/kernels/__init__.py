"""The operations of a decoder step on real tensors: one API, two implementations.

``TorchKernels`` are plain torch: the reference, and what runs on a CPU. ``TritonKernels`` are
kernels of our own for NVIDIA GPUs. Which one is taken is decided when this package is imported, and
``choose("torch")`` overrides it.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from calibration.kernels.api import Dense, ExpertWeights, Fp8, Int8, Kernels, Linear

__all__ = ["DEFAULT", "Dense", "ExpertWeights", "Fp8", "Int8", "Kernels", "Linear", "choose"]

DEFAULT = "triton" if torch.cuda.is_available() and find_spec("triton") else "torch"


def choose(name: str = DEFAULT) -> Kernels:
    """The implementation called ``torch`` or ``triton``.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "torch":
        from calibration.kernels.reference import TorchKernels

        return TorchKernels()
    if name == "triton":
        from calibration.kernels.gpu import TritonKernels

        return TritonKernels()
    raise ValueError(f"kernels are 'torch' or 'triton', not '{name}'")
