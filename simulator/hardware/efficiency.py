"""The coefficients of a device by kind of operator, number format and engine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from simulator.engines.profile import Overheads
from simulator.hardware.forms import (
    AllToAllEfficiency,
    CollectiveEfficiency,
    DecodeAttentionEfficiency,
    ElementwiseEfficiency,
    ExpertsEfficiency,
    MatmulEfficiency,
    PrefillAttentionEfficiency,
    ScanEfficiency,
    UpdateEfficiency,
)
from simulator.scenario.base import Model, NonNegativeFloat, PositiveFloat

ElementwiseKind = Literal[
    "norm", "rotation", "activation", "qk_norm", "routing", "sampling", "embedding"
]
"""Kernels without products that may have coefficients of their own."""


RecurrentKind = Literal["gdn", "mamba2", "conv"]
"""Kernels of recurrent layers: the state of each kind, and the short convolution before it."""

ExchangeKind = Literal[
    "low-latency-dispatch", "low-latency-combine", "throughput-dispatch", "throughput-combine"
]
"""Kernels that bring tokens to their experts and back."""

EXCHANGE_PRIOR: dict[ExchangeKind, AllToAllEfficiency] = {
    "low-latency-dispatch": AllToAllEfficiency(
        bandwidth=0.54, network=0.92, latency_us=15.0, per_doubling_us=4.6
    ),
    "low-latency-combine": AllToAllEfficiency(
        bandwidth=0.48, network=0.91, latency_us=13.0, per_doubling_us=5.9
    ),
    "throughput-dispatch": AllToAllEfficiency(
        bandwidth=0.64, network=0.78, latency_us=35.0, per_doubling_us=28.0
    ),
    "throughput-combine": AllToAllEfficiency(
        bandwidth=0.67, network=0.68, latency_us=53.0, per_doubling_us=35.0
    ),
}
"""What DeepEP reaches between 1 to 4 nodes of H200, for devices where nobody measured it."""


class Provenance(Model):
    """Where coefficients come from.

    By family: the median error of the rows fitted and of shapes held out, percent, and the 10, 50
    and 90% quantiles of ln(measured / predicted) of shapes held out.
    """

    method: Literal["fitted", "inherited", "prior"]
    detail: str = Field(min_length=10)
    date: date
    engine: str = ""
    elementwise: str = ""
    data_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    residual_median_pct: dict[str, NonNegativeFloat] = {}
    held_out_median_pct: dict[str, NonNegativeFloat] = {}
    residual_quantiles: dict[str, tuple[float, float, float]] = {}

    @model_validator(mode="after")
    def _fits_name_their_data(self) -> Provenance:
        if self.method == "fitted" and not (self.data_sha256 and self.residual_median_pct):
            raise ValueError("a fit needs data_sha256 and residual_median_pct")
        return self


class EngineEfficiency(Model):
    """Coefficients of an engine's own kernels, where its tables have some; the keys are those of
    :class:`Efficiency`. ``overheads``: of the engine on this machine, instead of its profile's.
    ``probe_s``: on CPUs, how long a small product took while this was measured; what is measured
    later is scaled to that pace (calibration/engine/clock.py)."""

    provenance: Provenance
    overheads: Overheads | None = None
    probe_s: PositiveFloat | None = None
    matmul: dict[str, MatmulEfficiency] = {}
    grouped_matmul: dict[str, ExpertsEfficiency] = {}
    prefill_attention: dict[str, PrefillAttentionEfficiency] = {}
    decode_attention: dict[str, DecodeAttentionEfficiency] = {}
    recurrent_update: dict[RecurrentKind, UpdateEfficiency] = {}
    recurrent_scan: dict[RecurrentKind, ScanEfficiency] = {}
    elementwise: ElementwiseEfficiency | None = None
    elementwise_kinds: dict[ElementwiseKind, ElementwiseEfficiency] = {}
    collective: CollectiveEfficiency | None = None

    @model_validator(mode="after")
    def _formats_are_known(self) -> EngineEfficiency:
        for family in _BY_FORMAT:
            _check_formats(family, getattr(self, family))
        return self


class Efficiency(Model):
    """The coefficients of one device, by kind of operator and number format.

    Keys of ``matmul`` and ``grouped_matmul``: ``bf16`` (any 16-bit type), ``fp32``, ``fp8``,
    ``int8``, ``fp4`` for products in that type, ``bf16-int4`` and the like for 16-bit products with
    narrower weights (activations-weights), ``block-fp8`` for fp8 with a scale for each block of
    weights (DeepSeek-V3, arXiv:2412.19437); the two kinds of fp8 stand in for each other. Keys of
    the attentions: the type of the KV cache; ``latent-bf16`` and the like for kernels of multi-head
    latent attention. A format without an entry takes the coefficients of ``bf16``, relative to its
    own peak. Keys of ``recurrent_update`` (a token of each sequence) and ``recurrent_scan``
    (prompts): the kind of kernel; a kind without an entry takes the other's, or a prior.
    ``collective`` is for all-reduces, and for all-gathers where they have no entry of their own;
    ``exchange`` for kernels of expert parallelism. ``engines`` holds, by the name of an engine's
    profile, what replaces these where that engine has kernels of its own.
    """

    provenance: Provenance
    matmul: dict[str, MatmulEfficiency]
    grouped_matmul: dict[str, ExpertsEfficiency]
    prefill_attention: dict[str, PrefillAttentionEfficiency]
    decode_attention: dict[str, DecodeAttentionEfficiency]
    recurrent_update: dict[RecurrentKind, UpdateEfficiency] = {}
    recurrent_scan: dict[RecurrentKind, ScanEfficiency] = {}
    elementwise: ElementwiseEfficiency
    elementwise_kinds: dict[ElementwiseKind, ElementwiseEfficiency] = {}
    collective: CollectiveEfficiency
    all_gather: CollectiveEfficiency | None = None
    exchange: dict[ExchangeKind, AllToAllEfficiency] = {}
    engines: dict[str, EngineEfficiency] = {}

    @model_validator(mode="after")
    def _have_the_base_case(self) -> Efficiency:
        for family in _BY_FORMAT:
            entries: dict[str, Model] = getattr(self, family)
            _check_formats(family, entries)
            if "bf16" not in entries:
                raise ValueError(f"{family} needs an entry for bf16, the one others fall back to")
        return self

    def seen_by(self, engine: str) -> Efficiency:
        """What the engine whose profile has this name reaches: its own coefficients over these."""
        own = self.engines.get(engine)
        if own is None:
            return self
        both = {
            name: {**getattr(self, name), **getattr(own, name)} for name in (*_BY_FORMAT, *_BY_KIND)
        }
        told = ("residual_median_pct", "held_out_median_pct", "residual_quantiles")
        residuals = {
            name: {**getattr(self.provenance, name), **getattr(own.provenance, name)}
            for name in told
        }
        return self.model_copy(
            update={
                **both,
                "elementwise": own.elementwise or self.elementwise,
                "elementwise_kinds": {**self.elementwise_kinds, **own.elementwise_kinds},
                "collective": own.collective or self.collective,
                "provenance": own.provenance.model_copy(update=residuals),
                "engines": {},
            }
        )

    def matmul_for(
        self, weights: str, activations: str, *, blocks: bool = False
    ) -> MatmulEfficiency:
        """Coefficients of products of ``activations`` type with weights stored as ``weights``;
        ``blocks``: with a scale for each block of them."""
        return _product_entry(self.matmul, weights, activations, blocks)

    def experts_for(
        self, weights: str, activations: str, *, blocks: bool = False
    ) -> ExpertsEfficiency:
        """Coefficients of routed experts, as for :meth:`matmul_for`."""
        return _product_entry(self.grouped_matmul, weights, activations, blocks)

    def residual_range(self, entry: Model) -> tuple[float, float] | None:
        """10 and 90% quantiles of ln(measured / predicted) of held-out shapes for coefficients that
        one of these methods gave; None where nothing was measured."""
        named = [
            *((f"{family} {key}", own) for family in (*_BY_FORMAT, *_BY_KIND)
              for key, own in getattr(self, family).items()),
            ("collective", self.collective),
            ("all_gather", self.all_gather),
            *((f"exchange {kind}", entry) for kind, entry in self.exchange.items()),
        ]  # fmt: skip
        label = next((label for label, own in named if own is entry), "")
        found = self.provenance.residual_quantiles.get(label)
        return None if found is None else (found[0], found[2])

    def elementwise_for(self, *kinds: str) -> ElementwiseEfficiency:
        """Coefficients of the first of these kinds of kernel that has an entry, or the one that all
        others share."""
        for kind in kinds:
            for name, entry in self.elementwise_kinds.items():
                if name == kind:
                    return entry
        return self.elementwise

    def exchange_for(self, kind: ExchangeKind) -> AllToAllEfficiency:
        """Coefficients of a kernel that brings tokens to their experts or back."""
        return self.exchange.get(kind) or EXCHANGE_PRIOR[kind]

    def decode_measured(self, kv: str, *, latent: bool = False) -> bool:
        """Whether decode attention has coefficients of its own for a KV cache of type ``kv``."""
        key = plain(kv)
        return key in ("bf16", "fp32") or (f"latent-{key}" if latent else key) in (
            self.decode_attention
        )

    def prefill_for(self, kv: str, *, latent: bool = False) -> PrefillAttentionEfficiency:
        """Coefficients of prefill attention with a KV cache of type ``kv``; ``latent`` for MLA."""
        return _attention_entry(self.prefill_attention, kv, latent)

    def decode_for(self, kv: str, *, latent: bool = False) -> DecodeAttentionEfficiency:
        """Coefficients of decode attention with a KV cache of type ``kv``; ``latent`` for MLA."""
        return _attention_entry(self.decode_attention, kv, latent)

    def update_for(self, kind: RecurrentKind) -> UpdateEfficiency:
        """Coefficients of updates of recurrent states, or of the last inputs of a convolution."""
        if kind in self.recurrent_update:
            return self.recurrent_update[kind]
        near = None if kind == "conv" else self.recurrent_update.get("gdn")
        # A copy, so that its residuals count as unknown.
        return near.model_copy() if near is not None else PRIOR_UPDATE

    def scan_for(self, kind: RecurrentKind) -> ScanEfficiency:
        """Coefficients of recurrent layers over prompts."""
        if kind in self.recurrent_scan:
            return self.recurrent_scan[kind]
        near = None if kind == "conv" else self.recurrent_scan.get("gdn")
        if near is not None:
            return near.model_copy()
        return PRIOR_CONVOLUTION if kind == "conv" else PRIOR_SCAN


PRIOR_UPDATE = UpdateEfficiency(bandwidth=0.7, overhead_us=4.0)
PRIOR_CONVOLUTION = ScanEfficiency(bandwidth=0.5, overhead_us=4.0)
PRIOR_SCAN = ScanEfficiency(bandwidth=0.5, compute=0.2, serial_ns=50.0, overhead_us=20.0)
"""Recurrent layers on devices without measurements: round figures a little below those fitted."""

_ProductForm = TypeVar("_ProductForm", MatmulEfficiency, ExpertsEfficiency)


def _product_entry(
    entries: dict[str, _ProductForm], weights: str, activations: str, blocks: bool
) -> _ProductForm:
    keys = _keys(weights, activations, blocks)
    key = next(key for key in keys if key in entries)
    entry = entries[key]
    if plain(weights) == plain(activations) or "-" in key.removeprefix("block-"):
        return entry
    # A copy, so that its residuals count as unknown.
    return entry.model_copy(update={"compute": entry.compute * WIDENED})


WIDENED = 0.93
"""Compute share of products that widen their weights, relative to those that need not: A100's
measured ones take 2 to 9% longer than 16-bit products from 1,024 rows on (docs/models.md)."""


def _keys(weights: str, activations: str, blocks: bool) -> list[str]:
    computed, stored = plain(activations), plain(weights)
    whole = [computed if computed == stored else f"{computed}-{stored}", computed]
    in_blocks = [f"block-{key}" for key in whole]
    return [*in_blocks, *whole, "bf16"] if blocks else [*whole, *in_blocks, "bf16"]


_AttentionForm = TypeVar("_AttentionForm", PrefillAttentionEfficiency, DecodeAttentionEfficiency)


def _attention_entry(entries: dict[str, _AttentionForm], kv: str, latent: bool) -> _AttentionForm:
    keys: tuple[str, ...] = (plain(kv), "bf16")
    if latent:
        keys = (f"latent-{plain(kv)}", "latent-bf16", *keys)
    key = next(key for key in keys if key in entries)
    own = key.removeprefix("latent-") == plain(kv) or kv == "fp32"
    # A copy, so that its residuals count as unknown.
    return entries[key] if own else entries[key].model_copy()


_BY_KIND = ("recurrent_update", "recurrent_scan")
_BY_FORMAT = ("matmul", "grouped_matmul", "prefill_attention", "decode_attention")
_FORMATS = {"fp32", "bf16", "fp8", "int8", "int4", "fp4"}


def _check_formats(family: str, entries: Mapping[str, Model]) -> None:
    known = _FORMATS | {"latent" if family.endswith("attention") else "block"}
    unknown = [key for key in entries if not set(key.split("-")) <= known]
    if unknown:
        raise ValueError(f"{family}: '{unknown[0]}' is not a number format")


def plain(dtype: str) -> str:
    """Both 16-bit types run on the same units at the same rate."""
    return "bf16" if dtype == "fp16" else dtype
