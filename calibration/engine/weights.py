"""The weights of a model on one rank: random ones, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from zlib import crc32

import torch
from torch import Tensor

from calibration.engine.decoder import Runnable
from calibration.kernels import Dense, ExpertWeights, Fp8, Int8, Linear
from calibration.kernels.reference import FP8_MOST
from simulator.errors import UserError
from simulator.models.layers import Layer
from simulator.models.spec import MoeMlp

Narrow = Literal["int8", "fp8"] | None
"""Type of the layers' products when it is narrower than the activations'."""


_READABLE = (torch.float32, torch.bfloat16, torch.float16)
"""Types of tensors in checkpoints; narrower ones come with scales."""


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """A feed-forward block: ``gate_up`` holds the gate's rows before those it gates."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class MoeBlock:
    """Routed experts, and a shared block (with its own gate, H) where the model has one."""

    router: Dense
    experts: ExpertWeights
    shared: DenseBlock | None
    shared_gate: Dense | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer."""

    before_attention: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Linear
    before_mlp: Tensor
    mlp: DenseBlock | MoeBlock


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A rank's share. ``embedding`` and ``lm_head`` have the rank's rows of the vocabulary."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    lm_head: Dense


class Source(Protocol):
    """Where tensors come from, by their names in Hugging Face checkpoints."""

    def __contains__(self, name: str) -> bool:
        """Whether there is such a tensor."""
        ...

    def get(self, name: str, *shape: int) -> Tensor:
        """The tensor, on the device and in the type that the engine computes in.

        Raises:
            UserError: it is missing or has another shape.
        """
        ...


class RandomSource:
    """Normal numbers with the variance that keeps activations near 1; the same for the same seed,
    name and device, whatever else is asked for. Norms are near 1, biases near 0."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self.seed, self.dtype, self.device = seed, dtype, device

    def __contains__(self, name: str) -> bool:
        """All experts of a layer are one tensor: one draw instead of hundreds."""
        return name.endswith(("experts.gate_up_proj", "experts.down_proj"))

    def get(self, name: str, *shape: int) -> Tensor:
        """Draws the tensor."""
        generator = torch.Generator(self.device)
        # 32 bits of all that counts: generators on CPUs look at no more.
        generator.manual_seed(crc32(f"{self.seed} {name}".encode()))
        drawn = torch.empty(shape, dtype=self.dtype, device=self.device)
        if len(shape) == 1:
            bias = name.endswith("bias")
            return drawn.normal_(0.0 if bias else 1.0, 0.02, generator=generator)
        return drawn.normal_(0.0, shape[-1] ** -0.5, generator=generator)


class Checkpoint:
    """The ``*.safetensors`` files of a folder, opened as tensors are asked for."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder, self.dtype, self.device = folder, dtype, device
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError("the folder holds no *.safetensors", where=str(folder))
        self._open: dict[str, Callable[[str], Tensor]] = {}
        for file in files:
            try:
                opened = safe_open(file, framework="pt", device=str(device))
            except (SafetensorError, OSError) as error:
                raise UserError(f"is no safetensors file: {error}", where=str(file)) from None
            self._open |= dict.fromkeys(opened.keys(), opened.get_tensor)

    def __contains__(self, name: str) -> bool:
        """Whether a file has this tensor."""
        return name in self._open

    def get(self, name: str, *shape: int) -> Tensor:
        """Reads the tensor."""
        if name not in self._open:
            raise UserError(f"no file has the tensor {name}", where=str(self.folder))
        tensor = self._open[name](name)
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"{name} has the shape {list(tensor.shape)}",
                where=str(self.folder),
                hint=f"config.json says {list(shape)}",
            )
        if tensor.dtype not in _READABLE:
            raise UserError(
                f"{name} is stored as {str(tensor.dtype).removeprefix('torch.')}",
                where=str(self.folder),
                hint="the micro-engine reads float32, bfloat16 and float16",
            )
        return tensor.to(self.dtype)


def checkpoint_folder(decoder: Runnable) -> Path:
    """Where the weights of a model lie that was given as a folder or file.

    Raises:
        UserError: it was given by the name of a preset.
    """
    if decoder.folder is None:
        raise UserError(
            f"{decoder.spec.name} is a preset, which has no weights",
            where="model",
            hint="give the folder of a checkpoint with its config.json and *.safetensors",
        )
    return decoder.folder


def build_weights(
    decoder: Runnable, source: Source, narrow: Narrow = None, rank: int = 0, ranks: int = 1
) -> ModelWeights:
    """One rank's weights, split as Megatron-LM (arXiv:1909.08053) and the simulator's memory model
    do: heads and widths evenly, KV heads copied when there are more ranks than of them, embedding
    and LM head by rows of the vocabulary, padded to a multiple.

    Raises:
        UserError: a tensor is missing or has the wrong shape.
    """
    return _Builder(decoder, source, narrow, rank, ranks).build()


def narrowed(weight: Tensor, narrow: Narrow, bias: Tensor | None = None) -> Linear:
    """A matrix (n, k) with a scale for each row, its largest magnitude over the type's largest."""
    if narrow is None:
        return Dense(weight.contiguous(), bias)
    stored, scale = narrow_rows(weight, narrow)
    return Int8(stored, scale, bias) if narrow == "int8" else Fp8(stored, scale, bias)


