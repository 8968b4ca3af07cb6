"""One measured deployment: what was run, how it was loaded, and what the client saw."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.scenario.base import Model

Origin = Literal["sweep", "vendor", "own"]
"""``sweep``: a row with the lengths of the public InferenceX sweep; ``vendor``: a row of NVIDIA's
file without a date, which comes from runs of their own; ``own``: any other."""

Statistic = Literal["mean", "p50", "p90", "p95", "p99"]

Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=1, le=100_000_000)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=40)]
Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


class Figures(Model):
    """Measured figures, latencies by statistic (``mean``, ``p50`` …). Power and energy are those of
    all devices."""

    ttft_ms: dict[Statistic, Number] = {}
    tpot_ms: dict[Statistic, Number] = {}
    e2e_ms: dict[Statistic, Number] = {}
    itl_ms: dict[Statistic, Number] = {}
    output_tokens_per_s: Number | None = None
    energy_j_per_output_token: Number | None = None
    power_w: Number | None = None
    avg_batch_size: Number | None = Field(None, description="sequences running, the mean over time")


class Workers(Model):
    """Servers that compute prompts, or that go on with them."""

    workers: Whole = Field(1, description="how many")
    tp: Whole = Field(1, description="tensor parallelism of each")
    ep: Whole = Field(1, description="ranks of each that hold different experts")

    @property
    def ways(self) -> str:
        """2 × TP 8 EP 8."""
        experts = f" EP {self.ep}" if self.ep > 1 else ""
        return f"{self.workers} × TP {self.tp}{experts}"


class Trace(Model):
    """Requests as they were sent: seconds from the first one, prompt and output tokens."""

    arrival_s: tuple[float, ...]
    input_tokens: tuple[Whole, ...]
    output_tokens: tuple[Whole, ...]


class Point(Model):
    """One row of a dataset. Either ``concurrency`` (closed loop) or ``rate_per_s`` (Poisson) says
    how it was loaded, unless the requests themselves are known (``trace``)."""

    id: Text
    model: Text = Field(description="a preset, its Hugging Face repository, or a config.json")
    system: Text = Field(description="a hardware profile's name")
    engine: Text = Field(description="an engine profile's name")
    version: str | None = Field(None, description="of the engine")
    precision: Label | None = Field(None, description="the checkpoint's: bf16, fp8, fp4, mxfp4 …")
    weights: Label | None = Field(None, description="number format, instead of ``precision``")
    activations: Label | None = Field(None, description="of the matrix products")
    kv_cache: Label | None = Field(None, description="of keys and values")
    isl: Number = Field(description="prompt tokens, the nominal (longest) length")
    osl: Number = Field(description="output tokens, the nominal (longest) length")
    concurrency: Whole | None = Field(None, description="users of the whole deployment")
    rate_per_s: Number | None = Field(None, description="requests sent a second")
    tp: Whole = Field(1, description="tensor parallelism")
    attention_dp: Whole = Field(1, description="ranks of data-parallel attention")
    moe_ep: Whole = Field(1, description="ranks that hold different experts")
    replicas: Whole = Field(1, description="copies of the model")
    prefill: Workers | None = Field(None, description="who computes prompts, if apart")
    decode: Workers | None = Field(None, description="who goes on with them, if apart")
    num_prompts: Whole | None = Field(None, description="requests sent in all")
    range_ratio: Ratio | None = Field(None, description="shortest length / nominal length")
    input_cv: Spread | None = Field(None, description="std / mean of prompts, isl is the mean")
    output_cv: Spread | None = Field(None, description="std / mean of outputs, osl is the mean")
    until_queue_empty: bool = Field(False, description="what follows the last request is cut off")
    bench_limits: bool = Field(False, description="sequences and tokens as trtllm-bench sets them")
    max_num_seqs: Whole | None = None
    max_num_batched_tokens: Whole | None = None
    max_model_len: Whole | None = None
    kv_cache_tokens: Whole | None = None
    memory_fraction: Ratio | None = None
    prefix_caching: bool | None = None
    random_prompts: bool | None = Field(None, description="random tokens instead of text")
    async_scheduling: bool | None = None
    measured_on: str | None = Field(None, description="date; null: the column is empty")
    origin: Origin = Field("own", description="whose row it is, which tells its protocol")
    statistic: Statistic = Field("mean", description="which statistic the figures are")
    measured: Figures
    trace: Trace | None = None

    @model_validator(mode="after")
    def _one_load(self) -> Point:
        if self.concurrency is not None and self.rate_per_s is not None:
            raise ValueError("give concurrency or rate_per_s, not both")
        if (self.prefill is None) != (self.decode is None):
            raise ValueError("give prefill and decode workers, or neither")
        return self

    @property
    def devices(self) -> int:
        """Devices of one copy of the model, or of all workers."""
        if self.prefill is not None and self.decode is not None:
            return sum(part.workers * part.tp for part in (self.prefill, self.decode))
        return self.tp * self.attention_dp

    @property
    def spread(self) -> bool:
        """Whether it ran with expert or data parallelism, or with prefill and decode apart; no such
        row is ever fitted to."""
        return self.prefill is not None or self.attention_dp > 1 or self.moe_ep > 1

    @property
    def ways(self) -> str:
        """How it lay on devices: TP 4, TP 8 EP 8, TP 1 DP 8 EP 8; or both kinds of workers."""
        if self.prefill is not None and self.decode is not None:
            return f"{self.prefill.ways} + {self.decode.ways}"
        parts = [f"TP {self.tp}"]
        parts += [f"DP {self.attention_dp}"] if self.attention_dp > 1 else []
        parts += [f"EP {self.moe_ep}"] if self.moe_ep > 1 else []
        return " ".join(parts)

    @property
    def group(self) -> str:
        """Model, GPU, engine, version and precision: what splits keep together."""
        parts = (self.model.rpartition("/")[2], self.system, self.engine, self.version or "unknown")
        return " / ".join((*parts, self.precision or self.weights or "native"))

    @property
    def lengths(self) -> str:
        """Nominal prompt and output length."""
        return f"{self.isl:g}/{self.osl:g}"
