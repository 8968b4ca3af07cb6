"""Building blocks for reading layers from a configuration: attention, spans, feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from simulator.models.config import Config
from simulator.models.recurrent import Recurrent
from simulator.models.spec import Attention, DenseMlp, GroupedAttention, Mlp, MoeMlp, Span

FULL = Span()
_MOST_LAYERS = 10_000


class Layer(NamedTuple):
    """One decoder layer."""

    attention: Attention | None
    span: Span
    mlp: Mlp | None
    norms: int = 2
    recurrent: Recurrent | None = None


def number_of_layers(config: Config) -> int:
    """Decoder layers of the model."""
    layers = config.integer("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise config.error("num_hidden_layers", f"must be at most {_MOST_LAYERS}, got {layers}")
    return layers


def grouped(
    config: Config,
    *,
    qk_norm: bool = False,
    qk_norm_per_head: bool = True,
    qkv_bias: bool = False,
    output_bias: bool = False,
    sinks: bool = False,
    output_gate: bool = False,
    head_dim: str = "head_dim",
) -> GroupedAttention:
    """Attention from the usual keys, checked against each other."""
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error(
            "num_key_value_heads", f"{kv_heads} does not divide num_attention_heads = {heads}"
        )
    hidden = config.integer("hidden_size")
    if config.get(head_dim) is None and hidden % heads:
        raise config.error(
            "num_attention_heads",
            f"{heads} does not divide hidden_size = {hidden}",
            "without head_dim it has to",
        )
    return GroupedAttention(
        heads,
        kv_heads,
        config.integer(head_dim, hidden // heads),
        qk_norm=qk_norm,
        qk_norm_per_head=qk_norm_per_head,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        sinks=sinks,
        output_gate=output_gate,
    )


def dense(
    config: Config, key: str = "intermediate_size", bias: bool = False, gated: bool = True
) -> DenseMlp:
    """A feed-forward block; ``key`` says how wide it is."""
    return DenseMlp(config.integer(key), gated, bias)


def experts(
    config: Config, number: str, width: str, top_k: str = "num_experts_per_tok", **options: Any
) -> MoeMlp:
    """A mixture of gated experts; ``number``, ``width`` and ``top_k`` are keys: how many, how
    wide, and how many a token takes."""
    total, chosen = config.integer(number), config.integer(top_k)
    if chosen > total:
        raise config.error(top_k, f"{chosen} is more than {number} = {total}")
    return MoeMlp(total, chosen, config.integer(width), **options)


def window(config: Config) -> Span:
    """The sliding window; full attention if there is none, it is switched off or never binds."""
    if not config.flag("use_sliding_window", True):
        return FULL
    return _unless_longest("window", config.optional_integer("sliding_window"), config)


def chunk(config: Config) -> Span:
    """Chunked attention; full attention if there is no chunk size or it never binds."""
    return _unless_longest("chunk", config.optional_integer("attention_chunk_size"), config)


def spans(config: Config, local: Span, is_local: Callable[[int], bool]) -> list[Span]:
    """Span of every layer: by ``layer_types`` if given, else ``local`` where ``is_local``."""
    layers = number_of_layers(config)
    types = config.sequence("layer_types", layers)
    if types is None:
        return [local if is_local(layer) else FULL for layer in range(layers)]
    by_type = {
        "full_attention": (FULL, None),
        "sliding_attention": (window(config), "sliding_window"),
        "chunked_attention": (chunk(config), "attention_chunk_size"),
    }
    for name in dict.fromkeys(map(str, types)):
        if name not in by_type:
            raise config.error(
                "layer_types",
                f"layers of type {name!r} are not supported",
                f"{', '.join(by_type)} are",
            )
        key = by_type[name][1]
        if key is not None and config.get(key) is None:
            raise config.error(key, "is missing", f"layer_types has layers of type {name!r}")
    chosen = [by_type[str(name)][0] for name in types]
    if len({span for span in chosen if span != FULL}) > 1:
        raise config.error(
            "layer_types", "mixes sliding and chunked attention", "one of them may be used"
        )
    return chosen


def _unless_longest(kind: Any, tokens: int | None, config: Config) -> Span:
    if tokens is None or tokens >= config.integer("max_position_embeddings"):
        return FULL
    return Span(kind, tokens)
