"""What distinguishes one serving engine from another, as data."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Annotated, Literal

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, model_validator

from simulator.scenario.base import (
    Count,
    Fraction,
    Model,
    NonNegativeFloat,
    PositiveFraction,
    Tokens,
)
from simulator.scenario.policies import Policy


def _release(text: str) -> str:
    release_number(text)
    return text


def release_number(text: str) -> Version:
    """What releases are compared by.

    Raises:
        ValueError: it is no release number.
    """
    try:
        return Version(text)
    except InvalidVersion:
        raise ValueError(f"must be a release number such as 0.11.2, got '{text}'") from None


Release = Annotated[str, Field(max_length=40), AfterValidator(_release)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", max_length=60)]


class MemoryRule(Model):
    """How the engine sizes its KV cache.

    ``of_total``: fraction × device memory − weights − activations − reserved;
    ``of_free``: fraction × (device memory − weights − activations − reserved);
    ``static``: fraction × (device memory − reserved) − weights (activations live in the rest).
    """

    rule: Literal["of_total", "of_free", "static"]
    fraction: PositiveFraction
    reserved_gib: NonNegativeFloat = Field(
        description="context, graphs and library buffers, a device"
    )


class HostOverhead(Model):
    """Time the host needs for a step: ``step_ms + per_seq_us × sequences + per_token_us × tokens``.
    ``overlap`` is the share hidden behind the device's own work."""

    step_ms: NonNegativeFloat
    per_seq_us: NonNegativeFloat
    per_token_us: NonNegativeFloat = 0.0
    overlap: Fraction = 0.0


class Launches(Model):
    """Host time to launch a kernel, and to launch a layer of a step whose pieces between the
    attentions are graphs. A step on the device cannot run faster than its launches."""

    kernel_us: NonNegativeFloat
    piece_us: NonNegativeFloat = 0.0


class FrontEnd(Model):
    """HTTP, tokenization, detokenization: before the queue and on the way back.

    A request keeps the front end busy for ``busy_ms + busy_us_per_token × prompt``, one request at
    a time; prompts of random tokens, as load generators make them, ``random_us_per_token`` instead,
    because they fall into more pieces than text. It reaches the queue ``request_ms`` later. The
    tokens of a step keep the front end busy for ``token_us`` each, so that no step can be shorter
    than those of the one before, and leave together, ``response_ms`` after that.
    """

    request_ms: NonNegativeFloat
    busy_ms: NonNegativeFloat = 0.0
    busy_us_per_token: NonNegativeFloat = 0.0
    random_us_per_token: NonNegativeFloat = 0.0
    token_us: NonNegativeFloat = 0.0
    response_ms: NonNegativeFloat


class ServedFit(Model):
    """A fit to measured servers: what was read, and how far predictions are off afterwards.

    By metric: the median error in percent and the bias (median of predicted / measured), of the
    rows fitted and of rows of the same groups that were held out; and the 10 and 90% quantiles of
    ln(measured / predicted) with constants that are fitted without a row's group, over all ranges
    of the engine's releases.
    """

    newest: date | None = Field(None, description="day of the newest measurement")
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: Count
    groups: tuple[str, ...]
    fitted_median_pct: dict[str, NonNegativeFloat]
    fitted_bias: dict[str, NonNegativeFloat]
    left_out_spread: dict[str, tuple[float, float]]
    held_out_rows: Annotated[int, Field(ge=0)] = 0
    held_out_median_pct: dict[str, NonNegativeFloat] = {}
    held_out_bias: dict[str, NonNegativeFloat] = {}


class Overheads(Model):
    """What the engine takes besides the device's work, in releases below ``before`` (empty: all
    later ones). ``source`` says where the figures come from; ``fit`` is there if they are fitted.
    """

    before: Release | None = None
    host: HostOverhead
    launches: Launches
    front_end: FrontEnd
    source: str = Field(min_length=10)
    fit: ServedFit | None = None


class CudaGraphs(Model):
    """Decode batches up to the largest size run as graphs padded to the next size; with
    ``piecewise``, steps with prompts up to that size run as pieces of graphs between attentions.
    All else launches kernel by kernel."""

    enabled: bool
    sizes: tuple[Count, ...]
    piecewise: bool
    per_sequence: bool = Field(
        False, description="sizes count sequences, each with its drafts; off: they count tokens"
    )

    @model_validator(mode="after")
    def _sizes_rise(self) -> CudaGraphs:
        if self.enabled and not self.sizes:
            raise ValueError("graphs are enabled, but sizes is empty")
        if any(a >= b for a, b in pairwise(self.sizes)):
            raise ValueError("sizes must rise from one to the next")
        return self


