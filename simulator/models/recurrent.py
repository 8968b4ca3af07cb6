"""Layers that keep a state of fixed size for a sequence instead of keys and values for each token.

All project the residual stream, pass a short causal convolution over the last few tokens and
project the result back. In between Gated DeltaNet and Mamba-2 update a matrix for each head with
every token, read it, and norm the result under a gate. What they compute is in docs/models.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Weight = tuple[str, int, int, bool]
"""Name, parameters, rows that can lie on different devices, whether it is quantized."""


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """Linear attention by the gated delta rule (arXiv:2412.06464) as in Qwen3-Next: a state of
    ``key_dim`` × ``value_dim`` for each value head."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    kind: Literal["gdn"] = "gdn"

    @property
    def heads(self) -> int:
        """Heads with a state of their own."""
        return self.value_heads

    @property
    def inner(self) -> int:
        """Width of the result before the output projection."""
        return self.value_heads * self.value_dim

    @property
    def keys(self) -> int:
        """Width of all keys, which is that of all queries."""
        return self.key_heads * self.key_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.keys + self.inner

    @property
    def in_width(self) -> int:
        """Columns of the input projections: the channels, the gate of the result, and two numbers
        a head (decay and step size)."""
        return self.channels + self.inner + 2 * self.value_heads

    @property
    def head_state(self) -> int:
        """Elements of one head's state."""
        return self.key_dim * self.value_dim

    @property
    def update_flops(self) -> float:
        """FLOPs of one token: decay the state, read it at the key, add the outer product of the
        key and what is new in the value, read it at the query (1 + 2 + 2 + 2 an element)."""
        return 7.0 * self.heads * self.head_state

    def scan_flops(self, chunk: int) -> float:
        """FLOPs of one token when prompts pass in chunks of ``chunk`` tokens (arXiv:2406.06484,
        section 3): three products with the state, and causal ones within the chunk, of which half
        count: keys with keys, queries with keys, both triangular factors with keys and values."""
        within = chunk * (3 * self.key_dim + 2 * self.value_dim)
        return float(self.heads * (6 * self.head_state + within))

    @property
    def io_elements(self) -> int:
        """Elements that one token brings to the update, and takes from it."""
        return self.channels + self.inner + 2 * self.heads

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Weights of one layer."""
        ways = self.key_heads
        yield "in", hidden * self.in_width, ways, True
        yield "conv", self.channels * self.conv_kernel, ways, False
        yield "decay", 2 * self.heads, ways, False
        yield "gated_norm", self.value_dim, 1, False
        yield "out", self.inner * hidden, ways, True

    def indivisible(self, tp: int) -> str | None:
        """What keeps ``tp`` devices from sharing the layer evenly."""
        if self.key_heads % tp:
            return f"{self.key_heads} key heads of linear attention do not divide evenly"
        return None

    def share(self, tp: int) -> GatedDeltaNet:
        """What one of ``tp`` devices has of it."""
        return replace(self, key_heads=self.key_heads // tp, value_heads=self.value_heads // tp)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """State-space layer of Mamba-2 (arXiv:2405.21060): a state of ``head_dim`` × ``state`` for each
    head; ``groups`` of heads share the projections onto and from the state.

    ``norm``: the result passes a gated norm (else the gate alone).
    """

    n_heads: int
    head_dim: int
    state: int
    groups: int
    conv_kernel: int = 4
    conv_bias: bool = True
    bias: bool = False
    output_bias: bool = False
    norm: bool = True
    kind: Literal["mamba2"] = "mamba2"

    @property
    def heads(self) -> int:
        """Heads with a state of their own."""
        return self.n_heads

    @property
    def inner(self) -> int:
        """Width of the result before the output projection."""
        return self.n_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: values, and for each group input and output of the state."""
        return self.inner + 2 * self.groups * self.state

    @property
    def in_width(self) -> int:
        """Columns of the input projection: the channels, the gate, and a step size a head."""
        return self.channels + self.inner + self.n_heads

    @property
    def head_state(self) -> int:
        """Elements of one head's state."""
        return self.head_dim * self.state

    @property
    def update_flops(self) -> float:
        """FLOPs of one token: decay the state, add an outer product, read it (1 + 2 + 2)."""
        return 5.0 * self.heads * self.head_state

    def scan_flops(self, chunk: int) -> float:
        """FLOPs of one token when prompts pass in chunks of ``chunk`` tokens (arXiv:2405.21060,
        section 6): two products with the state, and causal ones within the chunk, of which half
        count: of a group's inputs and outputs, and of the result with the values."""
        within = chunk * (self.groups * self.state + self.inner)
        return 4.0 * self.heads * self.head_state + within

    @property
    def io_elements(self) -> int:
        """Elements that one token brings to the update, and takes from it."""
        return self.channels + self.inner + self.heads

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Weights of one layer."""
        heads, groups, wide = self.n_heads, self.groups, 2 * self.groups * self.state
        yield "in", hidden * (2 * self.inner + heads), heads, True
        yield "in_groups", hidden * wide, groups, True
        yield "conv", self.inner * self.conv_kernel, heads, False
        yield "conv_groups", wide * self.conv_kernel, groups, False
        yield "decay", 3 * heads, heads, False
        yield "out", self.inner * hidden, heads, True
        if self.conv_bias:
            yield "conv_bias", self.inner, heads, False
            yield "conv_groups_bias", wide, groups, False
        if self.bias:
            yield "in_bias", 2 * self.inner + heads, heads, False
            yield "in_groups_bias", wide, groups, False
        if self.output_bias:
            yield "out_bias", hidden, 1, False
        if self.norm:
            yield "gated_norm", self.inner, heads, False

    def indivisible(self, tp: int) -> str | None:
        """What keeps ``tp`` devices from sharing the layer evenly; a single group is repeated."""
        if self.n_heads % tp:
            return f"{self.n_heads} state-space heads do not divide evenly"
        if self.groups > 1 and self.groups % tp:
            return f"{self.groups} groups of state-space heads do not divide evenly"
        return None

    def share(self, tp: int) -> Mamba2:
        """What one of ``tp`` devices has of it."""
        return replace(self, n_heads=self.n_heads // tp, groups=max(1, self.groups // tp))


@dataclass(frozen=True, slots=True)
class ShortConv:
    """A gated convolution over the last few tokens and nothing else (LFM2, arXiv:2511.23404)."""

    channels: int
    conv_kernel: int = 3
    bias: bool = False
    kind: Literal["conv"] = "conv"

    @property
    def heads(self) -> int:
        """Parts that can lie on different devices."""
        return self.channels

    @property
    def inner(self) -> int:
        """Width of the result before the output projection."""
        return self.channels

    @property
    def in_width(self) -> int:
        """Columns of the input projection: the channels and two gates."""
        return 3 * self.channels

    @property
    def head_state(self) -> int:
        """Elements of one head's state: there is none besides the convolution's."""
        return 0

    @property
    def update_flops(self) -> float:
        """FLOPs of one token besides the convolution."""
        return 0.0

    def scan_flops(self, chunk: int) -> float:
        """FLOPs of one token of a prompt besides the convolution."""
        return 0.0 * chunk

    @property
    def io_elements(self) -> int:
        """Elements that one token brings to an update of a state, and takes from it."""
        return 0

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Weights of one layer."""
        ways = self.channels
        yield "in", hidden * self.in_width, ways, True
        yield "conv", self.channels * self.conv_kernel, ways, False
        yield "out", self.inner * hidden, ways, True
        if self.bias:
            yield "biases", self.in_width + self.channels, ways, False
            yield "out_bias", hidden, 1, False

    def indivisible(self, tp: int) -> str | None:
        """What keeps ``tp`` devices from sharing the layer evenly."""
        if self.channels % tp:
            return f"{self.channels} channels of a convolution do not divide evenly"
        return None

    def share(self, tp: int) -> ShortConv:
        """What one of ``tp`` devices has of it."""
        return replace(self, channels=self.channels // tp)


Recurrent = GatedDeltaNet | Mamba2 | ShortConv


def conv_elements(layer: Recurrent) -> int:
    """Elements that the convolution keeps for a sequence: all but one of its window."""
    return layer.channels * (layer.conv_kernel - 1)


def state_elements(layer: Recurrent) -> int:
    """Elements of all heads' states."""
    return layer.heads * layer.head_state
