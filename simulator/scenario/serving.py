"""How the engine runs: batching policy and limits, precision, parallelism, routing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import (
    Count,
    Fraction,
    Model,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    Tokens,
    Unit,
)

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]
KvDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]


class Precision(Model):
    """Number formats. ``activations`` below 16 bits means that matrix products run in that type;
    weights narrower than the activations are widened on the fly (weight-only quantization)."""

    weights: Dtype | None = Field(None, description="default: the model's native type")
    activations: Dtype | None = Field(None, description="default: bf16, or fp8 with fp8 weights")
    kv_cache: KvDtype | None = Field(None, description="default: bf16")


class Parallelism(Model):
    """How one replica spreads over devices."""

    tp: Count = Field(1, description="tensor parallelism: devices that share every layer")


class ContinuousPolicy(Model):
    """Continuous batching as vLLM v1 does it: running requests first, then waiting ones, under one
    token budget a step; a prompt that exceeds what is left of the budget is computed in chunks."""

    kind: Literal["continuous"] = "continuous"
    chunked_prefill: bool = Field(
        True, description="off: a prompt waits until the budget holds all of it"
    )


class PrefillFirstPolicy(Model):
    """Waiting prompts go first, in steps of their own; decoding pauses meanwhile."""

    kind: Literal["prefill_first"] = "prefill_first"


class StaticPolicy(Model):
    """Takes up to ``batch_size`` waiting requests when idle, pads prompts to the longest one, and
    keeps every slot until the last request of the batch has ended."""

    kind: Literal["static"] = "static"
    batch_size: Count = Field(description="most requests in a batch")


class DynamicPolicy(Model):
    """Static batches that start when ``batch_size`` requests wait or the oldest has waited
    ``window_ms``."""

    kind: Literal["dynamic"] = "dynamic"
    batch_size: Count = Field(description="most requests in a batch")
    window_ms: NonNegativeFloat = Field(
        description="longest time the oldest request waits for the batch to fill"
    )


class FullReservationPolicy(Model):
    """Continuous batching that reserves KV blocks for the prompt and the whole output on
    admission, so that nothing is ever preempted. Prompts may wait for more of them to come while
    others decode (TensorRT-LLM's batch_wait_timeout_iters and batch_wait_max_tokens_ratio)."""

    kind: Literal["full_reservation"] = "full_reservation"
    chunked_prefill: bool = Field(True, description="whether a prompt may be split over steps")
    wait_steps: Annotated[int, Field(ge=0, le=100_000, strict=True)] = Field(
        0, description="most steps that prompts wait, while others decode, for more to come"
    )
    wait_fill: PositiveFraction = Field(
        1.0, description="share of the token budget at which a step with them is full enough"
    )


Policy = Annotated[
    ContinuousPolicy | PrefillFirstPolicy | StaticPolicy | DynamicPolicy | FullReservationPolicy,
    Field(discriminator="kind"),
]


class EngineChoice(Model):
    """An engine profile by name or file, and what is set differently from its defaults."""

    profile: str = Field("vllm", description="an engine profile's name or file")
    version: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="release whose overheads and, where the profile tells them "
        "apart, defaults hold; default: the newest",
    )
    policy: Policy | None = Field(None, description="how steps are made up; default: the engine's")
    max_num_seqs: Count | None = Field(None, description="most requests running at once, a replica")
    max_num_batched_tokens: Tokens | None = Field(None, description="token budget of one step")
    max_model_len: Tokens | None = Field(None, description="longest prompt + output")
    block_size: Annotated[int, Field(ge=1, le=1024, strict=True), Unit("tokens")] | None = Field(
        None, description="tokens a KV block"
    )
    prefix_caching: bool | None = Field(
        None, description="whether KV blocks of equal prompt beginnings are shared and kept"
    )
    cuda_graphs: bool | Literal["decode_only", "piecewise"] | None = Field(
        None,
        description="whether steps replay recorded kernel launches; decode_only: those without "
        "prompts; piecewise: all, but without attention",
    )
    async_scheduling: bool | None = Field(
        None,
        description="whether a step is planned while the one before it runs; what arrives then "
        "waits a step longer",
    )
    random_prompts: bool = Field(
        False,
        description="whether prompts are random tokens, as load generators send them, which take "
        "longer to tokenize than text",
    )
    memory_fraction: PositiveFraction | None = Field(
        None, description="share of device memory, with the meaning the engine gives it"
    )
    kv_cache_tokens: Tokens | None = Field(
        None, description="KV capacity of a replica in tokens, instead of the memory model's result"
    )


