"""What a roofline says: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device can do at most in one number format, and what kernels of a kind come to.

    Args:
        kernels: ``products``, ``experts``, ``decode attention``, ``prefill attention`` or
            ``recurrent layers``.
        format: of the arithmetic, ``bf16``.
        peak_flops_per_s, bytes_per_s: nominal.
        fitted_flops_per_s, fitted_bytes_per_s: that large kernels of this kind reach, by the
            coefficients of the hardware profile. Where they have corrections for sizes, a kernel
            may lie above; never above the nominal roof.
    """

    kernels: str
    format: str
    peak_flops_per_s: float
    bytes_per_s: float
    fitted_flops_per_s: float
    fitted_bytes_per_s: float

    @property
    def ridge(self) -> float:
        """FLOP/byte from which arithmetic limits and not bandwidth, of the nominal roof."""
        return self.peak_flops_per_s / self.bytes_per_s

    @property
    def fitted_ridge(self) -> float:
        """The same of the fitted one."""
        return self.fitted_flops_per_s / self.fitted_bytes_per_s


@dataclass(frozen=True, slots=True)
class StepOperator:
    """One operator of a step on one device, all its layers together.

    Args:
        name: as in reports, ``qkv_proj``.
        kernels: which roof it has, see ``Roof``; ``links`` for what devices send each other and
            ``other`` for norms, rotation, activations, sampling, which have no roof of arithmetic.
        format: of its arithmetic; empty without any.
        flops, bytes: arithmetic, and what moves between memory and chip.
        link_bytes: that the device sends to others.
        seconds: how long it takes.
        floor_s: how long it would take at the nominal peaks; never above ``seconds``.
        intensity: FLOP/byte; None without arithmetic.
        flops_per_s, bytes_per_s: achieved.
        bound: ``compute``, ``memory``, ``network`` or ``latency``: what takes most of its time.
        share: of the step's time.
    """

    name: str
    kernels: str
    format: str
    flops: float
    bytes: float
    link_bytes: float
    seconds: float
    floor_s: float
    intensity: float | None
    flops_per_s: float
    bytes_per_s: float
    bound: str
    share: float


@dataclass(frozen=True, slots=True)
class RooflineStep:
    """A step and its operators.

    Args:
        kind: ``prefill`` (one prompt alone) or ``decode`` (a batch, one token each).
        sequences: in the step.
        tokens: computed for each of them: of the prompt, or one (with drafts to verify, more).
        padded_tokens: that pass the layers on this device, CUDA graphs' padding included.
        context: tokens that each sequence attends to at the end of the step.
        seconds: of the step, as the cost model says.
        host_s: of them what no operator explains: launches, and the engine's own work.
        gather_s: of them what waits for weights that lie on other replicas.
        operators: the longest first. Their seconds, ``host_s`` and ``gather_s`` add up to
            ``seconds``.
        resource_share: share of ``seconds`` by the resource that binds: compute, memory, network,
            latency, host; they add up to 1.
        bound: the largest of them.
        flops_share, bytes_share: of the device's peak FLOP/s, in the activations' format, and of
            its peak bandwidth over the step.
    """

    kind: str
    sequences: int
    tokens: int
    padded_tokens: float
    context: int
    seconds: float
    host_s: float
    gather_s: float
    operators: tuple[StepOperator, ...]
    resource_share: dict[str, float]
    bound: str
    flops_share: float
    bytes_share: float


@dataclass(frozen=True, slots=True)
class BatchSweep:
    """Decode steps by batch size, every sequence with the same context.

    Args:
        batch: sequences.
        seconds: of a step.
        resource_share: see ``RooflineStep``, a number for each batch.
    """

    batch: tuple[int, ...]
    seconds: tuple[float, ...]
    resource_share: dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Turning:
    """Where decoding turns from memory-bound to compute-bound; None: at no batch.

    Args:
        products: batch from which matrix products, which share their weights, take longer at their
            rate of arithmetic than at their bandwidth.
        whole_step: the same of all operators together.
    """

    products: int | None
    whole_step: int | None


@dataclass(frozen=True, slots=True)
class Roofline:
    """A device's roofline, and where the operators of its steps lie.

    Args:
        part: what is shown, one of ``parts``.
        parts: of the deployment that have operators of their own: pools, stages of a pipeline,
            steps with and without drafts.
        hardware: title of the device.
        model: its name.
        precision: number formats of weights, activations and cache.
        layout: how a replica lies on its devices, in words; empty: on one.
        bytes_per_s: nominal memory bandwidth.
        link_bytes_per_s: nominal, to the others of its node, one direction; None: there are none.
        roofs: of the kernels that this model has, the products first.
        batch, context, prompt_tokens: sizes of the steps.
        most_sequences: that the engine lets run at once.
        most_in_cache: sequences of this context that the KV cache holds.
        most_prompt_tokens: that the engine computes in one step.
        most_context: tokens of the longest sequence.
        prefill, decode: the steps; None: this part takes no such steps.
        sweep: decode steps by batch size; None: it does not decode.
        turning: None where it does not decode, or does not see all tokens of a step itself.
        notes: what to know about it, whole sentences.
    """

    part: str
    parts: tuple[str, ...]
    hardware: str
    model: str
    precision: dict[str, str]
    layout: str
    bytes_per_s: float
    link_bytes_per_s: float | None
    roofs: tuple[Roof, ...]
    batch: int
    context: int
    prompt_tokens: int
    most_sequences: int
    most_in_cache: int
    most_prompt_tokens: int
    most_context: int
    prefill: RooflineStep | None
    decode: RooflineStep | None
    sweep: BatchSweep | None
    turning: Turning | None
    notes: tuple[str, ...]

    @property
    def steps(self) -> tuple[RooflineStep, ...]:
        """The steps that this part takes."""
        return tuple(step for step in (self.prefill, self.decode) if step is not None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the roofs' ridges."""
        found = asdict(self)
        for plain, roof in zip(found["roofs"], self.roofs, strict=True):
            plain |= {"ridge": roof.ridge, "fitted_ridge": roof.fitted_ridge}
        return found
