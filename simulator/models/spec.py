"""What a model is made of: layers, attention, feed-forward, vocabulary. Sizes only, no hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from simulator.models.recurrent import Recurrent

if TYPE_CHECKING:  # pydantic is not needed to describe a model
    from simulator.scenario.precision import Dtype


@dataclass(frozen=True, slots=True)
class Span:
    """Which earlier tokens a layer attends to.

    ``full``: all of them; ``window``: the last ``tokens`` (the token itself included);
    ``chunk``: those of its own aligned chunk of ``tokens`` positions.
    """

    kind: Literal["full", "window", "chunk"] = "full"
    tokens: int = 0

    def __post_init__(self) -> None:
        if (self.kind == "full") != (self.tokens == 0) or self.tokens < 0:
            raise ValueError(f"a {self.kind} span cannot be of {self.tokens} tokens")

    def visible(self, position: int) -> int:
        """Number of tokens that the token at ``position`` (counted from 1) attends to."""
        if self.kind == "full":
            return position
        if self.kind == "window":
            return min(position, self.tokens)
        return (position - 1) % self.tokens + 1


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Multi-head, grouped-query or multi-query attention (``kv_heads`` tells which).

    ``qk_norm``: learned norms of queries and keys, one weight vector for all heads, or one that
    spans the heads with ``qk_norm_per_head`` off. ``sinks``: one learned logit a head.
    ``output_gate``: the query projection also gives a gate for each element of the result
    (Qwen3-Next). ``shares_kv``: the layer reads the keys and values that an earlier layer stored,
    and has no projections for its own (cross-layer attention, arXiv:2405.12981).
    """

    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool = False
    qk_norm_per_head: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    sinks: bool = False
    output_gate: bool = False
    shares_kv: bool = False
    kind: Literal["gqa"] = "gqa"


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache holds one
    ``kv_lora_rank`` latent and one rotary key a token, shared by all heads."""

    heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    kind: Literal["mla"] = "mla"


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """Feed-forward block; gated ones (SwiGLU, GeGLU) have three matrices, others two."""

    intermediate: int
    gated: bool = True
    bias: bool = False
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, slots=True)
class MoeMlp:
    """Mixture of experts: ``top_k`` of ``experts`` routed ones a token, and shared ones always.

    ``shared_intermediate`` is the width of all shared experts together, 0 for none;
    ``shared_gate``: a learned scalar weighs their output. ``router_bias``: one number an expert.
    ``latent``: width that routed experts work in, between two projections all of them share; 0
    where they work in the model's.
    ``skew``: how many times as many tokens the most popular expert gets as the least; 1 for equal
    shares. At 10 the most popular one gets 2.6 times the mean. Publishers do not state it: servers
    under random prompts decode as with 10 to 50, under real text as with 1 to 10
    (docs/calibration.md).
    """

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    latent: int = 0
    skew: float = 10.0
    kind: Literal["moe"] = "moe"


Attention = GroupedAttention | LatentAttention
Mlp = DenseMlp | MoeMlp


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """``count`` identical layers (not necessarily next to each other).

    A layer has attention, a recurrent part, both side by side (Falcon-H1) or neither, and a
    feed-forward block or none. ``norms``: norms a layer over the residual stream, each with one
    weight a channel.
    """

    count: int
    attention: Attention | None
    span: Span
    mlp: Mlp | None
    norms: int = 2
    recurrent: Recurrent | None = None


@dataclass(frozen=True, slots=True)
class MtpHead:
    """Modules that predict tokens beyond the next one (DeepSeek-V3, arXiv:2412.19437, section 2.2).

    Each of ``layers`` modules norms the last hidden state and the embedding of the token it led
    to, brings both through one projection of 2·hidden → hidden, runs one decoder layer as in
    ``group`` (whose count is ``layers``), and norms the result for the LM head. Embedding and LM
    head are the model's own.
    """

    layers: int
    group: LayerGroup


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One decoder-only language model.

    Args:
        name: how it is called in reports.
        hidden: width of the residual stream.
        vocab: rows of the embedding, as stored (padded rows count).
        groups: the layers, identical ones merged.
        tied_embeddings: the LM head shares the embedding's matrix.
        max_context: longest sequence the model was made for, tokens.
        native_dtype: the type the published weights have (linear layers of the decoder layers).
        attention_quantized: whether attention's linear layers have that type too when it is
            narrower than 16 bits; gpt-oss keeps them at 16 bits.
        quantization_group: weights that share a scale in the published checkpoint (a group in 4
            bits, a block in fp8); None for the usual: the format's group, a tensor or channel.
        source: where the figures come from.
        parameters_published: the count the publisher states, if any (tests compare).
        sparse: linear layers of the decoder layers have 2:4 sparse weights.
        distilled_from: preset of the teacher, where the model was trained on another's answers.
        recurrent_dtype: type of recurrent layers' states, where the configuration states one.
        norm_bias: norms over the residual stream have a bias as well.
        mtp: modules that predict further tokens, which a server may leave out; they count neither
            as parameters nor as weights here (simulator.models.counting has both apart).
        order: of each layer, from the first to the last, the number of its group; nothing: the
            groups follow each other.
        embeds, samples: of a part of a model, whether the embedding and whether the last norm and
            the LM head belong to it.
    """

    name: str
    hidden: int
    vocab: int
    groups: tuple[LayerGroup, ...]
    tied_embeddings: bool
    max_context: int
    native_dtype: Dtype = "bf16"
    attention_quantized: bool = True
    quantization_group: int | None = None
    source: str = ""
    parameters_published: float | None = None
    sparse: bool = False
    distilled_from: str = ""
    recurrent_dtype: Dtype | None = None
    norm_bias: bool = False
    mtp: MtpHead | None = None
    order: tuple[int, ...] = ()
    embeds: bool = True
    samples: bool = True

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return sum(group.count for group in self.groups)

    @property
    def recurrent(self) -> bool:
        """Whether layers keep a state of fixed size for a sequence."""
        return any(group.recurrent is not None for group in self.groups)

    @property
    def grows(self) -> bool:
        """Whether layers keep keys and values of all tokens."""
        return any(
            group.attention is not None and group.span.kind == "full" for group in self.groups
        )
