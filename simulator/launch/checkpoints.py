"""Which checkpoint a server is given: a repository, or what has to be put in the place of one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from simulator.deployment import ResolvedDeployment, ResolvedPrecision
from simulator.errors import UserError
from simulator.hardware.profile import HardwareProfile
from simulator.models import load_model, preset_file, repositories

WIDE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Types that engines call by PyTorch's names."""

_TUNED = re.compile(r"instruct|chat|-it\b|-r1\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<(?:repository of )?([^<>]+?)(?: with ([^<>]+))?>")

_FORMATS = (
    (r"[-.](?:nv|mx)?fp4\b|[-.]w4a16-?fp4\b", "fp4"),
    (r"[-.]fp8(?:[-_]?(?:dynamic|block|kv))*\b|[-.]w8a8-fp8\b", "fp8"),
    (r"[-.](?:awq|gptq|autoround|int4|w4a16|4bit)\b", "int4"),
    (r"[-.](?:int8|w8a8|w8a16|8bit)\b", "int8"),
)
"""How names of quantized repositories end, and the type of their weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What to serve.

    Args:
        model: repository, folder, or a description in angle brackets.
        quantization: how the engine quantizes while it loads; empty: not at all.
        dtype: type of what is not quantized.
        told: precision fields that the engine cannot have, with the reason.
    """

    model: str
    quantization: str
    dtype: str
    told: dict[str, str]

    @property
    def placeholder(self) -> bool:
        """Whether the user has to put a repository there."""
        return self.model.startswith("<")


def checkpoint_of(
    deployment: ResolvedDeployment, base: Path | None = None, *, quantizes: tuple[str, ...]
) -> Checkpoint:
    """The checkpoint whose weights are as the deployment has them.

    Args:
        deployment: resolved.
        base: folder that relative paths start from.
        quantizes: types that the engine makes of 16-bit weights while it loads them.
    """
    scenario, found = deployment.scenario, deployment.precision
    original = load_model(scenario.model, base)  # without what precision takes away from it
    native = "bf16" if original.native_dtype == "fp32" else original.native_dtype
    properties: list[str] = []
    told: dict[str, str] = {}
    quantization = ""
    usual = _usual_activations(found, deployment.hardware)
    if found.weights in WIDE:
        dtype = found.weights
        if native not in WIDE:
            properties.append(f"weights {found.weights}")
        if found.activations != dtype:
            told["precision.activations"] = "one type holds for weights and activations"
    else:
        wide = found.activations if found.activations in WIDE else "bf16"
        dtype = wide
        fits = found.activations == usual or (usual in WIDE and found.activations in WIDE)
        if found.weights != native or not fits:
            if fits and native in WIDE and found.weights in quantizes:
                quantization = found.weights
            else:
                properties.append(f"weights {found.weights}")
        if not fits:
            properties.append(f"activations {found.activations}")
    if deployment.model.sparse != original.sparse:
        properties.append("2:4 sparsity" if deployment.model.sparse else "dense weights")
    if scenario.precision.pruned is not None:
        properties.append("the pruned layers")
    return Checkpoint(_described(scenario.model, properties), quantization, dtype, told)


def _usual_activations(found: ResolvedPrecision, hardware: HardwareProfile) -> str:
    """Type of products that engines choose for the weights on the device."""
    narrow = found.weights in ("fp8", "int8") and hardware.computes(found.weights)
    return found.weights if narrow else "bf16"


def repository_of(model: str) -> str:
    """The Hugging Face repository that a scenario's model stands for, its folder, or what to put
    one for, in angle brackets."""
    preset = preset_file(model)
    if preset is None:
        path = Path(model).expanduser()
        if path.suffix != ".json":
            return str(path)
        return str(path.parent) if path.name == "config.json" else f"<repository of {path}>"
    if "/" in model:
        return model
    known: list[str] = json.loads(preset.read_text(encoding="utf-8")).get("_aliases", [])
    if not known:
        return f"<repository of {model}>"
    tuned = [name for name in known if _TUNED.search(name)]
    return (tuned or known)[0]


def _described(model: str, properties: list[str]) -> str:
    name = repository_of(model)
    if not properties:
        return name
    bare = name.removeprefix("<repository of ").rstrip(">")
    prefix = "repository of " if name.startswith("<") else ""
    return f"<{prefix}{bare} with {', '.join(properties)}>"


class ReadModel(NamedTuple):
    """A model as a command names it: what a scenario calls it, fields of ``precision`` that the
    name tells, and what had to be assumed."""

    name: str
    precision: dict[str, str]
    note: str = ""


def read_checkpoint(model: str, base: Path | None = None) -> ReadModel:
    """The scenario's model for what a command serves.

    Raises:
        UserError: no model is known for it; says how to name one.
    """
    meant = _PLACEHOLDER.fullmatch(model)
    if meant:
        return ReadModel(_known(meant[1], base), _properties(meant[2] or "", model))
    try:
        return ReadModel(_known(model, base), {})
    except UserError as error:
        guess = _quantized(model, base)
        if guess is None:
            error.hint = "--model NAME says which preset or config.json it is; " + error.hint
            error.where = error.where or "model"
            raise
        return guess


def _known(name: str, base: Path | None) -> str:
    """The preset's own name, or the path as it is."""
    preset = preset_file(name)
    if preset is not None:
        return preset.name.removesuffix(".json")
    load_model(name, base)
    return name


def _properties(text: str, model: str) -> dict[str, str]:
    found = {}
    for part in filter(None, text.split(", ")):
        key, _, value = part.partition(" ")
        if key in ("weights", "activations"):
            found[key] = value
        elif part in ("2:4 sparsity", "dense weights"):
            found["sparsity"] = "2:4" if part == "2:4 sparsity" else "none"
        else:
            raise UserError(
                f"'{part}' cannot be read back from the name of a checkpoint",
                where=model,
                hint="name the model with --model and say the rest in --base",
            )
    return found


def _quantized(model: str, base: Path | None) -> ReadModel | None:
    """A quantized copy of a known model, by the way such repositories are named."""
    name = model.rpartition("/")[2]
    for pattern, dtype in _FORMATS:
        match = re.search(pattern, name, re.IGNORECASE)
        if match is None:
            continue
        bare = name[: match.start()].removesuffix("-quantized").removesuffix(".quantized")
        preset = _by_last_part(bare)
        if preset is None:
            return None
        spec = load_model(preset, base)
        precision = {} if spec.native_dtype == dtype else {"weights": dtype}
        return ReadModel(preset, precision, f"{model} is taken for {preset} in {dtype}")
    return None


def _by_last_part(name: str) -> str | None:
    wanted = name.lower()
    for alias, preset in repositories():
        if alias.rpartition("/")[2].lower() in (wanted, wanted.removeprefix("meta-")):
            return preset
    return None
