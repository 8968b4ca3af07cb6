"""Names and number formats of measured rows in the simulator's terms."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from calibration.validate.point import Point
from simulator import load_engine, load_hardware, load_model
from simulator.engines.profile import EngineProfile
from simulator.errors import UserError
from simulator.hardware.profile import HardwareProfile
from simulator.models.spec import ModelSpec


class Target(NamedTuple):
    """What a row names, loaded."""

    model: ModelSpec
    hardware: HardwareProfile
    engine: EngineProfile


class Formats(NamedTuple):
    """Number formats of a scenario, and why these."""

    weights: str
    activations: str | None
    kv_cache: str | None
    reason: str


def target(point: Point) -> Target:
    """Model, hardware and engine that a row names.

    Raises:
        UserError: one of them is not known.
    """
    return Target(_model(point.model), _hardware(point.system), _engine(point.engine))


def formats(point: Point, found: Target) -> Formats:
    """What the products of a row ran in.

    A checkpoint's label says how its weights are stored; what the tensor cores multiply depends on
    the device and the engine too:

    - no label: the checkpoint's own type, 16-bit products.
    - ``fp8``: fp8 weights and activations (per tensor or per block).
    - ``fp4``, ``nvfp4`` on Blackwell: both in fp4, which its tensor cores multiply.
    - ``fp4`` of an MXFP4 checkpoint (gpt-oss) on Hopper: weight-only, Marlin kernels widen them to
      16 bits; on Blackwell fp8 activations, as vLLM multiplies them with MXFP8 ones.
    - ``fp4`` where the device has no fp4 units: weight-only.
    - ``int4``, ``awq``, ``gptq``, ``w4a16``: weight-only.
    - ``int8``, ``w8a8``: int8 weights and activations.

    Raises:
        UserError: the label is not known.
    """
    if point.weights is not None:
        reason = "as the row states"
        return Formats(point.weights, point.activations, point.kv_cache, reason)
    label = (point.precision or "").lower().replace("-", "").replace("_", "")
    weights, activations, reason = _of_label(label, found)
    return Formats(weights, point.activations or activations, point.kv_cache, reason)


def _of_label(label: str, found: Target) -> tuple[str, str | None, str]:
    native = found.model.native_dtype
    if label == "":
        wide = "bf16" if native == "fp32" else native
        return wide, None, "no precision is given: the checkpoint's own type"
    if label in ("bf16", "fp16", "fp32"):
        return label, None, "as labelled"
    if label in ("fp8", "fp8block", "w8a8fp8"):
        return "fp8", "fp8" if found.hardware.computes("fp8") else "bf16", "fp8 checkpoint"
    if label == "mxfp4" or (label == "fp4" and native == "fp4"):
        if found.hardware.computes("fp4"):
            return "fp4", "fp8", "MXFP4 checkpoint on a device with fp4 units: MXFP8 activations"
        return "fp4", "bf16", "MXFP4 checkpoint: weight-only"
    if label in ("fp4", "nvfp4"):
        if found.hardware.computes("fp4"):
            return "fp4", "fp4", "NVFP4 checkpoint on a device with fp4 units"
        return "fp4", "bf16", "NVFP4 checkpoint, weight-only without fp4 units"
    if label in ("int4", "awq", "gptq", "w4a16"):
        return "int4", "bf16", "weight-only"
    if label in ("int8", "w8a8"):
        return "int8", "int8" if found.hardware.computes("int8") else "bf16", "int8 checkpoint"
    raise UserError(
        f"unknown precision '{label}'", hint="use bf16, fp8, fp4, nvfp4, mxfp4, int8 or int4"
    )


def _model(name: str) -> ModelSpec:
    return load_model(name) if Path(name).exists() else _preset(name)


@lru_cache(maxsize=256)
def _preset(name: str) -> ModelSpec:
    return load_model(name)


def preset_name(name: str) -> str:
    """A model's name as presets know it, from how tables write it: ``LLaMA v3.1 8B``, or with the
    format of the weights at its end."""
    plain = re.sub(r"[-_ ](FP8|FP4|BF16)$", "", name, flags=re.IGNORECASE)
    if "/" in plain:
        return plain
    return re.sub(r"[\s_-]+v?(?=\d)|\s+", "-", plain).lower()


def _engine(name: str) -> EngineProfile:
    """By name, without what stands in parentheses behind it."""
    return load_engine(re.sub(r"\s*\(.*\)\s*$", "", name).strip())


def _hardware(name: str) -> HardwareProfile:
    """By name, with or without its memory behind it (``RTX 4090 24GB``)."""
    try:
        return load_hardware(name)
    except UserError:
        bare = re.sub(r"[\s_-]*\d+\s*Gi?B$", "", name, flags=re.IGNORECASE)
        if bare == name or not bare:
            raise
        return load_hardware(bare)
