"""How much of the roofline real kernels reach: closed forms with a few fitted coefficients.

Every form takes floats or numpy arrays and returns seconds, so that the fit and the simulation use
the same lines. ``BW`` is the memory bandwidth in bytes/s, ``peak`` the dense peak in FLOP/s of the
number format that the operator computes in. Where a form has ``corrections``, their factor
multiplies its time (simulator.hardware.corrections), which never is less than bytes/BW or
FLOPs/peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from pydantic import Field, model_validator

from simulator.hardware.corrections import Corrected
from simulator.scenario.base import NonNegativeFloat, PositiveFraction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Number = TypeVar("Number", float, npt.NDArray[np.float64])

MICRO = 1e-6
_TINY = 1e-300


class Form(Corrected):
    """A form, which says the sizes that its corrections may depend on."""

    AXES: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _axes_are_known(self) -> Form:
        self.check_axes(self.corrections, self.AXES)
        return self


class Launched(Form):
    """A form of a kernel that takes some time whatever it does."""

    overhead_us: NonNegativeFloat

    @property
    def overhead_s(self) -> float:
        """Launch and latency, seconds."""
        return self.overhead_us * MICRO


class MatmulEfficiency(Launched):
    """A matrix product.

    ``t = overhead + converted/(conversion·BW)
    + ((bytes/(bandwidth·BW))^q + (FLOPs/(compute·peak))^q)^(1/q)``

    bytes: weights as stored, inputs in the type of the product, outputs with 2 bytes an element, 4
    for products in fp32 (m·k·a + m·n·2 + n·k·w). converted: what a separate kernel moves to bring
    16-bit inputs into a narrower type (m·k·(2 + a)); 0 where inputs stay as they are. Corrections
    depend on m, n and k.
    """

    AXES: ClassVar[tuple[str, ...]] = ("m", "n", "k")

    compute: PositiveFraction
    bandwidth: PositiveFraction
    sharpness: float = Field(ge=1, le=64, description="the exponent q; 1 adds, ∞ takes the larger")
    conversion: PositiveFraction | None = Field(
        None, description="share of BW at which inputs are converted; none: products in 16 bits"
    )

    def seconds(
        self,
        moved: Number,
        flops: Number,
        converted: Number,
        bandwidth: float,
        peak: float,
        factor: Number | float = 1.0,
    ) -> Number:
        """Duration of one product; bytes, FLOP, bytes, bytes/s, FLOP/s, correction."""
        q = self.sharpness
        memory = moved / (self.bandwidth * bandwidth)
        compute = flops / (self.compute * peak)
        convert = converted / ((self.conversion or 1.0) * bandwidth)
        form: Number = (self.overhead_s + convert + _rounded_corner(memory, compute, q)) * factor
        return _larger(form, _larger(moved / bandwidth, flops / peak))


class ExpertsEfficiency(MatmulEfficiency):
    """The products of all experts of a layer, if each gets the same number of tokens; conversion is
    in the kernels' time. simulator.costs.routing says bytes and FLOPs, and what other loads cost.

    Corrections depend on the tokens an expert gets, the number of experts, and hidden and
    intermediate width.
    """

    AXES: ClassVar[tuple[str, ...]] = ("tokens_per_expert", "experts", "hidden", "width")

    conversion: None = None
    tiling: NonNegativeFloat = Field(
        0.0, description="time of a further tile of an expert, as a share of the first one's"
    )


class PrefillAttentionEfficiency(Launched):
    """Attention of prompt chunks, one layer on one device.

    ``t = overhead + bytes/(bandwidth·BW) + FLOPs/(compute·peak)·(1 + half_head_dim/head_dim)``

    FLOPs: 4·heads·head_dim·pairs summed over the chunks (MLA: 2·heads·(qk dim + v dim)·pairs, with
    the mean of both as head_dim); causal pairs count once. bytes: queries and outputs of the new
    tokens (4·heads·head_dim each in 16 bits), keys and values of all visible tokens. The
    exponentials of the softmax cost the same for every head_dim, hence the last factor.

    Corrections depend on ``reach`` (pairs a new token), ``queries`` (new tokens · heads), head_dim
    and ``sharing`` (heads a KV head).
    """

    AXES: ClassVar[tuple[str, ...]] = ("reach", "queries", "head_dim", "sharing")

    compute: PositiveFraction
    bandwidth: PositiveFraction
    half_head_dim: NonNegativeFloat

    def seconds(
        self,
        moved: Number,
        flops: Number,
        head_dim: Number | float,
        bandwidth: float,
        peak: float,
        factor: Number | float = 1.0,
    ) -> Number:
        """Duration over a step's chunks; bytes, FLOP, elements, bytes/s, FLOP/s, correction."""
        compute = flops / (self.compute * peak) * (1 + self.half_head_dim / head_dim)
        form: Number = (self.overhead_s + moved / (self.bandwidth * bandwidth) + compute) * factor
        return _larger(form, _larger(moved / bandwidth, flops / peak))