class Earlier(Model):
    """Defaults that releases below ``before`` had; what is left out was the same."""

    before: Release
    async_scheduling: bool | None = None
    memory: MemoryRule | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Tokens | None = None
    source: str = Field(min_length=10)


class SmallDevices(Model):
    """Other scheduler defaults on devices with less memory than ``below_gib``, and on the named
    ones whatever their memory."""

    below_gib: NonNegativeFloat
    devices: tuple[str, ...] = ()
    max_num_seqs: Count
    max_num_batched_tokens: Tokens


class EngineProfile(Model):
    """One engine. The facts are those of release ``version`` and, unless ``earlier`` says
    otherwise, of those before it. The keys of ``sources`` are facts; every one has to have a
    source."""

    name: Name
    title: str
    version: Release
    aliases: tuple[Name, ...] = ()
    policy: Policy
    async_scheduling: bool = Field(
        description="a step is planned while the one before it runs, without what arrives then"
    )
    max_num_seqs: Count
    max_num_batched_tokens: Tokens
    small_devices: SmallDevices | None = None
    block_size: Annotated[int, Field(ge=1, le=1024)]
    prefix_caching: bool
    hybrid_kv: bool = Field(
        description="local-attention layers give back blocks outside their span"
    )
    memory: MemoryRule
    cuda_graphs: CudaGraphs
    sources: dict[str, str]
    earlier: tuple[Earlier, ...] = ()
    overheads: Annotated[tuple[Overheads, ...], Field(min_length=1)]

    @property
    def host(self) -> HostOverhead:
        """Of the newest release that the profile speaks of."""
        return self.overheads[-1].host

    @property
    def launches(self) -> Launches:
        """Of the newest release that the profile speaks of."""
        return self.overheads[-1].launches

    @property
    def front_end(self) -> FrontEnd:
        """Of the newest release that the profile speaks of."""
        return self.overheads[-1].front_end

    @property
    def fitted(self) -> bool:
        """Whether measurements of this engine stand behind the overheads."""
        return self.overheads[-1].fit is not None

    @model_validator(mode="after")
    def _every_fact_has_a_source(self) -> EngineProfile:
        for key in self.sources:
            if key not in _FACTS:
                raise ValueError(f"sources: '{key}' is none of {', '.join(_FACTS)}")
        needed = [fact for fact in _FACTS if fact != "small_devices" or self.small_devices]
        missing = [fact for fact in needed if not self.sources.get(fact)]
        if missing:
            raise ValueError(f"sources: nothing is said about {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _releases_rise(self) -> EngineProfile:
        for name, entries in (("earlier", self.earlier), ("overheads", self.overheads)):
            limits = [release_number(e.before) for e in entries if e.before is not None]
            if any(a >= b for a, b in pairwise(limits)):
                raise ValueError(f"{name}: 'before' must rise from one entry to the next")
        last = [entry.before is None for entry in self.overheads]
        if not last[-1] or any(last[:-1]):
            raise ValueError("overheads: the last entry, and only that, has no 'before'")
        return self

    def at(self, version: str) -> EngineProfile:
        """The profile as it was at a release.

        Raises:
            ValueError: it is no release number.
        """
        asked = release_number(version)

        def holds(entry: Overheads | Earlier) -> bool:
            return entry.before is None or asked < release_number(entry.before)

        overheads = next(entry for entry in self.overheads if holds(entry))
        changes: dict[str, object] = {}
        for entry in reversed([entry for entry in self.earlier if holds(entry)]):
            known = entry.model_dump(exclude_none=True, exclude={"before", "source"})
            changes |= {key: getattr(entry, key) for key in known}
        return self.model_copy(
            update={
                **changes,
                "version": version,
                "earlier": (),
                "overheads": (overheads.model_copy(update={"before": None}),),
            }
        )

    def on(self, device: str, memory_gib: float) -> EngineProfile:
        """The profile with the scheduler defaults that the engine takes on a device.

        Args:
            device: the hardware profile's name.
            memory_gib: its memory.
        """
        small = self.small_devices
        if small is None or (memory_gib >= small.below_gib and device not in small.devices):
            return self
        return self.model_copy(
            update={
                "max_num_seqs": small.max_num_seqs,
                "max_num_batched_tokens": small.max_num_batched_tokens,
            }
        )


_FACTS = (
    "policy",
    "async_scheduling",
    "max_num_seqs",
    "max_num_batched_tokens",
    "small_devices",
    "block_size",
    "prefix_caching",
    "hybrid_kv",
    "memory",
    "cuda_graphs",
)
