"""From the arguments and options of ``trtllm-serve`` to a scenario's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.errors import UserError
from simulator.launch.checkpoints import ReadModel, read_checkpoint
from simulator.launch.found import (
    Found,
    KvSize,
    number,
    set_cache,
    set_weights,
    targets_of,
    whole,
    words,
)
from simulator.launch.options import Options, one_of
from simulator.models import load_model
from simulator.models.spec import MoeMlp
from simulator.scenario.pools import Role
from simulator.yamlio import closest

_CACHES = {"auto": None, "fp8": "fp8", "nvfp4": "fp4"}
_STATES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "auto": None}
_DRAFTS = {"Eagle": "eagle", "Eagle3": "eagle", "MTP": "mtp", "NGram": "ngram",
           "DraftTarget": "draft_model"}  # fmt: skip
_ROLES: dict[str, Role] = {"context": "prefill", "generation": "decode"}
_POLICIES = {"GUARANTEED_NO_EVICT": "full_reservation", "MAX_UTILIZATION": "continuous"}

ARGUMENTS = {
    "tensor_parallel_size", "pipeline_parallel_size", "moe_expert_parallel_size",
    "context_parallel_size", "max_batch_size", "max_num_tokens", "max_seq_len",
}  # fmt: skip
"""Options that are arguments as well."""

_READ = {
    "dtype", "kv_cache_config", "scheduler_config", "enable_chunked_prefill",
    "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio", "disable_overlap_scheduler",
    "cuda_graph_config", "enable_attention_dp", "moe_config", "speculative_config", "lora_config",
    "cache_transceiver_config",
}  # fmt: skip
_IDLE = {
    "backend", "print_iter_log", "enable_iter_perf_stats", "enable_iter_req_stats", "log_level",
    "num_postprocess_workers", "stream_interval", "trust_remote_code", "return_perf_metrics",
    "iter_stats_max_iterations", "perf_metrics_max_requests", "gpus_per_node",
}  # fmt: skip
_ASIDE = {
    "attn_backend", "enable_autotuner", "allreduce_strategy", "torch_compile_config",
    "enable_min_latency", "enable_layerwise_nvtx_marker", "peft_cache_config", "sampler_type",
    "attention_dp_config", "use_torch_sampler", "enable_trtllm_sampler", "load_format",
}  # fmt: skip


def read_tensorrt_llm(
    options: Options, model: ReadModel, native: str, extra: Mapping[str, Any], *, lenient: bool
) -> Found:
    """What the command and its file of options ask for.

    Args:
        options, model, native: as of `read_vllm`.
        extra: the options; they go before the arguments.
        lenient: unknown options are noted instead of refused.
    """
    found = Found("tensorrt-llm", model, notes=list(options.notes))
    _sort(found, extra, lenient=lenient)
    cache = dict(_section(extra, "kv_cache_config"))
    _parallelism(found, options, extra)
    set_weights(found, native, str(extra["dtype"]) if "dtype" in extra else None, None)
    kind = str(cache.get("dtype") or options.text("kv-cache-dtype") or "auto")
    set_cache(found, _CACHES[one_of(kind, _CACHES, "kv_cache_config.dtype")])
    if (state := cache.get("mamba_ssm_cache_dtype")) is not None:
        where = "kv_cache_config.mamba_ssm_cache_dtype"
        found.set("precision.recurrent_state", _STATES[one_of(str(state), _STATES, where)])
    for name, path in (
        ("max_batch_size", "engine.max_num_seqs"),
        ("max_num_tokens", "engine.max_num_batched_tokens"),
        ("max_seq_len", "engine.max_model_len"),
    ):
        found.set(path, whole(extra.get(name), name) or options.whole(name.replace("_", "-")))
    fraction = number(cache.get("free_gpu_memory_fraction"), "free_gpu_memory_fraction")
    if fraction is None:
        fraction = options.number("kv-cache-free-gpu-memory-fraction")
    found.set("engine.memory_fraction", fraction)
    found.set("engine.block_size", whole(cache.get("tokens_per_block"), "tokens_per_block"))
    reuse = cache.get("enable_block_reuse")
    found.set("engine.prefix_caching", False if options.flag("disable-kv-cache-reuse") else reuse)
    if (tokens := whole(cache.get("max_tokens"), "max_tokens")) is not None:
        found.kv = KvSize("tokens", tokens)
    if host := number(cache.get("host_cache_size"), "host_cache_size"):
        gib = host * found.devices_needed / (1 << 30)
        found.set("engine.kv_offload", [{"kind": "host", "gib": gib}])
    _steps(found, options, extra)
    _drafts(found, _section(extra, "speculative_config"))
    lora = _section(extra, "lora_config")
    if lora:
        made: dict[str, Any] = {
            "max_loras": whole(lora.get("max_loras"), "max_loras") or 4,
            "max_rank": whole(lora.get("max_lora_rank"), "max_lora_rank") or 64,
        }
        where = "lora_config.lora_target_modules"
        if modules := words(lora.get("lora_target_modules"), where):
            made["targets"] = targets_of(modules, where)
        found.set("engine.lora", made)
    role = options.text("server-role")
    if role is not None:
        found.role = _ROLES[one_of(role.lower(), _ROLES, "--server_role")]
    return found


def _section(extra: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = extra.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise UserError("must be a mapping of keys to values", where=name)
    return value or {}


def _sort(found: Found, extra: Mapping[str, Any], *, lenient: bool) -> None:
    for key in extra:
        if key in _IDLE:
            found.notes.append(f"ignored, for it has no effect on what is simulated: {key}")
        elif key in _ASIDE:
            found.notes.append(
                f"ignored, although it may change times that are not simulated: {key}"
            )
        elif key not in _READ | ARGUMENTS:
            if not lenient:
                near = closest(key, _READ | ARGUMENTS | _IDLE | _ASIDE)
                raise UserError(
                    "is no option that is known here", where=key,
                    hint=f"did you mean {near}? --lenient ignores it" if near
                    else "--lenient ignores it",
                )  # fmt: skip
            found.notes.append(f"ignored, although it is not known: {key}")


def _parallelism(found: Found, options: Options, extra: Mapping[str, Any]) -> None:
    def degree(name: str) -> int | None:
        return whole(extra.get(name), name) or options.whole(name.replace("_", "-"))

    devices = degree("tensor_parallel_size") or 1
    if extra.get("enable_attention_dp") or options.flag("enable-attention-dp"):
        found.set("parallelism.dp", devices)
        devices = 1
    found.set("parallelism.tp", devices)
    found.set("parallelism.pp", degree("pipeline_parallel_size"))
    found.set("parallelism.cp", degree("context_parallel_size"))
    found.set("parallelism.ep", degree("moe_expert_parallel_size"))
    balancer = _section(extra, "moe_config").get("load_balancer")
    if isinstance(balancer, Mapping) and "num_slots" in balancer:
        spec = load_model(found.model.name)
        experts = max(
            (group.mlp.experts for group in spec.groups if isinstance(group.mlp, MoeMlp)),
            default=0,
        )
        slots = whole(balancer["num_slots"], "moe_config.load_balancer.num_slots") or experts
        found.set("parallelism.redundant_experts", slots - experts)


def _steps(found: Found, options: Options, extra: Mapping[str, Any]) -> None:
    scheduler = _section(extra, "scheduler_config")
    kind = str(scheduler.get("capacity_scheduler_policy") or "GUARANTEED_NO_EVICT")
    where = "scheduler_config.capacity_scheduler_policy"
    policy: dict[str, Any] = {"kind": _POLICIES[one_of(kind, _POLICIES, where)]}
    chunked = extra.get("enable_chunked_prefill", options.flag("enable-chunked-prefill"))
    if chunked is not None:
        policy["chunked_prefill"] = bool(chunked)
    steps = whole(extra.get("batch_wait_timeout_iters"), "batch_wait_timeout_iters")
    if policy["kind"] == "full_reservation" and steps:
        ratio = number(extra.get("batch_wait_max_tokens_ratio"), "batch_wait_max_tokens_ratio")
        policy |= {"wait_steps": steps, "wait_fill": float(ratio or 1.0)}
    found.set("engine.policy", policy)
    if "disable_overlap_scheduler" in extra:
        found.set("engine.async_scheduling", not extra["disable_overlap_scheduler"])
    if "cuda_graph_config" in extra and extra["cuda_graph_config"] is None:
        found.set("engine.cuda_graphs", False)


def _drafts(found: Found, config: Mapping[str, Any]) -> None:
    if not config:
        return
    where = "speculative_config.decoding_type"
    kind = _DRAFTS[one_of(str(config.get("decoding_type")), _DRAFTS, where)]
    tokens = config.get("max_draft_len") or config.get("num_nextn_predict_layers")
    if not isinstance(tokens, int):
        raise UserError("must be a whole number", where="speculative_config.max_draft_len")
    made: dict[str, Any] = {"kind": kind, "tokens": tokens}
    if kind == "draft_model":
        draft = config.get("speculative_model_dir") or config.get("speculative_model")
        made["model"] = read_checkpoint(str(draft)).name
    if config.get("max_concurrency"):
        made["max_batch"] = whole(config["max_concurrency"], "max_concurrency")
    found.set("engine.speculative", made)
