"""Reads a Hugging Face ``config.json`` into a `ModelSpec` and its layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.models.architectures import ARCHITECTURES, Architecture, llama
from simulator.models.config import Config
from simulator.models.layers import Layer
from simulator.models.quantization import recurrent_dtype, sparse_weights, weight_format
from simulator.models.spec import LayerGroup, ModelSpec, MtpHead

_LLAMA_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
)
# Keys that tell of layers a plain Llama does not have.
_UNLIKE_LLAMA = re.compile(
    r"expert|moe|lora_rank|ssm|mamba|conv|recurrent|^linear_|kv_shared|cross_attention|parallel_"
    r"|^use_bias$|qk_norm|qk_layernorm|sandwich|encoder|sliding_window|attention_chunk|layer_types"
)

_MTP_KEYS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model, its layers in their order, and the keys that they were read from.

    ``kind`` is the configuration's ``model_type``, ``folder`` where it lies if it is a file.
    """

    spec: ModelSpec
    layers: tuple[Layer, ...]
    config: Config
    kind: str
    folder: Path | None = None


def read_config(path: Path) -> Decoder:
    """The model that a ``config.json`` describes.

    Args:
        path: the file, or the folder it lies in.

    Raises:
        UserError: no such file, no JSON, a missing key or an impossible value; the sentence names
            the file, the line and the key.
    """
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise UserError("the folder holds no config.json", where=str(path.parent))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise UserError(f"cannot be read: {reason}", where=str(path)) from None
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    decoder = parse_decoder(parse_json(text, str(path)), name, str(path), text)
    return replace(decoder, folder=path.parent)


def parse_json(text: str, origin: str) -> dict[str, Any]:
    """The mapping that ``text`` holds.

    Raises:
        UserError: it is not JSON, or not a mapping.
    """
    try:
        values = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{origin}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=origin) from None
    if not isinstance(values, dict):
        raise UserError("must hold a mapping of keys to values", where=origin)
    return values


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def parse_config(values: Mapping[str, Any], name: str, origin: str, text: str = "") -> ModelSpec:
    """The sizes alone of what `parse_decoder` reads."""
    return parse_decoder(values, name, origin, text).spec


def parse_decoder(values: Mapping[str, Any], name: str, origin: str, text: str = "") -> Decoder:
    """The model that the keys of a ``config.json`` describe.

    Of a model that also sees or hears, the language model alone is taken (``text_config``).

    Args:
        values: the keys.
        name: what to call the model.
        origin: where the keys come from, for errors and as the spec's source.
        text: what the file says, so that errors can name lines.

    Raises:
        UserError: see `read_config`.
    """
    config, kind, notes = _decoder(Config(values, origin, text))
    architecture = ARCHITECTURES.get(kind)
    if architecture is None:
        architecture = _llama_like(config, kind)
        notes.append(f"model_type {kind!r} is not known, read as a Llama")
    config = config.with_defaults(architecture.defaults)
    weights = weight_format(config)
    if weights.assumed:
        notes.append(weights.assumed)
    layers = architecture.layers(config)
    spec = ModelSpec(
        name=name,
        hidden=config.integer("hidden_size"),
        vocab=config.integer("vocab_size"),
        groups=_merge(layers),
        tied_embeddings=_tied(config),
        max_context=_max_context(config, kind),
        native_dtype=weights.dtype,
        attention_quantized=weights.attention,
        quantization_group=weights.group,
        source="; ".join((str(values.get("_source", origin)), *notes)),
        parameters_published=values.get("_parameters_published"),
        sparse=sparse_weights(config),
        distilled_from=str(values.get("_distilled_from", "")),
        recurrent_dtype=recurrent_dtype(config),
        norm_bias=architecture.norm_bias,
        mtp=_mtp(config, kind, layers),
        order=_order(layers),
    )
    return Decoder(spec, tuple(layers), config, kind)


def _decoder(config: Config) -> tuple[Config, str, list[str]]:
    """The language model's part of the configuration, its ``model_type``, and what was left out."""
    kind = str(config.get("model_type") or "")
    text = config.section("text_config")
    if text is not None:
        kind = str(text.get("model_type") or f"{kind}_text")
    other = text is not None or config.get("vision_config") is not None
    return text or config, kind, ["text decoder only"] if other else []


def _tied(config: Config) -> bool:
    """Whether the LM head is the embedding; the key may stand around ``text_config``."""
    tied = config.anywhere("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise config.error("tie_word_embeddings", f"must be true or false, got {tied!r}")
    return config.flag("tie_word_embeddings") if tied is None else tied


def _merge(layers: list[Layer]) -> tuple[LayerGroup, ...]:
    """Identical layers as one group, in the order of their first ones."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return tuple(
        LayerGroup(number, layer.attention, layer.span, layer.mlp, layer.norms, layer.recurrent)
        for layer, number in counts.items()
    )


def _order(layers: list[Layer]) -> tuple[int, ...]:
    """The number of each layer's group."""
    numbers: dict[Layer, int] = {}
    return tuple(numbers.setdefault(layer, len(numbers)) for layer in layers)


def _mtp(config: Config, kind: str, layers: list[Layer]) -> MtpHead | None:
    """Heads for further tokens, whose decoder layers are as the model's last one; Nemotron's have
    one of its layers with attention and one with experts."""
    key = next((key for key in _MTP_KEYS if config.get(key) is not None), _MTP_KEYS[0])
    number = config.integer(key, 0, least=0)
    if not number:
        return None
    last = layers[-1]
    if kind == "nemotron_h":
        mixed = [layer for layer in layers if layer.attention is not None]
        blocks = [layer for layer in layers if layer.mlp is not None and layer.mlp.kind == "moe"]
        if not mixed or not blocks:
            raise config.error(key, "needs a layer with attention and one with experts")
        last = Layer(mixed[-1].attention, mixed[-1].span, blocks[-1].mlp)
    return MtpHead(number, replace(_merge([last])[0], count=number))


def _llama_like(config: Config, kind: str) -> Architecture:
    """Llama's reading of a ``model_type`` that is not known, if nothing speaks against it."""
    title = f"model_type {kind!r} is not known" if kind else "there is no model_type"
    known = "`simulate list architectures` shows those that are"
    for key in _LLAMA_KEYS:
        if config.get(key) is None:
            raise config.error(key, f"is missing and {title}", known)
    if config.get("hidden_act") not in ("silu", "swish"):
        raise config.error(
            "hidden_act", f"{config.get('hidden_act')!r} may mean a block without gate and {title}",
            known,
        )  # fmt: skip
    for key, value in config.values.items():
        if value and _UNLIKE_LLAMA.search(key):
            raise config.error(key, f"tells of layers unlike Llama's and {title}", known)
    return Architecture(llama)


def _max_context(config: Config, kind: str) -> int:
    """Longest sequence, tokens. ``max_position_embeddings`` includes the stretching of rotary
    embeddings in most models; YaRN states the original length and its factor, and linear and
    dynamic scaling (but Gemma 3's) multiply."""
    longest = config.integer("max_position_embeddings")
    rope = config.section("rope_scaling") or config.section("rope_parameters")
    if rope is None or rope.get("factor") is None:
        return longest
    factor, rule = rope.number("factor"), rope.get("rope_type") or rope.get("type")
    if rule == "yarn":
        original = rope.integer("original_max_position_embeddings", longest)
        return max(longest, int(original * factor))
    if rule in ("linear", "dynamic") and not kind.startswith("gemma3"):
        return int(longest * factor)
    return longest
