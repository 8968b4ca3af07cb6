"""The engine: its profile, and what is set differently from its defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Count, Model, PositiveFraction, Tokens, Unit
from simulator.scenario.kernels import FITTED, Kernels
from simulator.scenario.kv import (
    KvAllocation,
    KvLoading,
    KvTier,
    PagedAllocation,
    Preemption,
    RecomputePreemption,
)
from simulator.scenario.lora import Lora
from simulator.scenario.policies import Policy
from simulator.scenario.queue import FCFS, Queue
from simulator.scenario.speculative import Speculative


class EngineChoice(Model):
    """An engine profile by name or file, and what is set differently from its defaults."""

    profile: str = Field("vllm", description="an engine profile's name or file")
    version: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="release whose overheads and, where the profile tells them "
        "apart, defaults hold; default: the newest",
    )
    policy: Policy | None = Field(None, description="how steps are made up; default: the engine's")
    queue: Queue = Field(FCFS, description="which waiting request is admitted next")
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
    kernels: Kernels = Field(
        FITTED, description="whose kernels run, to compare with the fitted ones"
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
    speculative: Speculative | None = Field(
        None, description="speculative decoding: who drafts tokens that a step then verifies"
    )
    lora: Lora | None = Field(None, description="room for LoRA adapters of the model")
    memory_fraction: PositiveFraction | None = Field(
        None, description="share of device memory, with the meaning the engine gives it"
    )
    kv_cache_tokens: Tokens | None = Field(
        None, description="KV capacity of a replica in tokens, instead of the memory model's result"
    )
    kv_watermark: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)] = Field(
        0.0,
        description="share of the KV blocks that an admission leaves free while others run",
    )
    kv_allocation: KvAllocation = Field(
        PagedAllocation(), description="how sequences take KV memory: in blocks, or in one run"
    )
    preemption: Preemption = Field(
        RecomputePreemption(), description="what becomes of the blocks of a preempted sequence"
    )
    kv_offload: tuple[KvTier, ...] = Field(
        (),
        max_length=2,
        description="tiers below device memory, nearest first, that take KV blocks which prompts "
        "could share and the device has no room to keep",
    )
    kv_loading: KvLoading | None = Field(
        None, description="how blocks come back from kv_offload; default: as its fields say"
    )