def narrow_rows(weight: Tensor, narrow: Literal["int8", "fp8"]) -> tuple[Tensor, Tensor]:
    """Rows of the last axis in 8 bits, and their scales in float32."""
    most = 127.0 if narrow == "int8" else FP8_MOST
    wide = weight.float()
    scale = wide.abs().amax(-1).clamp_min(1e-12) / most
    scaled = wide / scale.unsqueeze(-1)
    if narrow == "int8":
        return scaled.round().to(torch.int8), scale
    return scaled.to(torch.float8_e4m3fn), scale


class _Builder:
    def __init__(
        self, decoder: Runnable, source: Source, narrow: Narrow, rank: int, ranks: int
    ) -> None:
        self.decoder, self.source, self.narrow = decoder, source, narrow
        self.rank, self.ranks = rank, ranks

    def build(self) -> ModelWeights:
        spec, source = self.decoder.spec, self.source
        embedding = self._rows_of_vocabulary("model.embed_tokens.weight")
        head = embedding
        if not spec.tied_embeddings:
            head = self._rows_of_vocabulary("lm_head.weight")
        return ModelWeights(
            embedding=embedding,
            layers=tuple(self._layer(i, layer) for i, layer in enumerate(self.decoder.layers)),
            norm=source.get("model.norm.weight", spec.hidden),
            lm_head=Dense(head),
        )

    def _rows_of_vocabulary(self, name: str) -> Tensor:
        spec = self.decoder.spec
        whole = self.source.get(name, spec.vocab, spec.hidden)
        rows = -(-spec.vocab // self.ranks)
        mine = whole[self.rank * rows : (self.rank + 1) * rows]
        if len(mine) < rows:
            mine = torch.cat((mine, mine.new_zeros(rows - len(mine), spec.hidden)))
        return mine if self.ranks == 1 else mine.clone()

    def _layer(self, number: int, layer: Layer) -> LayerWeights:
        hidden, a = self.decoder.spec.hidden, self.decoder.attention
        at = f"model.layers.{number}"
        get = self.source.get
        norms = (None, None)
        if a.qk_norm:
            norms = tuple(get(f"{at}.self_attn.{x}_norm.weight", a.head_dim) for x in "qk")
        weight = torch.cat([self._heads(f"{at}.self_attn.{x}_proj.weight", hidden) for x in "qkv"])
        bias = None
        if a.qkv_bias:
            bias = torch.cat([self._heads(f"{at}.self_attn.{x}_proj.bias") for x in "qkv"])
        out = get(f"{at}.self_attn.o_proj.weight", hidden, a.heads * a.head_dim)
        return LayerWeights(
            before_attention=get(f"{at}.input_layernorm.weight", hidden),
            qkv=narrowed(weight, self.narrow, bias),
            q_norm=norms[0],
            k_norm=norms[1],
            out=narrowed(self._part(out, 1), self.narrow),
            before_mlp=get(f"{at}.post_attention_layernorm.weight", hidden),
            mlp=self._moe(at, layer.mlp)
            if isinstance(layer.mlp, MoeMlp)
            else self._block(f"{at}.mlp", layer.mlp.intermediate),
        )

    def _heads(self, name: str, *rest: int) -> Tensor:
        """This rank's heads of a projection; KV heads repeat where there are too few."""
        a = self.decoder.attention
        number = a.heads if "q_proj" in name else a.kv_heads
        whole = self.source.get(name, number * a.head_dim, *rest)
        copies = max(1, self.ranks // number)
        ways, which = self.ranks // copies, self.rank // copies
        return whole.chunk(ways)[which]

    def _part(self, whole: Tensor, axis: int) -> Tensor:
        return whole.chunk(self.ranks, axis)[self.rank].contiguous()

    def _block(self, at: str, width: int, names: str = "gate up down") -> DenseBlock:
        hidden = self.decoder.spec.hidden
        gate, up, down = (f"{at}.{name}_proj.weight" for name in names.split())
        get, part = self.source.get, self._part
        rows = torch.cat((part(get(gate, width, hidden), 0), part(get(up, width, hidden), 0)))
        return DenseBlock(
            narrowed(rows, self.narrow), narrowed(part(get(down, hidden, width), 1), self.narrow)
        )

    def _moe(self, at: str, mlp: MoeMlp) -> MoeBlock:
        hidden, get = self.decoder.spec.hidden, self.source.get
        inside = f"{at}.block_sparse_moe"
        if f"{inside}.gate.weight" not in self.source:
            inside = f"{at}.mlp"
        gate_up, down = self._experts(inside, mlp)
        weights = ExpertWeights(gate_up, down)
        if self.narrow is not None:
            (gate_up, wide), (down, deep) = (narrow_rows(w, self.narrow) for w in (gate_up, down))
            weights = ExpertWeights(gate_up, down, wide, deep)
        shared = gate = None
        if mlp.shared_intermediate:
            shared = self._block(f"{at}.mlp.shared_expert", mlp.shared_intermediate)
        if mlp.shared_gate:
            gate = Dense(get(f"{at}.mlp.shared_expert_gate.weight", 1, hidden))
        router = Dense(get(f"{inside}.gate.weight", mlp.experts, hidden))
        return MoeBlock(router, weights, shared, gate)

    def _experts(self, inside: str, mlp: MoeMlp) -> tuple[Tensor, Tensor]:
        """This rank's widths of all experts, (E, 2·width, H) and (E, H, width)."""
        hidden, width, get = self.decoder.spec.hidden, mlp.intermediate, self.source.get
        at = f"{inside}.experts"
        if f"{at}.gate_up_proj" in self.source:
            both = get(f"{at}.gate_up_proj", mlp.experts, 2 * width, hidden)
            down = get(f"{at}.down_proj", mlp.experts, hidden, width)
        else:
            names = ("w1", "w3", "w2") if "block_sparse" in inside else (
                "gate_proj", "up_proj", "down_proj")  # fmt: skip
            gates, ups, downs = zip(
                *(
                    (
                        get(f"{at}.{e}.{names[0]}.weight", width, hidden),
                        get(f"{at}.{e}.{names[1]}.weight", width, hidden),
                        get(f"{at}.{e}.{names[2]}.weight", hidden, width),
                    )
                    for e in range(mlp.experts)
                ),
                strict=True,
            )
            both = torch.cat((torch.stack(gates), torch.stack(ups)), dim=1)
            down = torch.stack(downs)
        gate, up = both.chunk(2, dim=1)
        if self.ranks == 1:
            return both.contiguous(), down.contiguous()
        return torch.cat((self._part(gate, 1), self._part(up, 1)), dim=1), self._part(down, 2)
