"""Which models the micro-engine runs, and the numbers it needs that no size depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from simulator.errors import UserError
from simulator.models import load_decoder
from simulator.models.config import Config
from simulator.models.layers import Layer
from simulator.models.spec import GroupedAttention, ModelSpec, MoeMlp

_KINDS = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
_ALWAYS_RENORMALIZED = ("mixtral",)
_THETA = 10_000.0
_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Runnable:
    """A decoder that the engine can run.

    Args:
        spec: its sizes.
        layers: its layers in their order.
        eps: of the norms.
        angles: of the rotation, a radian a position, shape (head_dim / 2,), float64.
        renormalize: whether the shares of a token's experts sum to 1.
        folder: where its checkpoint may lie; None for presets.
    """

    spec: ModelSpec
    layers: tuple[Layer, ...]
    eps: float
    angles: Tensor
    renormalize: bool
    folder: Path | None

    @property
    def attention(self) -> GroupedAttention:
        """Heads are the same in all layers."""
        attention = self.layers[0].attention
        assert isinstance(attention, GroupedAttention)
        return attention

    def cos_sin(self, positions: int, device: torch.device) -> Tensor:
        """Cosines, then sines, of all angles at positions from 0; (positions, head_dim) float32."""
        at = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * self.angles
        return torch.cat((at.cos(), at.sin()), dim=1).float().to(device)


def load_runnable(name_or_path: str, base: Path | None = None) -> Runnable:
    """A model by a preset's name or from its ``config.json``.

    Raises:
        UnknownNameError: there is no such model.
        UserError: the engine has no code for one of its parts, with which.
    """
    decoder = load_decoder(name_or_path, base)
    spec, config = decoder.spec, decoder.config
    if decoder.kind not in _KINDS:
        raise _not_here(spec, f"model_type {decoder.kind!r}")
    for layer in decoder.layers:
        _check(spec, layer)
    if config.get("hidden_act") not in (None, "silu", "swish"):
        raise _not_here(spec, f"hidden_act {config.get('hidden_act')!r}")
    if config.number("partial_rotary_factor", 1.0) != 1.0:
        raise _not_here(spec, "a rotation of some of a head's numbers")
    first = decoder.layers[0].attention
    if any(layer.attention != first for layer in decoder.layers):
        raise _not_here(spec, "layers with different attention")
    assert isinstance(first, GroupedAttention)
    return Runnable(
        spec=spec,
        layers=decoder.layers,
        eps=config.number("rms_norm_eps", _EPS),
        angles=_angles(config, first.head_dim, spec),
        renormalize=decoder.kind in _ALWAYS_RENORMALIZED or config.flag("norm_topk_prob"),
        folder=decoder.folder,
    )


def _not_here(spec: ModelSpec, what: str) -> UserError:
    return UserError(
        f"the micro-engine does not run {spec.name}: it has no code for {what}",
        where="model",
        hint=f"it runs {', '.join(_KINDS)} with grouped attention and SiLU",
    )


def _check(spec: ModelSpec, layer: Layer) -> None:
    attention, mlp = layer.attention, layer.mlp
    if not isinstance(attention, GroupedAttention):
        raise _not_here(spec, "latent attention")
    missing = {
        "attention sinks": attention.sinks,
        "biases of the output projection": attention.output_bias,
        "norms across heads": attention.qk_norm and not attention.qk_norm_per_head,
        "chunked attention": layer.span.kind == "chunk",
        f"{layer.norms} norms a layer": layer.norms != 2,
        "feed-forward blocks without gate": not mlp.gated,
        "biases of the feed-forward block": mlp.bias,
        "biases of the router": isinstance(mlp, MoeMlp) and mlp.router_bias,
    }
    for what, there in missing.items():
        if there:
            raise _not_here(spec, what)


def _angles(config: Config, dim: int, spec: ModelSpec) -> Tensor:
    """Of rotary embeddings (arXiv:2104.09864): theta^(-2i/dim); Llama 3 divides the slow ones by a
    factor, with a straight passage between slow and fast."""
    rope = config.section("rope_parameters") or config.section("rope_scaling")
    theta = config.number("rope_theta", _THETA)
    if rope is not None and rope.get("rope_theta") is not None:
        theta = rope.number("rope_theta")
    angles = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    kind = (rope.get("rope_type") or rope.get("type") or "default") if rope else "default"
    if rope is None or kind == "default":
        return angles
    if kind == "linear":
        return angles / rope.number("factor")
    if kind != "llama3":
        raise _not_here(spec, f"rope_type {kind!r}")
    waves = rope.number("original_max_position_embeddings") * angles / (2 * math.pi)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    fast = ((waves - low) / (high - low)).clamp(0, 1)
    return angles * (fast + (1 - fast) / rope.number("factor"))
