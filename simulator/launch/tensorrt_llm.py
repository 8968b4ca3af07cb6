"""``trtllm-serve``: the arguments of a pool and its file of options.

Names and meanings are those of TensorRT-LLM 1.0 (nvidia.github.io/TensorRT-LLM, "trtllm-serve" and
"LLM API reference"; tensorrt_llm/llmapi/llm_args.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.errors import ScenarioError
from simulator.launch.cache import held_tokens, pinned
from simulator.launch.checkpoints import WIDE, checkpoint_of, repository_of
from simulator.launch.vllm import same_size
from simulator.launch.written import Written
from simulator.models.spec import MoeMlp
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy
from simulator.scenario.queue import FcfsQueue
from simulator.scenario.speculative import (
    DraftModelSpeculative,
    EagleSpeculative,
    MtpSpeculative,
    NgramSpeculative,
)

MODULES = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "o": ("attn_dense",),
    "up": ("mlp_gate", "mlp_h_to_4h"),
    "down": ("mlp_4h_to_h",),
}
"""Linear layers by TensorRT-LLM's own names."""

CACHES = {"fp8": "fp8", "fp4": "nvfp4"}


def write_tensorrt_llm(pool: ResolvedPool, name: str, base: Path | None = None) -> Written:
    """The command that starts a replica of ``pool``, and ``name``.yaml beside it.

    Raises:
        ScenarioError: devices of another vendor than NVIDIA, or ranks of data-parallel attention of
            several devices each.
    """
    deployment, limits = pool.deployment, pool.deployment.limits
    if deployment.hardware.vendor != "NVIDIA":
        raise ScenarioError(
            f"TensorRT-LLM does not run on {deployment.hardware.title}",
            where="hardware.profile",
            hint="take a GPU of NVIDIA, or another engine",
        )
    checkpoint = checkpoint_of(deployment, base, quantizes=())
    made = Written(["trtllm-serve", checkpoint.model], checkpoint, told=dict(checkpoint.told))
    made.say(("precision.weights", "precision.activations", "precision.sparsity"))
    made.say("precision.pruned")
    options: dict[str, Any] = {}
    _parallelism(made, pool, options)
    made.add("--max_batch_size", limits.max_num_seqs, says="engine.max_num_seqs")
    made.add(
        "--max_num_tokens", limits.max_num_batched_tokens, says="engine.max_num_batched_tokens"
    )
    made.add("--max_seq_len", limits.max_model_len, says="engine.max_model_len")
    if checkpoint.dtype != "bf16":
        options["dtype"] = WIDE[checkpoint.dtype]
    _cache(made, pool, options)
    _scheduling(made, pool, options)
    _speculation(made, pool, options)
    _adapters(made, pool, options)
    if pool.role != "serve":
        made.add("--server_role", "context" if pool.role == "prefill" else "generation")
        options["cache_transceiver_config"] = {"backend": "DEFAULT"}
        made.notes.append("`trtllm-serve disaggregated` stands before the servers")
    made.options = (f"{name}.yaml", options)
    made.add("--extra_llm_api_options", f"{name}.yaml")
    return made


def _parallelism(made: Written, pool: ResolvedPool, options: dict[str, Any]) -> None:
    layout = pool.deployment.layout
    if layout.dp > 1 and layout.tp > 1:
        raise ScenarioError(
            "TensorRT-LLM's attention is data-parallel over every device or over none, and here "
            f"{layout.dp} ranks have {layout.tp} devices each",
            where="parallelism.tp",
            hint=f"set parallelism.tp: 1 with dp: {layout.dp * layout.tp}, or dp: 1",
        )
    made.add("--tp_size", layout.tp * layout.dp, says="parallelism.tp")
    made.say(("parallelism.pp", "parallelism.dp", "parallelism.ep", "parallelism.cp"))
    if layout.dp > 1:
        options["enable_attention_dp"] = True
    if layout.pp > 1:
        made.add("--pp_size", layout.pp)
    if layout.cp > 1:
        made.add("--cp_size", layout.cp)
    if layout.ep > 1:
        made.add("--ep_size", layout.ep)
    if layout.redundant is not None:
        experts = max(
            group.mlp.experts
            for group in pool.deployment.model.groups
            if isinstance(group.mlp, MoeMlp)
        )
        slots = {"num_slots": layout.stored(experts)}
        options["moe_config"] = {"load_balancer": slots}
        made.say("parallelism.redundant_experts")


