"""What type a published checkpoint's weights have, from ``quantization_config`` and ``dtype``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.models.config import Config

if TYPE_CHECKING:
    from simulator.scenario.precision import Dtype

_TORCH: dict[str, Dtype] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_NUMBERS: dict[tuple[str, int], Dtype] = {
    ("float", 8): "fp8", ("float", 4): "fp4", ("int", 8): "int8", ("int", 4): "int4",
}  # fmt: skip
_MXFP4_GROUP = 32  # OCP Microscaling Formats 1.0, section 5.2


class WeightFormat(NamedTuple):
    """Type of the linear layers; elements a scale covers, if stated (in fp8: those of a block);
    whether attention's linear layers have that type too; and what had to be assumed."""

    dtype: Dtype
    group: int | None = None
    attention: bool = True
    assumed: str = ""


def weight_format(config: Config) -> WeightFormat:
    """Type of the checkpoint's weights.

    Raises:
        UserError: an unknown type or quantization method.
    """
    quantization = config.anywhere("quantization_config")
    if quantization is not None:
        if not isinstance(quantization, dict):
            raise config.error("quantization_config", "must be a mapping of keys to values")
        return _quantized(config, quantization)
    key = "dtype" if config.anywhere("dtype") is not None else "torch_dtype"
    name = config.anywhere(key)
    if name is None:
        return WeightFormat("bf16", assumed="no dtype given, bf16 assumed")
    dtype = _TORCH.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise config.error(key, f"must be one of {', '.join(_TORCH)}, got {name!r}")
    return WeightFormat(dtype)


def sparse_weights(config: Config) -> bool:
    """Whether a compressed-tensors checkpoint has 2:4 sparse weights."""
    quantization = config.anywhere("quantization_config")
    sparsity = quantization.get("sparsity_config") if isinstance(quantization, dict) else None
    return isinstance(sparsity, dict) and sparsity.get("sparsity_structure") == "2:4"


def recurrent_dtype(config: Config) -> Dtype | None:
    """Type of recurrent layers' states, if the configuration states one.

    Raises:
        UserError: an unknown type.
    """
    for key in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"):
        name = config.get(key)
        if name is not None:
            if name not in _TORCH:
                raise config.error(key, f"must be one of {', '.join(_TORCH)}, got {name!r}")
            return _TORCH[name]
    return None


def _quantized(config: Config, quantization: Mapping[str, Any]) -> WeightFormat:
    method = quantization.get("quant_method")
    spared = quantization.get("modules_to_not_convert") or quantization.get("ignore") or []
    attention = not any("self_attn" in str(name) for name in spared)
    if method in ("fp8", "fbgemm_fp8"):
        return WeightFormat("fp8", _block(quantization.get("weight_block_size")), attention)
    if method == "mxfp4":
        return WeightFormat("fp4", _MXFP4_GROUP, attention)
    if method in ("awq", "gptq"):
        return _numbers(config, "int", quantization, attention)
    if method == "compressed-tensors":
        return _compressed(config, quantization.get("config_groups"), attention)
    if method == "modelopt" and (algorithm := str(quantization.get("quant_algo"))) in (
        "FP8",
        "NVFP4",
    ):
        return WeightFormat("fp8" if algorithm == "FP8" else "fp4", attention=attention)
    if method == "bitsandbytes":
        four_bit = quantization.get("load_in_4bit", False)
        return WeightFormat("int4" if four_bit else "int8", 64 if four_bit else None, attention)
    raise config.error(
        "quantization_config",
        f"quantization method {method!r} is not known",
        "known are fp8, fbgemm_fp8, mxfp4, awq, gptq, compressed-tensors, modelopt (FP8, NVFP4), "
        "bitsandbytes; without this key, precision.weights of the scenario decides",
    )


def _compressed(config: Config, groups: Any, attention: bool) -> WeightFormat:
    """From the groups of a compressed-tensors checkpoint, which must agree."""
    found = {
        _numbers(config, str(weights.get("type")), weights, attention)
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(weights := group.get("weights"), dict)
    }
    if len(found) != 1:
        what = "mixes several weight types" if found else "has no config_groups with weights"
        raise config.error("quantization_config", what, "one weight type is needed")
    return found.pop()


def _numbers(
    config: Config, kind: str, weights: Mapping[str, Any], attention: bool
) -> WeightFormat:
    """From a number's kind and bits: ``bits`` or ``num_bits``, ``group_size`` if grouped."""
    bits = weights.get("bits", weights.get("num_bits"))
    dtype = _NUMBERS.get((kind, bits)) if isinstance(bits, int) else None
    if dtype is None:
        raise config.error(
            "quantization_config", f"weights of {bits} bits ({kind}) are not known",
            "known are 8 and 4 bits, int or float",
        )  # fmt: skip
    if dtype == "fp8":
        return WeightFormat(dtype, _block(weights.get("block_structure")), attention)
    size = weights.get("group_size")
    grouped = isinstance(size, int) and size > 0 and dtype in ("int4", "fp4")
    return WeightFormat(dtype, size if grouped else None, attention)


def _block(sides: Any) -> int | None:
    """Weights of a block with a scale of its own, from its rows and columns."""
    if not isinstance(sides, list) or not all(isinstance(side, int) for side in sides):
        return None
    return prod(sides)
