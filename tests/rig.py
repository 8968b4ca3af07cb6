"""A device, an engine and models with round figures, for tests that compute the expected by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from simulator.costs.model import StepCostModel
from simulator.costs.operators import Demand, Operator, Shape
from simulator.costs.protocol import Chunk
from simulator.deployment import Limits, ResolvedPrecision
from simulator.engines.profile import (
    CudaGraphs,
    EngineProfile,
    FrontEnd,
    HostOverhead,
    Launches,
    MemoryRule,
    Overheads,
)
from simulator.hardware.profile import HardwareProfile
from simulator.models.layout import Layout
from simulator.models.recurrent import GatedDeltaNet, Mamba2, ShortConv
from simulator.models.spec import (
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    LayerGroup,
    ModelSpec,
    MoeMlp,
    Span,
)
from simulator.results.record import StepTable
from simulator.scenario.policies import ContinuousPolicy, Policy
from simulator.workload.requests import OPEN_LOOP, ROOT, PrefixStreams, Requests

PEAK = 1000e12
"""FLOP/s of the round device in 16 bits."""
BANDWIDTH = 3000e9
LINK = 400e9

_PROVENANCE = {"method": "prior", "detail": "made up for tests", "date": "2026-01-01"}

IDEAL: dict[str, Any] = {
    "matmul": {"bf16": {"compute": 1, "bandwidth": 1, "overhead_us": 0, "sharpness": 64}},
    "grouped_matmul": {"bf16": {"compute": 1, "bandwidth": 1, "overhead_us": 0, "sharpness": 64}},
    "prefill_attention": {
        "bf16": {"compute": 1, "bandwidth": 1, "half_head_dim": 0, "overhead_us": 0}
    },
    "decode_attention": {
        "bf16": {"compute": 1, "bandwidth": 1, "per_unit_us": 0, "overhead_us": 0}
    },
    "elementwise": {"bandwidth": 1, "overhead_us": 0},
    "collective": {"bandwidth": 1, "latency_us": 0},
}
"""Kernels that reach the roofline."""

REAL: dict[str, Any] = {
    "matmul": {
        "bf16": {"compute": 0.8, "bandwidth": 0.85, "overhead_us": 3, "sharpness": 2.5},
        "fp8": {
            "compute": 0.7, "bandwidth": 0.85, "overhead_us": 6, "sharpness": 1.2,
            "conversion": 0.3,
        },
    },
    "grouped_matmul": {
        "bf16": {"compute": 0.6, "bandwidth": 0.9, "overhead_us": 40, "sharpness": 1.0}
    },
    "prefill_attention": {
        "bf16": {"compute": 0.9, "bandwidth": 0.4, "half_head_dim": 60, "overhead_us": 13}
    },
    "decode_attention": {
        "bf16": {"compute": 0.2, "bandwidth": 0.9, "per_unit_us": 0.02, "overhead_us": 11},
        "latent-bf16": {"compute": 0.15, "bandwidth": 0.8, "per_unit_us": 0.03, "overhead_us": 12},
    },
    "elementwise": {"bandwidth": 0.6, "overhead_us": 2.5},
    "collective": {"bandwidth": 0.6, "latency_us": 4, "per_peer_us": 0.2},
}  # fmt: skip
"""Kernels as they are: about the coefficients of an H100."""


def device(
    efficiency: dict[str, Any] | None = None,
    *,
    devices: int = 8,
    link: bool = True,
    network: float | None = None,
) -> HardwareProfile:
    """1000 TFLOP/s, 3000 GB/s, 400 GB/s to the peers, 80 GiB; 100 W idle, 700 W at most."""

    def figure(value: float) -> dict[str, Any]:
        return {"value": value, "source": "round"}

    return HardwareProfile.model_validate(
        {
            "name": "round-device",
            "title": "Round Device",
            "vendor": "nobody",
            "kind": "gpu",
            "architecture": "round",
            "peak_tflops": {
                "bf16": figure(1000.0), "fp8": figure(2000.0), "fp32": figure(60.0),
            },
            "memory": {"capacity_gib": figure(80.0), "bandwidth_gb_per_s": figure(3000.0)},
            "link": {"kind": "nvlink", "gb_per_s_per_direction": figure(400.0)}
            if link
            else {"kind": "none"},
            "node": {
                "devices": devices if link else 1,
                "network_gb_per_s_per_device": network and figure(network),
            },
            "power": {
                "tdp_w": figure(700.0),
                "idle_w": figure(100.0),
                "curve": {
                    "active": 0.2, "compute": 0.5, "memory": 0.3, "provenance": _PROVENANCE,
                },
            },
            "efficiency": {"provenance": _PROVENANCE, **(efficiency or REAL)},
            "sources": {"round": "round figures for tests"},
        }
    )  # fmt: skip


_FACTS = (
    "policy", "async_scheduling", "max_num_seqs", "max_num_batched_tokens", "block_size",
    "prefix_caching", "hybrid_kv", "memory", "cuda_graphs",
)  # fmt: skip


def engine(
    *,
    rule: str = "of_total",
    fraction: float = 0.9,
    reserved_gib: float = 1.0,
    hybrid_kv: bool = True,
    step_ms: float = 0.0,
    per_seq_us: float = 0.0,
    per_token_us: float = 0.0,
    overlap: float = 0.0,
    sizes: tuple[int, ...] = (),
    launch_us: float = 0.0,
    piecewise: bool = False,
    piece_us: float = 0.0,
    token_us: float = 0.0,
    async_scheduling: bool = False,
) -> EngineProfile:
    """An engine without overheads and graphs, unless asked for."""
    return EngineProfile(
        name="round-engine",
        title="Round Engine",
        version="1",
        policy=ContinuousPolicy(),
        async_scheduling=async_scheduling,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        block_size=16,
        prefix_caching=False,
        hybrid_kv=hybrid_kv,
        memory=MemoryRule.model_validate(
            {"rule": rule, "fraction": fraction, "reserved_gib": reserved_gib}
        ),
        cuda_graphs=CudaGraphs(enabled=bool(sizes), sizes=sizes, piecewise=piecewise),
        overheads=(
            Overheads(
                host=HostOverhead(
                    step_ms=step_ms,
                    per_seq_us=per_seq_us,
                    per_token_us=per_token_us,
                    overlap=overlap,
                ),
                launches=Launches(kernel_us=launch_us, piece_us=piece_us),
                front_end=FrontEnd(request_ms=0.0, token_us=token_us, response_ms=0.0),
                source="made up for tests",
            ),
        ),
        sources=dict.fromkeys(_FACTS, "made up for tests"),
    )  # fmt: skip


def limits(
    policy: Policy | None = None,
    *,
    seqs: int = 64,
    budget: int = 2048,
    block_size: int = 16,
    prefix_caching: bool = False,
    cuda_graphs: bool | Literal["decode_only", "piecewise"] = True,
    async_scheduling: bool = False,
    max_model_len: int = 1_000_000,
) -> Limits:
    return Limits(
        policy=policy or ContinuousPolicy(),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        block_size=block_size,
        prefix_caching=prefix_caching,
        cuda_graphs=cuda_graphs,
        async_scheduling=async_scheduling,
    )


def precision(
    weights: Any = "bf16", activations: Any = None, kv: Any = "bf16"
) -> ResolvedPrecision:
    return ResolvedPrecision(weights, activations or weights, kv)


# --- models --------------------------------------------------------------------------------------


def model(*groups: LayerGroup, hidden: int = 4096, vocab: int = 32_000) -> ModelSpec:
    return ModelSpec("toy", hidden, vocab, groups, tied_embeddings=False, max_context=1_000_000)


GQA = GroupedAttention(heads=32, kv_heads=8, head_dim=128)
MLP = DenseMlp(14_336)
FULL = Span()

DENSE = model(LayerGroup(32, GQA, FULL, MLP))
MOE = model(LayerGroup(24, GQA, FULL, MoeMlp(64, 4, 1408, shared_intermediate=2816)))
WINDOW = model(
    LayerGroup(20, GQA, Span("window", 512), MLP), LayerGroup(4, GQA, FULL, MLP), vocab=100_000
)
CHUNKED = model(LayerGroup(9, GQA, Span("chunk", 256), MLP), LayerGroup(3, GQA, FULL, MLP))
ALL_WINDOW = model(LayerGroup(16, GQA, Span("window", 1024), MLP))
LATENT = model(
    LayerGroup(
        12,
        LatentAttention(64, 512, 128, 64, 128, q_lora_rank=1536),
        FULL,
        MoeMlp(64, 6, 1408, shared_intermediate=2816),
    )
)
GDN = GatedDeltaNet(16, 32, 128, 128)
SSM = Mamba2(64, 64, 128, 8)
HYBRID = model(
    LayerGroup(18, None, FULL, MLP, recurrent=GDN),
    LayerGroup(6, replace(GQA, output_gate=True, qk_norm=True), FULL, MLP),
)
BLOCKS = model(
    LayerGroup(10, None, FULL, None, norms=1, recurrent=SSM),
    LayerGroup(2, GQA, FULL, None, norms=1),
    LayerGroup(8, None, FULL, MoeMlp(128, 4, 1408, gated=False, latent=512), norms=1),
)
STATES = model(LayerGroup(24, None, FULL, None, norms=1, recurrent=SSM))
SIDE_BY_SIDE = model(LayerGroup(12, GQA, FULL, MLP, recurrent=SSM))
CONVOLUTIONS = model(
    LayerGroup(10, None, FULL, MLP, recurrent=ShortConv(4096)), LayerGroup(6, GQA, FULL, MLP)
)
SHARED_KV = model(
    LayerGroup(12, GQA, FULL, MLP), LayerGroup(12, replace(GQA, shares_kv=True), FULL, MLP)
)
MODELS = {
    "dense": DENSE, "moe": MOE, "window": WINDOW, "chunked": CHUNKED,
    "all-window": ALL_WINDOW, "latent": LATENT, "hybrid": HYBRID, "blocks": BLOCKS,
    "states": STATES, "side by side": SIDE_BY_SIDE, "convolutions": CONVOLUTIONS,
    "shared-kv": SHARED_KV,
}  # fmt: skip


def cost_model(
    spec: ModelSpec = DENSE,
    *,
    hardware: HardwareProfile | None = None,
    profile: EngineProfile | None = None,
    numbers: ResolvedPrecision | None = None,
    tp: int = 1,
    layout: Layout | None = None,
    limit: Limits | None = None,
) -> StepCostModel:
    return StepCostModel(
        spec,
        hardware or device(),
        profile or engine(),
        numbers or precision(),
        layout or Layout(tp),
        limit or limits(async_scheduling=True),
    )


def launch_s(cost: StepCostModel, profile: EngineProfile) -> float:
    """Seconds that the launches of a step without graphs take."""
    return sum(op.kernels for op in cost.operators) * profile.launches.kernel_us * 1e-6


# --- steps ---------------------------------------------------------------------------------------


def shape(**sizes: float) -> Shape:
    """One step; what is not given is zero."""
    names = Shape.__dataclass_fields__
    assert set(sizes) <= set(names)
    return Shape(**{name: np.array([float(sizes.get(name, 0.0))]) for name in names})


def decode_shape(sequences: int, context: int, local_context: int = 0, padded: int = 0) -> Shape:
    """A pure decode step."""
    return shape(
        tokens=padded or sequences, sampled=sequences, decode=sequences, context=context,
        local_context=local_context,
    )  # fmt: skip


def prompt_shape(tokens: int, *, past: int = 0, local_pairs: int = 0) -> Shape:
    """One prompt chunk whose end is the end of the prompt."""
    return shape(
        tokens=tokens, sampled=1, prefill=tokens, read=past + tokens, local_read=past + tokens,
        pairs=tokens * past + tokens * (tokens + 1) // 2, local_pairs=local_pairs, chunks=1,
    )  # fmt: skip


def demands(operators: list[Operator], of: Shape) -> dict[str, list[Demand]]:
    """What every operator asks for in a step, by name."""
    found: dict[str, list[Demand]] = {}
    for operator in operators:
        found.setdefault(operator.name, []).append(operator.demand(of))
    return found


def total(operators: list[Operator], of: Shape, what: str = "seconds") -> float:
    """Sum of one figure over all operators of a step."""
    return sum(float(getattr(operator.demand(of), what)[0]) for operator in operators)


# --- rows ------------------------------------------------------------------------------------------

Row = tuple[int, int, list[Chunk], int]
"""(decoding sequences, context, prompt chunks, steps)."""


def rows(cost: StepCostModel, *steps: Row) -> StepTable:
    """A table of steps as the clock would have recorded them."""
    columns: dict[str, list[float]] = {name: [] for name in StepTable.__dataclass_fields__}
    now = 0.0
    for decode, context, chunks, count in steps:
        if chunks:
            first, slope = cost.step(decode, context, 0, chunks, decode + len(chunks)), 0.0
        else:
            first, slope, most = cost.decode(decode, context, 0, 0)
            assert count <= most
        new = sum(chunk.new for chunk in chunks)
        values = {
            "start_s": now, "steps": count, "first_s": first, "slope_s": slope,
            "decode": decode, "context": context, "prefill": len(chunks), "prefill_tokens": new,
            "prefill_pairs": sum(n * p + n * (n + 1) // 2 for n, p in chunks),
            "prefill_context": sum(n + p for n, p in chunks),
            "sampled": decode + len(chunks),
            "first_tokens": len(chunks), "gap_tokens": decode, "running": decode + len(chunks),
        }  # fmt: skip
        for name, column in columns.items():
            column.append(values.get(name, 0))
        now += count * first + slope * count * (count - 1) / 2
    floats = {"start_s", "first_s", "slope_s", "context", "local_context", "local_growth",
              "prefill_pairs", "local_pairs", "prefill_context", "kv_tokens"}  # fmt: skip
    return StepTable(
        **{
            name: np.array(column, dtype=np.float64 if name in floats else np.int64)
            for name, column in columns.items()
        }
    )


# --- requests ------------------------------------------------------------------------------------


def requests(
    *rows: tuple[float, int, int],
    parent: list[int] | None = None,
    pool: list[int] | None = None,
    users: tuple[int, ...] = (),
    texts: list[list[tuple[int, int]]] | None = None,
    continues: list[bool] | None = None,
) -> Requests:
    """(arrival, prompt, output) each; ``texts``: (stream, end) segments of every prompt."""
    n = len(rows)

    def ints(values: list[int]) -> Any:
        return np.array(values, dtype=np.int64)

    prefixes = None
    if texts is not None:
        prefixes = PrefixStreams(
            offsets=ints([0, *np.cumsum([len(text) for text in texts]).tolist()]),
            stream=ints([stream for text in texts for stream, _ in text]),
            end=ints([end for text in texts for _, end in text]),
            continues=np.array(continues or [False] * n),
        )
    made = Requests(
        arrival_s=np.array([row[0] for row in rows], dtype=np.float64),
        input_tokens=ints([row[1] for row in rows]),
        output_tokens=ints([row[2] for row in rows]),
        class_id=ints([0] * n),
        parent=ints(parent or [ROOT] * n),
        pool=ints(pool or [OPEN_LOOP] * n),
        session=ints([-1] * n),
        pool_concurrency=users,
        prefixes=prefixes,
    )
    made.check_integrity()
    return made
