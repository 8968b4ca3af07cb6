"""Exact sizes of a model: parameters, weight bytes and KV-cache bytes, in all and on one device
of a tensor-parallel group.

Everything is summed over one list of tensors (`tensors`), so a count, its bytes and its share on
a device cannot contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from simulator.models.layout import ALONE, Layout
from simulator.models.recurrent import conv_elements, state_elements
from simulator.models.spec import Attention, GroupedAttention, LayerGroup, Mlp, ModelSpec
from simulator.models.splits import check_split

if TYPE_CHECKING:
    from simulator.scenario.precision import Dtype

_PLAIN_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
_WIDE = ("fp32", "bf16", "fp16")


class Tensor(NamedTuple):
    """One kind of weight tensor.

    ``parameters``: of one copy; ``copies``: in the model; ``used``: copies that one token passes;
    ``ways``: rows that can lie on different devices (1: every device holds all of it);
    ``experts``: of a layer, which can lie on different devices, too (0: not an expert's tensor);
    ``part``: ``attention`` and ``mlp`` tensors are quantized, ``other`` ones are not.
    """

    name: str
    parameters: int
    copies: int
    used: int
    ways: int
    part: Literal["attention", "mlp", "other"]
    experts: int = 0

    def parameters_per_rank(self, layout: Layout) -> int:
        """Parameters of all copies on one device; on the fullest one if they differ."""
        row = self.parameters // self.ways
        if not self.experts:
            return row * -(-self.ways // layout.tp) * self.copies
        layers = self.copies // self.experts
        return row * -(-self.ways // layout.expert_tp) * layers * layout.local(self.experts)


class KvBytes(NamedTuple):
    """KV-cache bytes of one token: in layers that see all tokens, and in layers that see only a
    window or chunk of them."""

    full: float
    local: float

    @property
    def total(self) -> float:
        """Bytes of all layers."""
        return self.full + self.local


def element_bytes(dtype: Dtype, group: int | None = None, *, sparse: bool = False) -> float:
    """Bytes an element takes, scales included.

    Args:
        dtype: number format. int4: a 16-bit scale and a 4-bit zero point for every 128 elements,
            as AWQ and GPTQ checkpoints have (arXiv:2306.00978, arXiv:2210.17323). fp4: an 8-bit
            scale for every 16 elements (NVFP4); MXFP4 has one for every 32 (OCP Microscaling
            Formats 1.0). Scales of 8-bit formats (one a tensor, a channel or a block of 128 × 128)
            are below 0.1% and left out.
        group: elements that share a scale, if not the usual number.
        sparse: of each four elements two are kept, each with two bits that say where it stood
            (2:4 sparsity, arXiv:2104.08378).
    """
    value, scales = _PLAIN_BYTES.get(dtype, 0.5), 0.0
    if dtype == "int4":
        scales = 2.5 / (group or 128)
    if dtype == "fp4":
        scales = 1.0 / (group or 16)
    return (value / 2 + 0.125 if sparse else value) + scales


def tensors(spec: ModelSpec) -> Iterator[Tensor]:
    """All weights of the model, or of the part of it."""
    hidden = spec.hidden
    matrix = Tensor("embedding", spec.vocab * hidden, 1, 1, spec.vocab, "other")
    width = 2 * hidden if spec.norm_bias else hidden
    if spec.embeds:
        yield matrix
    if spec.samples:
        # A tied head needs a copy of its own where the embedding is elsewhere.
        if not (spec.tied_embeddings and spec.embeds):
            yield matrix._replace(name="lm_head")
        yield Tensor("final_norm", width, 1, 1, 1, "other")
    for group in spec.groups:
        yield Tensor("norms", width * group.norms, group.count, group.count, 1, "other")
        yield from layer_tensors(group, hidden)


def mtp_tensors(spec: ModelSpec) -> Iterator[Tensor]:
    """Weights of the modules that predict further tokens (`ModelSpec.mtp`), without embedding and
    LM head, which are the model's; nothing if there are none."""
    if spec.mtp is None:
        return
    hidden, modules = spec.hidden, spec.mtp.layers
    # Of hidden state, of the embedding, and before the LM head.
    yield Tensor("mtp.norms", 3 * hidden, modules, modules, 1, "other")
    yield Tensor("mtp.projection", 2 * hidden * hidden, modules, modules, 1, "other")
    norms = hidden * spec.mtp.group.norms
    yield Tensor("mtp.layer_norms", norms, modules, modules, 1, "other")
    for tensor in layer_tensors(spec.mtp.group, hidden):
        yield tensor._replace(name=f"mtp.{tensor.name}")


def layer_tensors(group: LayerGroup, hidden: int) -> Iterator[Tensor]:
    """Weights of all layers of a group, without the norms over the residual stream."""
    for tensor in _layer(group, hidden):
        yield tensor._replace(copies=tensor.copies * group.count, used=tensor.used * group.count)


def _layer(group: LayerGroup, hidden: int) -> Iterator[Tensor]:
    if group.attention is not None:
        yield from _attention(group.attention, hidden)
    if group.recurrent is not None:
        for name, size, ways, linear in group.recurrent.weights(hidden):
            part: Literal["attention", "other"] = "attention" if linear else "other"
            yield Tensor(f"recurrent.{name}", size, 1, 1, ways, part)
    if group.mlp is not None:
        yield from _mlp(group.mlp, hidden)


def parameters(spec: ModelSpec) -> int:
    """Parameters of the model; a tied LM head counts once."""
    return sum(tensor.parameters * tensor.copies for tensor in tensors(spec))


def active_parameters(spec: ModelSpec) -> int:
    """Parameters that one token uses: all but the experts it is not routed to.

    The embedding counts in full, as most publishers do; subtract `embedding_parameters` for the
    figure of those who do not (gpt-oss).
    """
    return sum(tensor.parameters * tensor.used for tensor in tensors(spec))


def mtp_parameters(spec: ModelSpec) -> int:
    """Parameters of the modules that predict further tokens, without embedding and LM head."""
    return sum(tensor.parameters * tensor.copies for tensor in mtp_tensors(spec))


def embedding_parameters(spec: ModelSpec) -> int:
    """Parameters of the input embedding (the LM head's as well if tied)."""
    return spec.vocab * spec.hidden


def attention_dtype(spec: ModelSpec, weights: Dtype) -> Dtype:
    """Type of attention's linear layers when the model is stored in ``weights``."""
    return weights if spec.attention_quantized or weights in _WIDE else "bf16"


def other_dtype(weights: Dtype) -> Dtype:
    """Type of what quantized checkpoints leave alone: embedding, LM head, norms, biases, router."""
    return weights if weights in _WIDE else "bf16"


def weight_bytes(spec: ModelSpec, weights: Dtype) -> float:
    """Bytes of all weights with linear layers of the decoder layers in ``weights``."""
    return weight_bytes_per_rank(spec, weights, ALONE)


def weight_bytes_per_rank(spec: ModelSpec, weights: Dtype, layout: Layout) -> float:
    """Bytes of the weights on one device (the fullest one).

    Split as Megatron-LM (arXiv:1909.08053) and vLLM do: queries and the output projection by
    heads, keys and values by KV heads (copied when there are more devices than KV heads),
    feed-forward blocks and every expert by their width, embedding and LM head by vocabulary rows.
    With expert parallelism a device holds whole experts, or parts of fewer ones.
    With sharded weights a device has a part of every layer, all of the embedding and the LM head,
    and room for two gathered layers: the one at hand and the next one.
    Copied on every device: norms, routers, biases after a sum over devices, and the down
    projections of latent attention.

    Raises:
        UserError: the model cannot be split like that.
    """
    check_split(spec, layout)
    width = _widths(spec, weights)
    if layout.fsdp > 1:
        layers = layer_bytes_per_rank(spec, weights, layout)
        ends = replace(spec, groups=())
        resident = sum(t.parameters_per_rank(layout) * width[t.part] for t in tensors(ends))
        parts = sum(count * size for count, size in layers) / layout.fsdp
        return resident + parts + 2 * max(size for _, size in layers)
    return sum(t.parameters_per_rank(layout) * width[t.part] for t in tensors(spec))


def layer_bytes_per_rank(
    spec: ModelSpec, weights: Dtype, layout: Layout
) -> list[tuple[int, float]]:
    """Of each group of equal layers, how many there are, and the bytes of one layer's weights that
    one device computes with."""
    width = _widths(spec, weights)

    def held(part: ModelSpec) -> float:
        return sum(t.parameters_per_rank(layout) * width[t.part] for t in tensors(part))

    ends = held(replace(spec, groups=()))
    ones = ((g.count, replace(spec, groups=(replace(g, count=1),))) for g in spec.groups)
    return [(count, held(one) - ends) for count, one in ones]


def _widths(spec: ModelSpec, weights: Dtype) -> dict[str, float]:
    """Bytes of an element of each part of the model."""
    group = spec.quantization_group if weights == spec.native_dtype else None
    return {
        "attention": element_bytes(attention_dtype(spec, weights), group, sparse=spec.sparse),
        "mlp": element_bytes(weights, group, sparse=spec.sparse),
        "other": element_bytes(other_dtype(weights)),
    }


def kv_bytes_per_token(spec: ModelSpec, kv: Dtype) -> float:
    """KV-cache bytes of one token in all layers of the whole model."""
    return kv_bytes_per_rank(spec, kv, ALONE).total


def kv_bytes_per_rank(spec: ModelSpec, kv: Dtype, layout: Layout) -> KvBytes:
    """KV-cache bytes of one token on one device.

    Grouped attention keeps a key and a value of ``head_dim`` for every KV head of the device, at
    least one; latent attention keeps ``kv_lora_rank + qk_rope_head_dim`` elements, all of them on
    every device, because all heads need them.

    Raises:
        UserError: the model cannot be split like that.
    """
    check_split(spec, layout)
    size = {True: 0.0, False: 0.0}
    for group in spec.groups:
        if group.attention is None or _shares_kv(group.attention):
            continue
        elements = kv_elements(group.attention, layout.tp) / layout.cp
        size[group.span.kind == "full"] += group.count * elements * element_bytes(kv)
    return KvBytes(full=size[True], local=size[False])


def _shares_kv(attention: Attention) -> bool:
    return isinstance(attention, GroupedAttention) and attention.shares_kv


def kv_elements(attention: Attention, tp: int = 1) -> int:
    """Elements of a token that one layer reads from the cache on one of ``tp`` devices; it has also
    stored them unless it shares an earlier layer's."""
    if isinstance(attention, GroupedAttention):
        return 2 * attention.head_dim * -(-attention.kv_heads // tp)
    return attention.kv_lora_rank + attention.qk_rope_head_dim


def state_bytes_per_rank(spec: ModelSpec, state: Dtype, layout: Layout) -> float:
    """Bytes that recurrent layers keep for one sequence, however long, on one device: every head's
    state in ``state``, and the last inputs of the convolutions in 16 bits.

    Raises:
        UserError: ``tp`` does not divide the heads.
    """
    check_split(spec, layout)
    size = 0.0
    for group in spec.groups:
        if group.recurrent is not None:
            part = group.recurrent.share(layout.tp)
            kept = state_elements(part) * element_bytes(state) + 2.0 * conv_elements(part)
            size += group.count * kept
    return size


def _attention(attention: Attention, hidden: int) -> Iterator[Tensor]:
    """Weights of one layer's attention."""

    def linear(name: str, inputs: int, outputs: int, ways: int) -> Tensor:
        return Tensor(name, inputs * outputs, 1, 1, ways, "attention")

    def vector(name: str, size: int, ways: int) -> Tensor:
        return Tensor(name, size, 1, 1, ways, "other")

    heads = attention.heads
    if isinstance(attention, GroupedAttention):
        kv_heads, dim = attention.kv_heads, attention.head_dim
        own = 0 if attention.shares_kv else 1
        queries = heads * dim * (2 if attention.output_gate else 1)
        yield linear("q", hidden, queries, heads)
        if own:
            yield linear("k", hidden, kv_heads * dim, kv_heads)
            yield linear("v", hidden, kv_heads * dim, kv_heads)
        yield linear("o", heads * dim, hidden, heads)
        if attention.qkv_bias:
            yield vector("q_bias", queries, heads)
            yield vector("kv_bias", 2 * own * kv_heads * dim, kv_heads)
        if attention.output_bias:
            yield vector("o_bias", hidden, 1)
        if attention.qk_norm and attention.qk_norm_per_head:
            yield vector("qk_norm", (1 + own) * dim, 1)
        elif attention.qk_norm:
            yield vector("q_norm", heads * dim, heads)
            yield vector("k_norm", own * kv_heads * dim, kv_heads)
        if attention.sinks:
            yield vector("sinks", heads, heads)
        return
    rank, rope = attention.kv_lora_rank, attention.qk_rope_head_dim
    query = heads * (attention.qk_nope_head_dim + rope)
    if attention.q_lora_rank is None:
        yield linear("q", hidden, query, heads)
    else:
        yield linear("q_down", hidden, attention.q_lora_rank, 1)
        yield vector("q_norm", attention.q_lora_rank, 1)
        yield linear("q_up", attention.q_lora_rank, query, heads)
    yield linear("kv_down", hidden, rank + rope, 1)
    yield vector("kv_norm", rank, 1)
    yield linear("kv_up", rank, heads * (attention.qk_nope_head_dim + attention.v_head_dim), heads)
    yield linear("o", heads * attention.v_head_dim, hidden, heads)


def _mlp(mlp: Mlp, hidden: int) -> Iterator[Tensor]:
    """Weights of one layer's feed-forward block."""
    if mlp.kind == "dense":
        yield from _block("mlp", hidden, mlp.intermediate, mlp.gated, mlp.bias)
        return
    yield Tensor("router", hidden * mlp.experts, 1, 1, 1, "other")
    if mlp.router_bias:
        yield Tensor("router_bias", mlp.experts, 1, 1, 1, "other")
    if mlp.latent:
        yield Tensor("experts.to_latent", hidden * mlp.latent, 1, 1, 1, "mlp")
        yield Tensor("experts.from_latent", mlp.latent * hidden, 1, 1, 1, "mlp")
    for tensor in _block("experts", mlp.latent or hidden, mlp.intermediate, mlp.gated, mlp.bias):
        yield tensor._replace(copies=mlp.experts, used=mlp.top_k, experts=mlp.experts)
    if mlp.shared_intermediate:
        yield from _block("shared_experts", hidden, mlp.shared_intermediate, mlp.gated, mlp.bias)
    if mlp.shared_gate:
        yield Tensor("shared_gate", hidden, 1, 1, 1, "other")


def _block(name: str, hidden: int, width: int, gated: bool, bias: bool) -> Iterator[Tensor]:
    """Weights of one feed-forward block or expert of ``width``."""
    rows = 2 * width if gated else width
    yield Tensor(f"{name}.up", hidden * rows, 1, 1, width, "mlp")
    yield Tensor(f"{name}.down", width * hidden, 1, 1, width, "mlp")
    if bias:
        yield Tensor(f"{name}.up_bias", rows, 1, 1, width, "other")
        yield Tensor(f"{name}.down_bias", hidden, 1, 1, 1, "other")