def _cache(made: Written, pool: ResolvedPool, options: dict[str, Any]) -> None:
    deployment, asked = pool.deployment, pool.deployment.scenario.engine
    limits, found, layout = deployment.limits, deployment.precision, deployment.layout
    fraction = asked.memory_fraction or deployment.engine.memory.fraction
    made.say("engine.memory_fraction")
    cache: dict[str, Any] = {"free_gpu_memory_fraction": fraction}
    if limits.kv_reserve:
        made.tell("engine.kv_allocation", "TensorRT-LLM takes KV memory in blocks")
    else:
        cache |= {
            "enable_block_reuse": limits.prefix_caching,
            "tokens_per_block": limits.block_size,
        }
        made.say(("engine.block_size", "engine.prefix_caching"))
    if pinned(pool):
        cache["max_tokens"] = held_tokens(pool) // layout.dp
        made.say("engine.kv_cache_tokens")
    cache["dtype"] = CACHES.get(found.kv_cache, "auto")
    if found.kv_cache in CACHES or same_size(found.kv_cache, made.checkpoint.dtype):
        made.say("precision.kv_cache")
    else:
        made.tell(
            "precision.kv_cache",
            f"TensorRT-LLM keeps the cache in the model's type, fp8 or fp4, not {found.kv_cache}",
        )
    if deployment.scenario.precision.recurrent_state is not None:
        cache["mamba_ssm_cache_dtype"] = WIDE[found.recurrent_state]
        made.say("precision.recurrent_state")
    made.say("engine.kv_offload")
    for tier in asked.kv_offload:
        if tier.kind == "host":
            cache["host_cache_size"] = int(tier.gib * (1 << 30) / layout.devices)
        else:
            made.tell("engine.kv_offload", "TensorRT-LLM keeps no blocks on drives")
    options["kv_cache_config"] = cache


def _scheduling(made: Written, pool: ResolvedPool, options: dict[str, Any]) -> None:
    limits = pool.deployment.limits
    policy = limits.policy
    made.say(("engine.policy", "engine.async_scheduling", "engine.cuda_graphs"))
    if isinstance(policy, FullReservationPolicy | ContinuousPolicy):
        reserves = isinstance(policy, FullReservationPolicy)
        kind = "GUARANTEED_NO_EVICT" if reserves else "MAX_UTILIZATION"
        options["scheduler_config"] = {"capacity_scheduler_policy": kind}
        options["enable_chunked_prefill"] = policy.chunked_prefill
        if isinstance(policy, FullReservationPolicy) and policy.wait_steps:
            options["batch_wait_timeout_iters"] = policy.wait_steps
            options["batch_wait_max_tokens_ratio"] = policy.wait_fill
    else:
        made.tell("engine.policy", f"TensorRT-LLM's PyTorch backend does not batch {policy.kind}")
    options["disable_overlap_scheduler"] = not limits.async_scheduling or pool.role == "prefill"
    if limits.async_scheduling and pool.role == "prefill":
        made.tell("engine.async_scheduling", "context servers cannot plan ahead")
    sizes = pool.deployment.engine.cuda_graphs.sizes
    if limits.cuda_graphs is False:
        options["cuda_graph_config"] = None
    elif limits.cuda_graphs == "piecewise":
        made.tell("engine.cuda_graphs", "TensorRT-LLM's decoding steps are whole graphs")
    else:
        most = max(sizes) if sizes else 128
        options["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": most}
    if isinstance(limits.queue, FcfsQueue):
        made.say("engine.queue")
    else:
        made.tell("engine.queue", "trtllm-serve admits in the order of arrival")


def _speculation(made: Written, pool: ResolvedPool, options: dict[str, Any]) -> None:
    asked = pool.deployment.scenario.engine.speculative
    if asked is None:
        return
    config: dict[str, Any]
    match asked:
        case DraftModelSpeculative():
            config = {
                "decoding_type": "DraftTarget",
                "max_draft_len": asked.tokens,
                "speculative_model_dir": repository_of(asked.model),
            }
            made.say("engine.speculative.model")
            if asked.draft_tp is not None:
                made.tell("engine.speculative.draft_tp", "the draft lies on all devices")
            if asked.precision.weights is not None:
                made.tell("engine.speculative.precision", "the draft's checkpoint has its type")
        case EagleSpeculative():
            head = f"<EAGLE head of {repository_of(pool.deployment.scenario.model)}>"
            config = {
                "decoding_type": "Eagle",
                "max_draft_len": asked.tokens,
                "speculative_model_dir": head,
            }
            made.notes.append("an EAGLE head is a checkpoint of its own: put its repository in")
        case MtpSpeculative():
            config = {"decoding_type": "MTP", "num_nextn_predict_layers": asked.tokens}
        case NgramSpeculative():
            config = {
                "decoding_type": "NGram",
                "max_draft_len": asked.tokens,
                "max_matching_ngram_size": asked.tokens,
            }
    if asked.max_batch is not None:
        config["max_concurrency"] = asked.max_batch
        made.say("engine.speculative.max_batch")
    made.say("engine.speculative.tokens")
    options["speculative_config"] = config


def _adapters(made: Written, pool: ResolvedPool, options: dict[str, Any]) -> None:
    lora = pool.deployment.scenario.engine.lora
    if lora is None:
        return
    options["lora_config"] = {
        "max_loras": lora.max_loras,
        "max_lora_rank": lora.max_rank,
        "lora_target_modules": [one for target in lora.targets for one in MODULES[target]],
    }
    made.say("engine.lora")
    made.notes.append("adapters are named in the requests, by their folders")
