"""A scenario with every name resolved: what the cluster simulates and the report describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from simulator.engines.profile import EngineProfile
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec
from simulator.scenario.kernels import FITTED, Kernels
from simulator.scenario.policies import Policy
from simulator.scenario.precision import Dtype
from simulator.scenario.queue import FCFS, Queue
from simulator.scenario.scenario import Scenario

if TYPE_CHECKING:
    from simulator.costs.lora import AdapterPlan


@dataclass(frozen=True, slots=True)
class ResolvedPrecision:
    """Number formats after defaults."""

    weights: Dtype
    activations: Dtype
    kv_cache: Dtype
    recurrent_state: Dtype = "bf16"


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding as the scheduler sees it.

    Args:
        tokens: drafted for every decoding sequence in a step, at least 1.
        acceptance: probability that each position's token is accepted, given that all before it
            were; one for each position.
        max_batch: most decoding sequences with which a step drafts.
        seed: of the streams that say what is accepted.
    """

    tokens: int
    acceptance: tuple[float, ...]
    max_batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or len(self.acceptance) != self.tokens:
            raise ValueError("there is one probability of acceptance for every drafted token")

    def width(self, sequences: int) -> int:
        """Tokens that each of so many decoding sequences computes in a step."""
        return 1 + self.tokens if sequences <= self.max_batch else 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Scheduler settings after the engine's defaults and the scenario's overrides."""

    policy: Policy
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    prefix_caching: bool
    cuda_graphs: bool | Literal["decode_only", "piecewise"]
    async_scheduling: bool
    speculation: Speculation | None = None
    queue: Queue = FCFS
    kv_reserve: str = ""
    """What a sequence reserves as one contiguous run; empty: KV memory is paged."""
    kernels: Kernels = FITTED
    adapters: AdapterPlan | None = None

    @property
    def decode_tokens(self) -> int:
        """Most tokens that decoding sequences take of the budget of one step."""
        if self.speculation is None:
            return self.max_num_seqs
        drafting = min(self.max_num_seqs, self.speculation.max_batch)
        return max(self.max_num_seqs, drafting * (1 + self.speculation.tokens))


class FrontEndTimes(NamedTuple):
    """What a request and its answer take around the engine, seconds.

    A request keeps the front end of its replica busy for ``busy_s + busy_s_per_token`` times its
    prompt, one request at a time, and reaches the queue ``request_s`` later. Each token of a step
    keeps it busy for ``token_s``; when all are handled, they leave ``response_s`` later.
    """

    request_s: float = 0.0
    busy_s: float = 0.0
    busy_s_per_token: float = 0.0
    token_s: float = 0.0
    response_s: float = 0.0


NO_FRONT_END = FrontEndTimes()


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Where one device's memory goes, GiB, and the KV blocks a replica gets.

    ``block_bytes`` is what one KV block takes on one device, ``state_blocks`` how many blocks a
    sequence takes at once and for good, for its recurrent state.
    ``beside_gib`` of the weights are not the model's own (a draft's).
    """

    device_gib: float
    weights_gib: float
    activations_gib: float
    reserved_gib: float
    unused_gib: float
    kv_cache_gib: float
    block_bytes: float
    kv_blocks: int
    kv_tokens: int
    rule: str
    state_blocks: int = 0
    beside_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class ResolvedDeployment:
    """Everything a run depends on besides its traffic."""

    scenario: Scenario
    model: ModelSpec
    hardware: HardwareProfile
    engine: EngineProfile
    precision: ResolvedPrecision
    limits: Limits
    layout: Layout
    memory: MemoryBudget
    usd_per_device_hour: float | None
    price_note: str

    @property
    def devices_per_replica(self) -> int:
        """Devices that one replica occupies."""
        return self.layout.devices

    @property
    def devices(self) -> int:
        """Devices of the whole deployment."""
        return self.devices_per_replica * self.scenario.deployment.replicas