class DecodeAttentionEfficiency(Launched):
    """Attention of sequences that compute one token each, one layer on one device.

    ``t = overhead + per_unit·u + io/(bandwidth·BW)
    + max(stored/(bandwidth·BW), FLOPs/(compute·peak))``

    u: sequences times KV heads on the device (work items of the kernel). stored: bytes of keys and
    values of all visible tokens. io: bytes of queries and outputs. FLOPs: 4·heads·head_dim·context
    (MLA, absorbed: 2·heads·(2·latent + rope)·context). Linear in the context at a given number of
    sequences.

    Corrections depend on ``units`` (u), ``tokens`` (context a sequence), head_dim and ``sharing``
    (heads a KV head). They hold at the knots of ``tokens``; in between time is linear in the
    context, so that a run of steps needs no step-by-step sum.
    """

    AXES: ClassVar[tuple[str, ...]] = ("units", "tokens", "head_dim", "sharing")

    bandwidth: PositiveFraction
    compute: PositiveFraction
    per_unit_us: NonNegativeFloat

    def seconds(
        self,
        units: Number,
        io: Number,
        stored: Number,
        flops: Number,
        bandwidth: float,
        peak: float,
        factor: Number | float = 1.0,
    ) -> Number:
        """Duration; count, bytes, bytes, FLOP, bytes/s, FLOP/s, correction."""
        memory = stored / (self.bandwidth * bandwidth)
        compute = flops / (self.compute * peak)
        fixed = (
            self.overhead_s + self.per_unit_us * MICRO * units + io / (self.bandwidth * bandwidth)
        )
        form: Number = (fixed + _larger(memory, compute)) * factor
        return _larger(form, _larger((io + stored) / bandwidth, flops / peak))


class UpdateEfficiency(Launched):
    """One token of each sequence in a recurrent layer: ``t = overhead + bytes/(bandwidth·BW)``.

    bytes: every sequence's state read and written, and what the token brings and takes.
    Corrections depend on ``moved`` (bytes).
    """

    AXES: ClassVar[tuple[str, ...]] = ("moved",)

    bandwidth: PositiveFraction

    def seconds(
        self,
        moved: Number,
        flops: Number,
        bandwidth: float,
        peak: float,
        factor: Number | float = 1.0,
    ) -> Number:
        """Duration of one layer; bytes, FLOP, bytes/s, FLOP/s, correction."""
        form: Number = (self.overhead_s + moved / (self.bandwidth * bandwidth)) * factor
        return _larger(form, _larger(moved / bandwidth, flops / peak))


