"""``vllm serve``: the arguments of a pool.

Names and meanings are those of https://docs.vllm.ai/en/stable/configuration/engine_args/.
"""

from __future__ import annotations

import json
from pathlib import Path

from simulator.cluster.feasible import largest_that_fits
from simulator.launch.cache import pinned
from simulator.launch.checkpoints import WIDE, checkpoint_of, repository_of
from simulator.launch.written import Written
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.lora import Lora
from simulator.scenario.policies import ContinuousPolicy
from simulator.scenario.queue import FcfsQueue, PriorityQueue
from simulator.scenario.speculative import (
    DraftModelSpeculative,
    EagleSpeculative,
    MtpSpeculative,
    NgramSpeculative,
)

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""LoRA ranks that vLLM has slots for (vllm/config/lora.py)."""

MODULES = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Linear layers by the names of Hugging Face checkpoints."""

CACHES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "fp8",
    "int8": "int8_per_token_head",
    "int4": "int4_per_token_head",
    "fp4": "nvfp4",
}

GRAPHS = {"decode_only": "FULL_DECODE_ONLY", "piecewise": "PIECEWISE"}


def write_vllm(pool: ResolvedPool, name: str, base: Path | None = None) -> Written:
    """The command that starts a replica of ``pool``."""
    deployment, limits = pool.deployment, pool.deployment.limits
    checkpoint = checkpoint_of(deployment, base, quantizes=("fp8",))
    made = Written(["vllm", "serve", checkpoint.model], checkpoint, told=dict(checkpoint.told))
    made.say(("precision.weights", "precision.activations", "precision.sparsity"))
    made.say("precision.pruned")
    _parallelism(made, pool)
    _formats(made, pool)
    _longest(made, pool)
    made.add("--max-num-seqs", limits.max_num_seqs, says="engine.max_num_seqs")
    made.add(
        "--max-num-batched-tokens", limits.max_num_batched_tokens,
        says="engine.max_num_batched_tokens",
    )  # fmt: skip
    _memory(made, pool)
    _scheduling(made, pool)
    _speculation(made, pool)
    _adapters(made, deployment.scenario.engine.lora)
    if pool.role != "serve":
        role = "kv_producer" if pool.role == "prefill" else "kv_consumer"
        transfer = {"kv_connector": "NixlConnector", "kv_role": role}
        made.add("--kv-transfer-config", json.dumps(transfer))
        made.notes.append(
            "requests reach prefill and then decode servers through a proxy that speaks NIXL's "
            "handshake, e.g. llm-d's or the one among vLLM's examples"
        )
    return made


def _longest(made: Written, pool: ResolvedPool) -> None:
    """VLLM does not start where its KV cache cannot hold one sequence of the longest length."""
    most = pool.deployment.limits.max_model_len
    fits = most if pool.resolved.layout.reserve else largest_that_fits(pool.resolved.layout, most)
    if fits < most:
        made.notes.append(
            f"--max-model-len is {fits:,}, what the KV cache holds, instead of {most:,}: vLLM does "
            "not start where one sequence of that length does not fit"
        )
    made.add("--max-model-len", fits, says="engine.max_model_len")


def _parallelism(made: Written, pool: ResolvedPool) -> None:
    layout = pool.deployment.layout
    made.add("--tensor-parallel-size", layout.tp, says="parallelism.tp")
    made.say(("parallelism.pp", "parallelism.dp", "parallelism.ep", "parallelism.cp"))
    if layout.pp > 1:
        made.add("--pipeline-parallel-size", layout.pp)
    if layout.dp > 1:
        made.add("--data-parallel-size", layout.dp)
    if layout.cp > 1:
        made.add("--prefill-context-parallel-size", layout.cp)
        made.add("--decode-context-parallel-size", layout.cp)  # the cache of the same ranks
    if layout.ep > 1:
        made.add("--enable-expert-parallel")
        if layout.ep != layout.tp * layout.dp:
            made.tell(
                "parallelism.ep",
                f"experts lie on all {layout.tp * layout.dp} devices of a stage or on none apart; "
                "written as all",
            )
    if layout.redundant is not None:
        made.add("--enable-eplb")
        experts = json.dumps({"num_redundant_experts": layout.redundant})
        made.add("--eplb-config", experts, says="parallelism.redundant_experts")


def _formats(made: Written, pool: ResolvedPool) -> None:
    found, asked = pool.deployment.precision, pool.deployment.scenario.precision
    checkpoint = made.checkpoint
    made.add("--dtype", WIDE[checkpoint.dtype])
    if checkpoint.quantization:
        made.add("--quantization", checkpoint.quantization)
    if same_size(found.kv_cache, checkpoint.dtype):
        made.add("--kv-cache-dtype", "auto", says="precision.kv_cache")
    elif found.kv_cache in CACHES:
        made.add("--kv-cache-dtype", CACHES[found.kv_cache], says="precision.kv_cache")
    else:
        made.add("--kv-cache-dtype", "auto")
        made.tell("precision.kv_cache", f"vLLM keeps no cache in {found.kv_cache}")
    if asked.recurrent_state is not None:
        made.add(
            "--mamba-ssm-cache-dtype",
            WIDE[found.recurrent_state],
            says="precision.recurrent_state",
        )


