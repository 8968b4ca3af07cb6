"""From a model, a device and number formats to the operators of a step."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.context import over_context
from simulator.costs.exchange import AllToAll, NodeCollective, routes
from simulator.costs.expert_ranks import RankExperts
from simulator.costs.links import Fabric, Group
from simulator.costs.operators import Collective, Device, Elementwise, Experts, Matmul, Operator
from simulator.costs.recurrent import state_operators
from simulator.deployment import ResolvedPrecision
from simulator.hardware.profile import HardwareProfile
from simulator.models.counting import attention_dtype, element_bytes, kv_elements
from simulator.models.layout import Layout
from simulator.models.spec import (
    Attention,
    GroupedAttention,
    LatentAttention,
    LayerGroup,
    ModelSpec,
    MoeMlp,
)
from simulator.scenario.precision import Dtype

_KINDS = {
    "qk_norm": ("qk_norm", "norm"),
    "rope_kv_write": ("rotation",),
    "shared_activation": ("activation",),
    "router_topk": ("routing",),
}
"""Kinds of kernel that an operator is, the most special first, where its name is none."""

_WIDE = ("fp32", "bf16", "fp16")

WIDENING_OPS = {"fp8": 3, "int8": 3, "int4": 5, "fp4": 5}
"""Instructions of vector units for each narrow element: conversion, scale and offset; of 4 bits
also a mask and a shift (QServe, arXiv:2405.04532, section 3)."""

SPARSE_SHARE = 0.75
"""Speed-up of products with 2:4 sparse weights where arithmetic binds, as a share of what the units
allow: 1.5 of 2, where kernels reach 1.3 to 1.9 by size (arXiv:2104.08378; docs/models.md)."""


class OperatorBuilder:
    """Makes the operators that one of a replica's devices executes in a step.

    ``engine``, the name of its profile, says whose kernels they are.

    Raises:
        UserError: the device cannot compute in a type, or nothing joins the replica's devices.
    """

    def __init__(
        self,
        spec: ModelSpec,
        hardware: HardwareProfile,
        engine: str,
        precision: ResolvedPrecision,
        layout: Layout,
    ) -> None:
        self.spec = spec
        self.hardware = hardware
        self.precision = precision
        self.layout = layout
        self.tp = layout.tp
        self.efficiency = hardware.efficiency.seen_by(engine)
        self.device = Device(hardware.bandwidth_bytes_per_s, hardware.link_bytes_per_s)
        self.plain: Dtype = precision.activations if precision.activations in _WIDE else "bf16"
        self.wide = element_bytes(self.plain)
        """Bytes of an activation between operators."""
        fabric = Fabric(hardware)
        fabric.check_fill(layout.tp, layout.devices * layout.fsdp)
        self.network = fabric.network
        # Devices that share layers, one of each data-parallel rank, and all that share experts.
        self.shares = fabric.group(layout.tp, where="parallelism.tp")
        self.ranks = fabric.group(layout.dp, where="parallelism.dp", stride=layout.tp)
        self.everyone = fabric.group(layout.tp * layout.dp, where="parallelism.dp")
        self.context = fabric.group(layout.cp, where="parallelism.cp", stride=layout.tp)

    def build(self) -> list[Operator]:
        """All operators of a step; those with the same name are one in reports."""
        operators: list[Operator] = []
        for group in self.spec.groups:
            operators += self._attention(group)
            operators += self._recurrent(group)
            operators += self._mlp(group)
            operators += self._between(group)
        operators += self._ends()
        if self.layout.cp > 1:
            moving = self.efficiency.all_gather or self.efficiency.collective
            operators = list(over_context(operators, self.context, self.network, moving))
        return operators

    # --- products --------------------------------------------------------------------------------

    def _matmul(
        self,
        name: str,
        count: int,
        n: int,
        k: int,
        weights: Dtype,
        *,
        sampled: bool = False,
        linear: bool = True,
    ) -> Matmul:
        """``linear``: of a decoder layer's weights, which may be sparse."""
        activations = (
            self.precision.activations if weights == self.precision.weights else self.plain
        )
        if weights in _WIDE:
            activations = self.plain
        units = self.hardware.structured_sparsity
        sparse = linear and self.spec.sparse and units is not None
        efficiency = self.efficiency.matmul_for(
            weights, activations, blocks=self._in_blocks(weights)
        )
        if sparse and units is not None:
            share = efficiency.compute * SPARSE_SHARE * units.value / 2
            efficiency = efficiency.model_copy(update={"compute": share})
        return Matmul(
            name, count, n, k,
            weight_bytes=element_bytes(weights, self._group(weights), sparse=sparse),
            input_bytes=element_bytes(activations),
            efficiency=efficiency,
            device=self.device,
            peak=self.hardware.peak_flops_per_s(activations),
            sampled=sampled,
            density=0.5 if sparse else 1.0,
        )  # fmt: skip

    def _group(self, weights: Dtype) -> int | None:
        return self.spec.quantization_group if weights == self.spec.native_dtype else None

    def _in_blocks(self, weights: Dtype) -> bool:
        """Whether blocks of 8-bit weights have scales of their own."""
        return weights == "fp8" and self._group(weights) is not None

    def _attention(self, group: LayerGroup) -> Iterator[Operator]:
        weights = attention_dtype(self.spec, self.precision.weights)
        attention = group.attention
        if isinstance(attention, GroupedAttention):
            yield from self._grouped(group, attention, weights)
        elif attention is not None:
            yield from self._latent(group, attention, weights)

    def _grouped(
        self, group: LayerGroup, attention: GroupedAttention, weights: Dtype
    ) -> Iterator[Operator]:
        hidden, dim, count = self.spec.hidden, attention.head_dim, group.count
        heads = attention.heads // self.tp
        kv_heads = -(-attention.kv_heads // self.tp)
        own = 0 if attention.shares_kv else kv_heads
        queries = heads * (2 if attention.output_gate else 1)
        yield self._matmul("qkv_proj", count, (queries + 2 * own) * dim, hidden, weights)
        yield self._matmul("o_proj", count, hidden, heads * dim, weights)
        kv_bytes = kv_elements(attention, self.tp) * element_bytes(self.precision.kv_cache)
        local = group.span.kind != "full"
        peak = self._attention_peak()
        widening = self._kv_widening(attention)
        prefill = self.efficiency.prefill_for(self.precision.kv_cache)
        yield DecodeAttention(
            "decode_attention", count, heads, kv_heads, dim, kv_bytes,
            query_bytes=2 * heads * dim * self.wide,
            flops_per_token=4.0 * heads * dim,
            efficiency=self.efficiency.decode_for(self.precision.kv_cache),
            device=self.device, peak=peak, local=local, widening_s=widening,
        )  # fmt: skip
        yield PrefillAttention(
            "prefill_attention", count, heads, kv_heads, dim, kv_bytes,
            query_bytes=2 * heads * dim * self.wide,
            flops_per_pair=4.0 * heads * dim,
            # What an earlier step stored is widened once for all new tokens.
            past_bytes=0.0,
            past_flops=widening * peak * prefill.compute,
            efficiency=prefill,
            device=self.device, peak=peak, local=local,
        )  # fmt: skip
        # Rotation reads and writes queries and keys; keys and values go to the cache.
        rotated = 2 * (heads + own) * dim * self.wide + (kv_bytes if own else 0.0)
        yield self._elementwise("rope_kv_write", count, rotated)
        if attention.qk_norm:
            yield self._elementwise("qk_norm", count, 2 * (heads + own) * dim * self.wide)
        if attention.output_gate:
            yield self._elementwise("output_gate", count, 3 * heads * dim * self.wide)

    def _latent(
        self, group: LayerGroup, attention: LatentAttention, weights: Dtype
    ) -> Iterator[Operator]:
        """Latent attention with absorbed up-projections in decode and expanded keys and values in
        prefill (DeepSeek-V2, arXiv:2405.04434, section 2.1). The up-projection's weights pass
        every token once either way."""
        hidden, count = self.spec.hidden, group.count
        heads = attention.heads // self.tp
        rank, rope, value = (
            attention.kv_lora_rank,
            attention.qk_rope_head_dim,
            attention.v_head_dim,
        )
        key = attention.qk_nope_head_dim + rope
        if attention.q_lora_rank is None:
            yield self._matmul("q_proj", count, heads * key, hidden, weights)
            down = rank + rope
        else:
            yield self._matmul("q_up_proj", count, heads * key, attention.q_lora_rank, weights)
            down = attention.q_lora_rank + rank + rope
        yield self._matmul("qkv_down_proj", count, down, hidden, weights)
        expanded = heads * (attention.qk_nope_head_dim + value)
        yield self._matmul("kv_up_proj", count, expanded, rank, weights)
        yield self._matmul("o_proj", count, hidden, heads * value, weights)
        kv_bytes = kv_elements(attention, self.tp) * element_bytes(self.precision.kv_cache)
        local = group.span.kind != "full"
        peak = self._attention_peak()
        yield DecodeAttention(
            "decode_attention", count, heads, 1, rank + rope, kv_bytes,
            query_bytes=heads * (2 * rank + rope) * self.wide,
            flops_per_token=2.0 * heads * (2 * rank + rope),
            efficiency=self.efficiency.decode_for(self.precision.kv_cache, latent=True),
            device=self.device, peak=peak, local=local,
            widening_s=self._kv_widening(attention, latent=True),
        )  # fmt: skip
        # The kernel reads expanded keys and values, those of earlier steps expanded once more.
        yield PrefillAttention(
            "prefill_attention", count, heads, heads, (key + value) / 2,
            heads * (key + value) * self.wide,
            query_bytes=heads * (key + value) * self.wide,
            flops_per_pair=2.0 * heads * (key + value),
            past_bytes=kv_bytes + expanded * self.wide,
            past_flops=2.0 * rank * expanded,
            efficiency=self.efficiency.prefill_for(self.precision.kv_cache, latent=True),
            device=self.device, peak=peak, local=local, latent=True,
        )  # fmt: skip
        rotated = 2 * (heads + 1) * rope * self.wide + kv_bytes
        yield self._elementwise("rope_kv_write", count, rotated)
        for width in filter(None, (attention.q_lora_rank, rank)):
            yield self._elementwise("qk_norm", count, 2 * width * self.wide)

    def _kv_widening(self, attention: Attention, *, latent: bool = False) -> float:
        """Seconds that vector units take for one token's cached elements of a layer; none where
        kernels were measured with such a cache, or the device's vector rate is not known."""
        kv = self.precision.kv_cache
        if self.efficiency.decode_measured(kv, latent=latent):
            return 0.0
        rate = self.hardware.vector_ops_per_s
        return kv_elements(attention, self.tp) * WIDENING_OPS[kv] / rate if rate else 0.0

    def _attention_peak(self) -> float:
        """Attention multiplies in 16 bits, or in fp8 where the cache is fp8 and the device can."""
        kv = self.precision.kv_cache
        if kv == "fp8" and self.hardware.computes("fp8"):
            return self.hardware.peak_flops_per_s("fp8")
        return self.hardware.peak_flops_per_s(self.plain)

    def _recurrent(self, group: LayerGroup) -> Iterator[Operator]:
        """Projections, the short convolution, the state, and the gated norm of its result."""
        if group.recurrent is None:
            return
        layer, hidden, count = group.recurrent.share(self.tp), self.spec.hidden, group.count
        weights = attention_dtype(self.spec, self.precision.weights)
        yield self._matmul("recurrent_in_proj", count, layer.in_width, hidden, weights)
        yield self._matmul("recurrent_out_proj", count, hidden, layer.inner, weights)
        yield from state_operators(
            layer, count, self.efficiency, self.device,
            self.hardware.peak_flops_per_s(self.plain),
            activation_bytes=self.wide,
            state_bytes=element_bytes(self.precision.recurrent_state),
        )  # fmt: skip
        if layer.kind == "conv":
            yield self._elementwise("recurrent_gate", count, 6 * layer.inner * self.wide)
        else:
            yield self._elementwise("recurrent_norm", count, 3 * layer.inner * self.wide)

    def _mlp(self, group: LayerGroup) -> Iterator[Operator]:
        mlp, hidden, count = group.mlp, self.spec.hidden, group.count
        if mlp is None:
            return
        weights = self.precision.weights
        if isinstance(mlp, MoeMlp):
            yield from self._experts(mlp, count)
            width = mlp.shared_intermediate // self.tp
            names = ("shared_up_proj", "shared_down_proj", "shared_activation")
        else:
            width = mlp.intermediate // self.tp
            names = ("up_proj", "down_proj", "activation")
        if not width:
            return
        rows = 2 * width if mlp.gated else width
        yield self._matmul(names[0], count, rows, hidden, weights)
        yield self._matmul(names[1], count, hidden, width, weights)
        yield self._elementwise(names[2], count, (rows + width) * self.wide)

    def _experts(self, mlp: MoeMlp, count: int) -> Iterator[Operator]:
        weights, activations = self.precision.weights, self.precision.activations
        yield self._matmul("router", count, mlp.experts, self.spec.hidden, self.plain, linear=False)
        if mlp.latent:
            yield self._matmul("latent_proj", 2 * count, mlp.latent, self.spec.hidden, weights)
        whole = Experts(
            "experts", count, mlp.experts, mlp.top_k, mlp.latent or self.spec.hidden,
            width=mlp.intermediate // self.layout.expert_tp,
            matrices=3 if mlp.gated else 2,
            weight_bytes=element_bytes(weights, self._group(weights)),
            input_bytes=element_bytes(activations),
            skew=mlp.skew,
            efficiency=self.efficiency.experts_for(
                weights, activations, blocks=self._in_blocks(weights)
            ),
            device=self.device,
            peak=self.hardware.peak_flops_per_s(activations),
        )  # fmt: skip
        yield whole if self.layout.ep == 1 else RankExperts.of(whole, self.layout)
        # The kernel tables time the experts with the sum over each token's results, but not the
        # choice of the experts from the router's logits.
        yield self._elementwise("router_topk", count, mlp.experts * (self.wide + 4.0))
        if self.layout.dp > 1:
            yield from self._travel(mlp, count)

    def _travel(self, mlp: MoeMlp, count: int) -> Iterator[Operator]:
        """Tokens of data-parallel ranks go to the experts and back: to the devices that hold those
        they chose, or to all if every device holds a part of each expert."""
        layout, hidden = self.layout, self.spec.hidden
        if layout.ep == 1:
            for name in ("dispatch", "combine"):
                yield self.collective(
                    name, count, layout.dp * hidden * self.wide, all_reduce=False, group=self.ranks
                )
            return
        sent = min(element_bytes(self.precision.activations), 2.0)
        for dispatch, size in ((True, sent), (False, 2.0)):
            yield AllToAll(
                "dispatch" if dispatch else "combine",
                count, hidden * size, layout.tp, self.everyone.nodes,
                *routes(mlp, layout, self.everyone, self.efficiency, dispatch=dispatch),
                device=self.device, network=self.network,
            )  # fmt: skip

    # --- everything else -------------------------------------------------------------------------

    def _elementwise(
        self, name: str, count: int, bytes_per_token: float, *, sampled: bool = False
    ) -> Elementwise:
        efficiency = self.efficiency.elementwise_for(*_KINDS.get(name, (name,)))
        return Elementwise(name, count, bytes_per_token, efficiency, self.device, sampled)

    def _between(self, group: LayerGroup) -> Iterator[Operator]:
        """Norms fused with the residual sum (reads both, writes both), and the sums over devices
        after attention and after the feed-forward block (Megatron-LM, arXiv:1909.08053)."""
        hidden = self.spec.hidden
        yield self._elementwise("norm", group.count * group.norms, 4 * hidden * self.wide)
        if self.tp > 1:
            parts = sum(part is not None for part in (group.attention, group.recurrent, group.mlp))
            yield self.collective("all_reduce", parts * group.count, hidden * self.wide)

    def _ends(self) -> Iterator[Operator]:
        """What comes before the first layer and after the last one, where they are here."""
        spec = self.spec
        if spec.embeds:
            yield self._elementwise("embedding", 1, 2 * spec.hidden * self.wide)
            if self.tp > 1:
                yield self.collective("all_reduce", 1, spec.hidden * self.wide)
        if not spec.samples:
            return
        yield self._elementwise("norm", 1, 4 * spec.hidden * self.wide)
        rows = -(-spec.vocab // self.tp)
        yield self._matmul("lm_head", 1, rows, spec.hidden, self.plain, sampled=True, linear=False)
        # Logits are written in 16 bits, widened, and passed over for the maximum and the draw.
        yield self._elementwise("sampling", 1, spec.vocab * (self.wide + 3 * 4.0), sampled=True)
        if self.tp > 1:
            yield self.collective(
                "all_gather", 1, spec.vocab * self.wide, all_reduce=False, sampled=True
            )

    def collective(
        self,
        name: str,
        count: int,
        bytes_per_token: float,
        *,
        all_reduce: bool = True,
        sampled: bool = False,
        group: Group | None = None,
    ) -> Operator:
        """A collective of so many bytes a token (or sampled sequence) over a group of devices; by
        default over those that share layers."""
        group = group or self.shares
        efficiency = self.efficiency.collective
        if group.nodes > 1 or not all_reduce:
            efficiency = self.efficiency.all_gather or efficiency
        if group.nodes > 1:
            assert self.network is not None
            return NodeCollective(
                name, count, bytes_per_token, group, all_reduce, efficiency, self.device,
                self.network, sampled,
            )  # fmt: skip
        return Collective(
            name, count, bytes_per_token, group.members, all_reduce, efficiency, self.device,
            sampled,
        )  # fmt: skip
