"""Random deployments of all kinds with little traffic, for what must hold of every one."""

from __future__ import annotations

from typing import Any

import numpy as np

DENSE = ["llama-3.1-8b", "qwen3-8b", "mistral-7b-v0.3", "gemma-3-12b"]
MOE = ["qwen3-30b-a3b", "mixtral-8x7b"]
DEVICES = ["h100-sxm", "a100-sxm-80gb", "l40s", "h200"]


def _one(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _length(rng: np.random.Generator, mean: float) -> dict[str, Any]:
    kind = _one(rng, ["fixed", "lognormal", "uniform"])
    if kind == "fixed":
        return {"kind": "fixed", "tokens": int(mean)}
    if kind == "uniform":
        return {"kind": "uniform", "low": max(1, int(mean / 4)), "high": int(1.75 * mean)}
    return {
        "kind": "lognormal", "mean": mean, "cv": float(rng.uniform(0.3, 1.2)),
        "low": 1, "high": int(3 * mean) + 2,
    }  # fmt: skip


def _workload(rng: np.random.Generator) -> dict[str, Any]:
    n = int(rng.integers(20, 90))
    rate = float(10 ** rng.uniform(-0.3, 2.2))
    arrivals = _one(
        rng,
        [
            {"kind": "poisson", "rate_per_s": rate},
            {"kind": "poisson", "rate_per_s": rate},
            {"kind": "gamma", "rate_per_s": rate, "cv": 2.0},
            {"kind": "constant", "rate_per_s": rate},
            {"kind": "burst"},
            {"kind": "closed_loop", "concurrency": int(rng.integers(1, 12))},
        ],
    )
    prompt = float(10 ** rng.uniform(1.3, 3.5))
    output = float(10 ** rng.uniform(0.0, 2.3))
    lengths = {
        "kind": "independent", "input": _length(rng, prompt), "output": _length(rng, output),
    }  # fmt: skip
    kind = rng.random()
    if kind < 0.12 and arrivals["kind"] != "closed_loop":
        return {
            "kind": "sessions", "requests": n, "arrivals": arrivals,
            "turns": {"kind": "uniform", "low": 1, "high": 5},
            "user_tokens": _length(rng, prompt / 3), "output_tokens": _length(rng, output),
            "think_time_s": 0.2,
        }  # fmt: skip
    if kind < 0.2:
        return {
            "kind": "batch", "requests": n, "lengths": lengths,
            "max_in_flight": int(rng.integers(1, 40)),
        }  # fmt: skip
    found = {"kind": "synthetic", "requests": n, "arrivals": arrivals, "lengths": lengths}
    if rng.random() < 0.2:
        tokens = int(rng.integers(1, max(2, int(prompt / 4))))
        found["shared_prefix"] = {"tokens": tokens, "groups": int(rng.integers(1, 4))}
        found["lengths"]["input"] = {"kind": "uniform", "low": tokens + 1, "high": tokens + 400}
    if rng.random() < 0.1:
        found["samples"] = {"n": 2, "best_of": int(rng.integers(2, 4))}
    return found


def _engine(rng: np.random.Generator) -> dict[str, Any]:
    engine: dict[str, Any] = {"profile": _one(rng, ["vllm", "sglang", "tensorrt-llm", "tgi"])}
    policy = _one(
        rng,
        [None, None, None, {"kind": "continuous"}, {"kind": "prefill_first"},
         {"kind": "full_reservation"}, {"kind": "static", "batch_size": 8},
         {"kind": "dynamic", "batch_size": 8, "window_ms": 20.0}],
    )  # fmt: skip
    if policy is not None:
        engine["policy"] = policy
    if rng.random() < 0.4:
        engine["max_num_seqs"] = int(_one(rng, [1, 2, 4, 16, 100]))
    batches = policy is not None and policy["kind"] in ("static", "dynamic")
    if rng.random() < 0.3 and not batches:
        engine["max_num_batched_tokens"] = int(_one(rng, [512, 1024, 4096]))
        engine["max_num_seqs"] = int(_one(rng, [2, 8, 64]))
    if rng.random() < 0.25:
        engine["kv_cache_tokens"] = int(_one(rng, [16_384, 20_000, 40_000]))
    if rng.random() < 0.3:
        engine["cuda_graphs"] = _one(rng, [False, True, "decode_only"])
    if rng.random() < 0.3:
        engine["async_scheduling"] = bool(rng.random() < 0.5)
    if rng.random() < 0.3 and not batches:
        engine["prefix_caching"] = bool(rng.random() < 0.7)
    if rng.random() < 0.15 and not batches:
        engine["speculative"] = {
            "kind": "ngram", "tokens": 3, "acceptance": 0.7,
        }  # fmt: skip
    return engine


def random_scenario(seed: int) -> dict[str, Any]:
    """A scenario as a mapping; it may be refused (no memory, an impossible combination)."""
    rng = np.random.default_rng([seed, 0x706C616E])
    moe = rng.random() < 0.25
    parallel: dict[str, Any] = {"tp": int(_one(rng, [1, 1, 2, 4]))}
    extra = rng.random()
    if extra < 0.12:
        parallel["pp"] = 2
    elif extra < 0.2 and moe:
        parallel |= {"tp": 1, "dp": 2, "ep": 2}
    elif extra < 0.26:
        parallel["cp"] = 2
    deployment: dict[str, Any] = {"replicas": int(rng.integers(1, 5))}
    if extra > 0.94:
        parallel["fsdp"] = 2
        deployment["replicas"] = 2 * int(rng.integers(1, 3))
    if rng.random() < 0.2:
        deployment["network_ms"] = float(rng.uniform(0, 30))
    if rng.random() < 0.1:
        deployment["timeout_s"] = 2.0
    if rng.random() < 0.3:
        deployment["router"] = {"kind": "least_outstanding"}
    found = {
        "model": _one(rng, MOE if moe else DENSE),
        "hardware": _one(rng, DEVICES),
        "engine": _engine(rng),
        "parallelism": parallel,
        "deployment": deployment,
        "workload": _workload(rng),
        "slo": {"ttft_ms": float(10 ** rng.uniform(1, 4)), "tpot_ms": 30.0},
        "energy": {"pue": 1.2, "grid_gco2e_per_kwh": 300.0},
        "measurement": {
            "seed": seed, "warmup_fraction": float(_one(rng, [0.0, 0.05, 0.4])),
            "include_drain": bool(rng.random() < 0.2),
        },
    }  # fmt: skip
    if rng.random() < 0.3:
        found["precision"] = {"weights": "fp8"}
    return found


def random_pair(seed: int) -> dict[str, Any]:
    """The same with prefill and decode pools."""
    rng = np.random.default_rng([seed, 0x70616972])
    found = random_scenario(seed)
    found["model"] = _one(rng, DENSE)
    found["parallelism"] = {}
    found["engine"] = {"profile": "vllm", "prefix_caching": bool(rng.random() < 0.5)}
    if rng.random() < 0.3:
        found["engine"]["kv_cache_tokens"] = int(_one(rng, [16_384, 40_000]))
    found["workload"].pop("samples", None)
    found["deployment"] = {
        "network_ms": float(_one(rng, [0.0, 10.0])),
        "transfer": {
            "mode": _one(rng, ["by_layer", "whole"]),
            "gb_per_s": float(_one(rng, [1.0, 50.0])),
        },
        "pools": [
            {
                "name": role, "role": role, "replicas": int(rng.integers(1, 4)),
                "hardware": _one(rng, DEVICES), "parallelism": {"tp": int(_one(rng, [1, 2]))},
            }
            for role in ("prefill", "decode")
        ],
    }  # fmt: skip
    return found
