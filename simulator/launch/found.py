"""What was read of a launch command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from simulator.errors import UserError
from simulator.launch.checkpoints import ReadModel
from simulator.scenario.pools import Role

TARGETS = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "qkv_proj": "qkv", "o_proj": "o",
    "gate_proj": "up", "up_proj": "up", "gate_up_proj": "up", "down_proj": "down",
    "attn_q": "qkv", "attn_k": "qkv", "attn_v": "qkv", "attn_qkv": "qkv", "attn_dense": "o",
    "mlp_gate": "up", "mlp_h_to_4h": "up", "mlp_4h_to_h": "down",
}  # fmt: skip
"""Linear layers that adapters change, by the names that engines have for them."""

TARGET_ORDER = ("qkv", "o", "up", "down")


class KvSize(NamedTuple):
    """Size of one rank's KV cache: bytes of a device, blocks, or tokens."""

    unit: Literal["bytes", "blocks", "tokens"]
    amount: int


@dataclass(slots=True)
class Found:
    """One launch command.

    Args:
        engine: name of its profile.
        model: what it serves.
        fields: values by dotted path, as a scenario has them.
        role: of its pool.
        both_roles: the connector could be either's; the pool's name has to tell.
        kv: size of the KV cache, if it is said.
        hicache_gb: host memory of a device for KV blocks.
        notes: what was ignored.
        replicas, hardware, version, name, autoscaling: what a manifest adds.
        devices: that its pod asks for.
    """

    engine: str
    model: ReadModel
    fields: dict[str, Any] = field(default_factory=dict)
    role: Role = "serve"
    both_roles: bool = False
    kv: KvSize | None = None
    hicache_gb: float | None = None
    notes: list[str] = field(default_factory=list)
    replicas: int | None = None
    hardware: str | None = None
    version: str | None = None
    name: str = ""
    autoscaling: dict[str, Any] | None = None
    devices: int | None = None

    def set(self, path: str, value: Any) -> None:
        """A field, where there is a value."""
        if value is not None:
            self.fields[path] = value

    def fields_below(self, top: str) -> dict[str, Any]:
        """Fields of one part of the scenario, by their names in it."""
        return {
            path.partition(".")[2]: value
            for path, value in self.fields.items()
            if path.startswith(f"{top}.")
        }

    @property
    def devices_needed(self) -> int:
        """Devices that one replica takes."""
        product = 1
        for key in ("tp", "pp", "dp", "cp"):
            product *= self.fields.get(f"parallelism.{key}", 1)
        return product


_DTYPES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32",
}  # fmt: skip
_QUANTIZED = {
    "fp8": "fp8", "fbgemm_fp8": "fp8", "w8a8_fp8": "fp8", "modelopt_fp8": "fp8", "mxfp8": "fp8",
    "modelopt_fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4", "petit_nvfp4": "fp4",
    "w8a8_int8": "int8", "experts_int8": "int8",
    "awq": "int4", "awq_marlin": "int4", "gptq": "int4", "gptq_marlin": "int4", "marlin": "int4",
    "moe_wna16": "int4", "bitsandbytes": "int4", "auto-round": "int4",
}  # fmt: skip
_AS_CHECKPOINT = ("compressed-tensors", "modelopt", "quark", "auto")


def whole(value: Any, where: str) -> int | None:
    """A whole number that may be left out.

    Raises:
        UserError: it is something else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UserError(f"must be a whole number, got {value!r}", where=where)


def number(value: Any, where: str) -> float | None:
    """A number that may be left out.

    Raises:
        UserError: it is something else.
    """
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise UserError(f"must be a number, got {value!r}", where=where)


def words(value: Any, where: str) -> list[str]:
    """A list of words that may be left out.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or any(isinstance(item, dict | list) for item in value):
        raise UserError("must be a list of words", where=where)
    return [str(item) for item in value]


def set_weights(found: Found, native: str, dtype: str | None, quantization: str | None) -> None:
    """``precision.weights`` and ``activations``, by what the checkpoint has and what is asked for.

    Args:
        native: type of the model's published weights.
        dtype, quantization: as the command has them.

    Raises:
        UserError: a type that is not known.
    """
    precision = dict(found.model.precision)
    weights = precision.get("weights", native)
    if quantization is not None and quantization not in _AS_CHECKPOINT:
        if quantization not in _QUANTIZED:
            raise UserError(
                f"'{quantization}' cannot be simulated",
                where="--quantization",
                hint="say the types in --base and use --lenient to ignore it here",
            )
        weights = _QUANTIZED[quantization]
        if weights != native:
            precision["weights"] = weights
    if dtype is not None and dtype != "auto":
        if dtype not in _DTYPES:
            raise UserError(
                f"'{dtype}' is no type", where="--dtype", hint=f"one of {', '.join(_DTYPES)}"
            )
        wanted = _DTYPES[dtype]
        if weights in _DTYPES.values():
            usual = "bf16" if native == "fp32" else native
            if wanted != usual or "weights" in precision:
                precision["weights"] = wanted
        elif weights in ("int4", "fp4") and wanted != "bf16":
            precision.setdefault("activations", wanted)
    for key, value in precision.items():
        found.set(f"precision.{key}", value)


def set_cache(found: Found, kind: str | None) -> None:
    """``precision.kv_cache``: as it is said, else the type of the model, which is 16 bits unless
    that is 32."""
    if kind is None and found.fields.get("precision.weights") == "fp32":
        kind = "fp32"
    found.set("precision.kv_cache", kind)


def targets_of(modules: list[str], where: str) -> list[str]:
    """Layers that adapters change, in a scenario's words.

    Raises:
        UserError: a module that is none of them.
    """
    if modules == ["all"]:
        return list(TARGET_ORDER)
    unknown = [module for module in modules if module not in TARGETS]
    if unknown:
        raise UserError(
            f"adapters of '{unknown[0]}' cannot be simulated",
            where=where,
            hint=f"known are {', '.join(TARGETS)}",
        )
    named = {TARGETS[module] for module in modules}
    return [target for target in TARGET_ORDER if target in named]