class RoundRobinRouter(Model):
    """Replicas in turn."""

    kind: Literal["round_robin"] = "round_robin"


class RandomRouter(Model):
    """Any replica, equally likely."""

    kind: Literal["random"] = "random"


class LeastOutstandingRouter(Model):
    """The replica with the fewest requests queued or running; the lowest number on a tie."""

    kind: Literal["least_outstanding"] = "least_outstanding"


class PowerOfTwoRouter(Model):
    """The less loaded of two replicas drawn at random."""

    kind: Literal["power_of_two"] = "power_of_two"


class PrefixAwareRouter(Model):
    """The replica that holds the longest cached prefix of the prompt, if that is at least
    ``min_match`` of it and the replica has at most ``max_imbalance`` requests more than the least
    loaded one; else the least loaded one."""

    kind: Literal["prefix_aware"] = "prefix_aware"
    min_match: Fraction = Field(
        0.3,
        description="share of the prompt that must be cached; a common first line is no reason "
        "to crowd one replica",
    )
    max_imbalance: Annotated[int, Field(ge=0, strict=True)] = Field(
        32, description="requests more than on the least loaded replica"
    )


Router = Annotated[
    RoundRobinRouter | RandomRouter | LeastOutstandingRouter | PowerOfTwoRouter | PrefixAwareRouter,
    Field(discriminator="kind"),
]


class Deployment(Model):
    """Replicas and how traffic reaches them."""

    replicas: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(
        1, description="copies of the model, each on devices of its own"
    )
    router: Router = Field(RoundRobinRouter(), description="which replica a request goes to")
    timeout_s: PositiveFloat | None = Field(
        None, description="a client gives up this long after sending; its work is dropped"
    )
    oversized_requests: Literal["error", "reject"] = Field(
        "error",
        description="what becomes of a request that can never fit the context or the KV cache",
    )
    network_ms: NonNegativeFloat = Field(0.0, description="one-way delay between client and server")


class Cost(Model):
    """What a device-hour costs: a plan of the hardware profile's price list, or a figure."""

    plan: Literal["on_demand", "reserved", "spot"] = Field(
        "on_demand", description="which prices of the hardware profile's list count"
    )
    usd_per_device_hour: PositiveFloat | None = Field(None, description="overrides the price list")


class Energy(Model):
    """From device power to the bill and the atmosphere."""

    pue: Annotated[float, Field(ge=1, le=5, strict=True)] = Field(
        1.0, description="power usage effectiveness: the building's power over the devices'"
    )
    grid_gco2e_per_kwh: NonNegativeFloat | None = Field(
        None, description="carbon is reported if given"
    )


class Measurement(Model):
    """Which part of the run counts. Requests sent before ``warmup_fraction`` of all requests were
    sent are cut; so is, for rates and utilization, all that happens after the last one was sent
    (the drain), unless ``include_drain``."""

    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = Field(
        0, description="of everything that is drawn; the same seed gives the same result"
    )
    warmup_fraction: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.05, description="share of the requests, the first ones sent, that do not count"
    )
    include_drain: bool = Field(
        False, description="whether the time after the last request was sent counts"
    )


class Hardware(Model):
    """A hardware profile by name or file, and what differs on the machine at hand."""

    profile: str = Field(description="a hardware profile's name or file")
    memory_gib: PositiveFloat | None = Field(
        None, description="usable memory of a device; default: the profile's"
    )