class ScanEfficiency(Launched):
    """Prompt chunks in a recurrent layer.

    ``t = overhead + max(bytes/(bandwidth·BW) + FLOPs/(compute·peak), serial·length)``

    bytes: states of all sequences read and written, and what the tokens bring and take. length:
    tokens a sequence; its chunks depend on each other, so that a long prompt alone takes its time
    however many multiprocessors there are.

    Corrections depend on ``length``, ``units`` (sequences · heads) and ``moved`` (bytes).
    """

    AXES: ClassVar[tuple[str, ...]] = ("length", "units", "moved")

    bandwidth: PositiveFraction
    compute: PositiveFraction = 1.0
    serial_ns: NonNegativeFloat = 0.0

    def seconds(
        self,
        moved: Number,
        flops: Number,
        length: Number,
        bandwidth: float,
        peak: float,
        factor: Number | float = 1.0,
    ) -> Number:
        """Duration of one layer; bytes, FLOP, tokens, bytes/s, FLOP/s, correction."""
        work = moved / (self.bandwidth * bandwidth) + flops / (self.compute * peak)
        chain = self.serial_ns * 1e-9 * length
        form: Number = (self.overhead_s + _larger(work, chain)) * factor
        return _larger(form, _larger(moved / bandwidth, flops / peak))


class ElementwiseEfficiency(Launched):
    """Normalization, rotation, activation, residual: ``t = overhead + bytes/(bandwidth·BW)``.

    Corrections depend on ``moved`` (bytes): what fits a cache takes less than the line says, though
    here never less than memory would.
    """

    AXES: ClassVar[tuple[str, ...]] = ("moved",)

    bandwidth: PositiveFraction

    def seconds(self, moved: Number, bandwidth: float, factor: Number | float = 1.0) -> Number:
        """Duration of one kernel; bytes, bytes/s, correction."""
        form: Number = (self.overhead_s + moved / (self.bandwidth * bandwidth)) * factor
        return _larger(form, moved / bandwidth)


class CollectiveEfficiency(Form):
    """A collective over the g devices of one node.

    ``t = latency + per_peer·(g-1) + traffic·(g-1)^contention/(bandwidth·link)``

    traffic of an all-reduce is 2(g-1)/g of the message in bytes, of an all-gather or
    reduce-scatter (g-1)/g of the whole. contention: 0 on a switch; above on shared PCIe.

    Corrections depend on ``devices`` (g) and ``traffic`` (bytes), and leave a step without traffic
    its latency.
    """

    AXES: ClassVar[tuple[str, ...]] = ("devices", "traffic")

    bandwidth: PositiveFraction
    latency_us: NonNegativeFloat
    per_peer_us: NonNegativeFloat = 0.0
    contention: float = Field(0.0, ge=0, le=2)

    def seconds(
        self, devices: Number | int, traffic: Number, link: float, factor: Number | float = 1.0
    ) -> Number:
        """Duration; count, bytes, bytes/s of a device in one direction, correction."""
        peers = devices - 1
        rate = self.bandwidth * link / peers**self.contention
        form: Number = (
            (self.latency_us + self.per_peer_us * peers) * MICRO + traffic / rate
        ) * factor
        return _larger(form, traffic / link)


class AllToAllEfficiency(Form):
    """Tokens that go to the devices of their experts, or come back.

    ``t = latency + per_doubling·doublings
    + max(near/(bandwidth·link), far/(network·rate))``

    near: bytes that a device sends to others of its node; far: to other nodes, at once.
    doublings: how often one node doubled makes all of them, log2(nodes).
    """

    bandwidth: PositiveFraction
    network: PositiveFraction
    latency_us: NonNegativeFloat
    per_doubling_us: NonNegativeFloat

    def seconds(
        self, near: Number, far: Number, doublings: Number | float, link: float, network: float
    ) -> Number:
        """Duration; bytes, bytes, count, bytes/s of a device in its node and to others."""
        fixed = (self.latency_us + self.per_doubling_us * doublings) * MICRO
        form: Number = fixed + _larger(
            near / (self.bandwidth * link), far / (self.network * network)
        )
        return form


def _larger(a: Number, b: Number) -> Number:
    """max() that takes arrays too."""
    larger: Number = (a + b + abs(a - b)) / 2
    return larger


def _rounded_corner(memory: Number, compute: Number, q: float) -> Number:
    """(memory^q + compute^q)^(1/q), from the ratio of both so that no power underflows."""
    high = _larger(memory, compute)
    ratio = (memory + compute - high) / (high + _TINY)
    corner: Number = high * (1 + ratio**q) ** (1 / q)
    return corner
