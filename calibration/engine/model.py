"""A decoder's step: what the simulator's cost model prices, operator by operator, for real."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from calibration.engine.decoder import Runnable
from calibration.engine.ranks import Ranks
from calibration.engine.weights import DenseBlock, LayerWeights, ModelWeights, MoeBlock
from calibration.kernels import Dense, Kernels, Linear
from simulator.models.spec import Span


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step works on: its first ``decode`` tokens are of sequences that decode, the rest of
    prompt chunks, one behind the other.

    Shapes, on the device: tokens, positions, slots (T) int64; tables (decode + chunks, width)
    int32 and lengths (decode + chunks) int32, the decoding sequences' first; starts (chunks + 1)
    int32, counted from the first chunk's first token; sampled (N) int64, the tokens that need
    logits, or None for all. ``longest``: tokens of the longest chunk.
    """

    decode: int
    tokens: Tensor
    positions: Tensor
    slots: Tensor
    tables: Tensor
    lengths: Tensor
    starts: Tensor
    longest: int
    sampled: Tensor | None


class Model:
    """The layers of one rank with their KV cache.

    Args:
        decoder: the model.
        weights: this rank's share.
        kernels: what computes.
        ranks: who shares it.
        kv: keys and values of each layer, (blocks, block_size, kv_heads of this rank, head_dim).
        positions: longest sequence.
    """

    def __init__(
        self,
        decoder: Runnable,
        weights: ModelWeights,
        kernels: Kernels,
        ranks: Ranks,
        kv: list[tuple[Tensor, Tensor]],
        positions: int,
    ) -> None:
        attention = decoder.attention
        self.decoder, self.weights, self.kernels, self.ranks = decoder, weights, kernels, ranks
        self.kv = kv
        self.heads = attention.heads // ranks.size
        self.kv_heads = -(-attention.kv_heads // ranks.size)
        self.head_dim = attention.head_dim
        self.scale = attention.head_dim**-0.5
        self.cos_sin = decoder.cos_sin(positions, weights.embedding.device)

    def forward(self, step: StepInputs) -> Tensor:
        """Logits (N, vocabulary)."""
        layers, kernels, eps = self.weights.layers, self.kernels, self.decoder.eps
        residual = self.embed(step.tokens)
        x = kernels.rms_norm(residual, layers[0].before_attention, eps)
        following = [*(layer.before_attention for layer in layers[1:]), self.weights.norm]
        for number, (layer, norm) in enumerate(zip(layers, following, strict=True)):
            x = self.ranks.all_reduce(self.attend(number, layer, x, step))
            x = kernels.add_rms_norm(x, residual, layer.before_mlp, eps)
            x = self.ranks.all_reduce(self.feed_forward(layer.mlp, x))
            x = kernels.add_rms_norm(x, residual, norm, eps)
        return self.logits(x if step.sampled is None else x[step.sampled])

    @torch.inference_mode()
    def warm_up_products(self, tokens: int) -> None:
        """Multiplies with every number of rows up to ``tokens`` once: a CPU's library makes code
        for each the first time, which takes up to a millisecond."""
        layer = self.weights.layers[0]
        products: list[Linear] = [layer.qkv, layer.out, self.weights.lm_head]
        if isinstance(layer.mlp, DenseBlock):
            products += [layer.mlp.gate_up, layer.mlp.down]
        else:
            experts = layer.mlp.experts
            if experts.gate_up_scale is None:
                products += [Dense(experts.gate_up[0]), Dense(experts.down[0])]
            products.append(layer.mlp.router)
        for product in products:
            width = product.weight.shape[1]
            for rows in range(1, tokens + 1):
                self.kernels.linear(self.cos_sin.new_zeros(rows, width).to(self.dtype), product)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        return self.weights.embedding.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding, (T, H); each rank has some of them."""
        table = self.weights.embedding
        if self.ranks.size == 1:
            return embedding(tokens, table)
        mine = tokens - self.ranks.rank * len(table)
        inside = (mine >= 0) & (mine < len(table))
        rows = embedding(torch.where(inside, mine, 0), table)
        return self.ranks.all_reduce(rows * inside.unsqueeze(1))

    def attend(self, number: int, layer: LayerWeights, x: Tensor, step: StepInputs) -> Tensor:
        """Attention of one layer with its projections, before the sum over ranks; (T, H)."""
        kernels = self.kernels
        qkv = kernels.linear(x, layer.qkv)
        if layer.q_norm is not None and layer.k_norm is not None:
            kernels.qk_norm(
                qkv, self.heads, self.kv_heads, layer.q_norm, layer.k_norm, self.decoder.eps
            )
        keys, values = self.kv[number]
        kernels.rope_kv_write(
            qkv, self.heads, self.kv_heads, self.cos_sin, step.positions, step.slots, keys, values
        )
        seen = self.look_back(number, self.queries(qkv), step)
        return kernels.linear(seen, layer.out)

    def queries(self, qkv: Tensor) -> Tensor:
        """The queries in ``qkv``, (T, heads, D)."""
        width = self.heads * self.head_dim
        return qkv[:, :width].view(len(qkv), self.heads, self.head_dim)

    def look_back(self, number: int, q: Tensor, step: StepInputs) -> Tensor:
        """Attention alone, (T, heads·D)."""
        keys, values = self.kv[number]
        window = _window(self.decoder.layers[number].span)
        decode = step.decode
        parts = []
        if decode:
            parts.append(
                self.kernels.decode_attention(
                    q[:decode],
                    keys,
                    values,
                    step.tables[:decode],
                    step.lengths[:decode],
                    self.scale,
                    window,
                )
            )
        if decode < len(q):
            parts.append(
                self.kernels.prefill_attention(
                    q[decode:],
                    keys,
                    values,
                    step.tables[decode:],
                    step.starts,
                    step.lengths[decode:],
                    step.longest,
                    self.scale,
                    window,
                )
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def feed_forward(self, block: DenseBlock | MoeBlock, x: Tensor) -> Tensor:
        """A feed-forward block before the sum over ranks, (T, H)."""
        kernels = self.kernels
        if isinstance(block, DenseBlock):
            return kernels.linear(kernels.silu_mul(kernels.linear(x, block.gate_up)), block.down)
        mlp = self.decoder.layers[self._first_moe].mlp
        assert mlp.kind == "moe"
        logits = kernels.linear(x, block.router)
        ids, shares = kernels.route(logits, mlp.top_k, renormalize=self.decoder.renormalize)
        out = kernels.experts(x, ids, shares, block.experts)
        if block.shared is not None:
            shared = self.feed_forward(block.shared, x)
            if block.shared_gate is not None:
                shared = shared * torch.sigmoid(kernels.linear(x, block.shared_gate))
            out = out + shared
        return out

    @property
    def _first_moe(self) -> int:
        return next(i for i, layer in enumerate(self.decoder.layers) if layer.mlp.kind == "moe")

    def logits(self, x: Tensor) -> Tensor:
        """Of the rows of ``x`` (N, H); (N, vocabulary)."""
        part = self.kernels.linear(x, self.weights.lm_head)
        return self.ranks.all_gather(part)[:, : self.decoder.spec.vocab]


def _window(span: Span) -> int:
    return span.tokens if span.kind == "window" else 0
