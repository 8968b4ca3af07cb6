"""Columns of a file of measured points, and how their cells are read."""

from __future__ import annotations

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": (),
    "model": ("model_path",),
    "system": ("hardware", "gpu"),
    "engine": ("backend", "framework"),
    "version": ("engine_version", "backend_version"),
    "precision": (),
    "weights": ("weight_dtype",),
    "activations": (),
    "kv_cache": ("kv_dtype",),
    "isl": ("input_tokens",),
    "osl": ("output_tokens",),
    "concurrency": (),
    "rate_per_s": ("request_rate",),
    "tp": ("tp_size",),
    "replicas": (),
    "num_prompts": ("n_requests",),
    "range_ratio": (),
    "input_cv": (),
    "output_cv": (),
    "until_queue_empty": (),
    "bench_limits": (),
    "max_num_seqs": (),
    "max_num_batched_tokens": (),
    "max_model_len": (),
    "kv_cache_tokens": ("kv_tokens_capacity",),
    "memory_fraction": (),
    "prefix_caching": (),
    "random_prompts": (),
    "async_scheduling": (),
    "measured_on": (),
    "statistic": (),
    "ttft_ms": ("silicon_ttft_ms",),
    "tpot_ms": ("silicon_tpot_ms",),
    "e2e_ms": ("e2el_ms",),
    "itl_ms": (),
    "itl_ms_p50": (),
    "itl_ms_p90": (),
    "itl_ms_p95": (),
    "itl_ms_p99": (),
    "output_tokens_per_s": (),
    "energy_j_per_output_token": (),
    "power_w": ("avg_power_w_all_gpus",),
    "avg_batch_size": (),
    "load_kind": (),
    "load": (),
    "task": (),
    "architecture": (),
    "parallelism": (),
    "n_gpus": (),
    "mode": (),
    "pp": ("pp_size",),
    "attention_dp": ("attention_dp_size",),
    "moe_ep": ("moe_ep_size", "ep"),
    "moe_tp": ("moe_tp_size",),
    "prefill_workers": ("prefill_num_workers",),
    "prefill_tp": ("prefill_tp_size",),
    "prefill_pp": ("prefill_pp_size",),
    "prefill_dp": ("prefill_attention_dp_size",),
    "prefill_ep": ("prefill_moe_ep_size",),
    "decode_workers": ("decode_num_workers",),
    "decode_tp": ("decode_tp_size",),
    "decode_pp": ("decode_pp_size",),
    "decode_dp": ("decode_attention_dp_size",),
    "decode_ep": ("decode_moe_ep_size",),
}
"""Columns of a row a deployment, with other names they may have."""

OF_THE_PUBLISHER = (
    "gemm_quant_mode",
    "moe_quant_mode",
    "batch_size",
    "prefill_batch_size",
    "decode_batch_size",
    "prefill_moe_tp_size",
    "decode_moe_tp_size",
)  # fmt: skip
"""Columns of served_points/open.csv that say nothing more about rows that can be simulated."""

NAMES = {name: key for key, names in COLUMNS.items() for name in (key, *names)}
REQUIRED = ("model", "system", "engine", "isl", "osl")
WHOLE = (
    "concurrency", "tp", "replicas", "num_prompts", "max_num_seqs", "max_num_batched_tokens",
    "max_model_len", "kv_cache_tokens", "pp", "attention_dp", "moe_ep", "moe_tp",
)  # fmt: skip
APART = tuple(
    f"{phase}_{key}"
    for phase in ("prefill", "decode")
    for key in ("workers", "tp", "pp", "dp", "ep")
)
"""Columns of deployments with prefill and decode apart."""

PERCENTILES = ("itl_ms_p50", "itl_ms_p90", "itl_ms_p95", "itl_ms_p99")
LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms", "itl_ms")
RATES = ("output_tokens_per_s", "energy_j_per_output_token", "power_w", "avg_batch_size")
FIGURES = (*LATENCIES, *PERCENTILES, *RATES)
REAL = (
    "isl", "osl", "rate_per_s", "range_ratio", "memory_fraction", "input_cv", "output_cv",
    *FIGURES,
)  # fmt: skip
FLAGS = (
    "prefix_caching",
    "random_prompts",
    "async_scheduling",
    "until_queue_empty",
    "bench_limits",
)
STATISTICS = {"mean": "mean", "average": "mean", "median": "p50"} | {
    name: name for name in ("p50", "p90", "p95", "p99")
}