def same_size(kv: str, dtype: str) -> bool:
    """Whether a cache in the model's own type has elements of the size that is wanted."""
    return kv == dtype or {kv, dtype} <= {"bf16", "fp16"}


def _memory(made: Written, pool: ResolvedPool) -> None:
    deployment, asked = pool.deployment, pool.deployment.scenario.engine
    limits, memory = deployment.limits, deployment.memory
    if limits.kv_reserve:
        made.tell("engine.kv_allocation", "vLLM takes KV memory in blocks")
    else:
        made.add("--block-size", limits.block_size, says="engine.block_size")
        made.add(
            "--enable-prefix-caching" if limits.prefix_caching else "--no-enable-prefix-caching",
            says="engine.prefix_caching",
        )
    fraction = asked.memory_fraction or deployment.engine.memory.fraction
    made.add("--gpu-memory-utilization", repr(fraction), says="engine.memory_fraction")
    if asked.kv_watermark:
        made.add("--watermark", repr(asked.kv_watermark), says="engine.kv_watermark")
    if pinned(pool):
        held = int(memory.kv_blocks // deployment.layout.dp * memory.block_bytes)
        made.add("--kv-cache-memory-bytes", held, says="engine.kv_cache_tokens")
    host = [tier for tier in asked.kv_offload if tier.kind == "host"]
    if host:
        made.add("--kv-offloading-size", repr(host[0].gib), says="engine.kv_offload.host")
        made.add("--kv-offloading-backend", "native")
    made.say("engine.kv_offload")
    if len(host) < len(asked.kv_offload):
        made.tell("engine.kv_offload", "drives need a connector of their own, such as LMCache")


def _scheduling(made: Written, pool: ResolvedPool) -> None:
    limits = pool.deployment.limits
    policy = limits.policy
    if isinstance(policy, ContinuousPolicy):
        made.add(
            "--enable-chunked-prefill" if policy.chunked_prefill else "--no-enable-chunked-prefill",
            says="engine.policy",
        )
        if not policy.chunked_prefill and limits.max_num_batched_tokens < limits.max_model_len:
            made.notes.append(
                "vLLM starts without chunks only if --max-num-batched-tokens is at least "
                "--max-model-len: set engine.max_model_len"
            )
    else:
        made.tell("engine.policy", f"vLLM batches continuously, not as {policy.kind}")
    made.add(
        "--async-scheduling" if limits.async_scheduling else "--no-async-scheduling",
        says="engine.async_scheduling",
    )
    made.say("engine.cuda_graphs")
    if limits.cuda_graphs is False:
        made.add("--enforce-eager")
    elif limits.cuda_graphs is not True:
        mode = {"cudagraph_mode": GRAPHS[limits.cuda_graphs]}
        made.add("--compilation-config", json.dumps(mode))
    if isinstance(limits.queue, FcfsQueue | PriorityQueue):
        made.add("--scheduling-policy", limits.queue.kind, says="engine.queue")
    else:
        made.tell("engine.queue", f"vLLM admits by arrival or priority, not {limits.queue.kind}")


def _speculation(made: Written, pool: ResolvedPool) -> None:
    asked = pool.deployment.scenario.engine.speculative
    if asked is None:
        return
    repository = repository_of(pool.deployment.scenario.model)
    config: dict[str, object]
    match asked:
        case DraftModelSpeculative():
            degree = asked.draft_tp or pool.deployment.layout.tp
            config = {
                "method": "draft_model",
                "model": repository_of(asked.model),
                "draft_tensor_parallel_size": degree,
            }
            made.say(("engine.speculative.model", "engine.speculative.draft_tp"))
            if asked.precision.weights is not None:
                made.tell("engine.speculative.precision", "the draft's checkpoint has its type")
        case EagleSpeculative():
            method = "eagle" if asked.vocab is None else "eagle3"
            config = {"method": method, "model": f"<EAGLE head of {repository}>"}
            made.notes.append("an EAGLE head is a checkpoint of its own: put its repository in")
        case MtpSpeculative():
            config = {"method": "mtp"}
        case NgramSpeculative():
            config = {"method": "ngram", "prompt_lookup_max": asked.tokens}
    config["num_speculative_tokens"] = asked.tokens
    made.add("--speculative-config", json.dumps(config), says="engine.speculative.tokens")
    if asked.max_batch is not None:
        made.tell("engine.speculative.max_batch", "vLLM drafts at every batch size")


def _adapters(made: Written, lora: Lora | None) -> None:
    if lora is None:
        return
    rank = next((rank for rank in RANKS if rank >= lora.max_rank), RANKS[-1])
    made.add("--enable-lora")
    made.add("--max-loras", lora.max_loras, says="engine.lora.max_loras")
    made.add("--max-lora-rank", rank, says="engine.lora.max_rank")
    if rank != lora.max_rank:
        made.tell("engine.lora.max_rank", f"vLLM has slots for ranks {RANKS}; written as {rank}")
    modules = [module for target in lora.targets for module in MODULES[target]]
    made.add("--lora-target-modules", *modules, says="engine.lora.targets")
    made.notes.append("adapters are named with --lora-modules NAME=PATH")
