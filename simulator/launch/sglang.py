"""``python -m sglang.launch_server``: the arguments of a pool.

Names and meanings are those of SGLang 0.5 (docs.sglang.io, "Server Arguments"). With attention
that is data-parallel, SGLang counts all ranks in ``--tp-size``, ``--max-running-requests`` and
``--chunked-prefill-size`` (python/sglang/srt/server_args.py).
"""

from __future__ import annotations

from math import floor
from pathlib import Path

from simulator.launch.cache import held_tokens, pinned
from simulator.launch.checkpoints import WIDE, checkpoint_of, repository_of
from simulator.launch.vllm import MODULES, same_size
from simulator.launch.written import Written
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.admission import QueueLengthRule
from simulator.scenario.lora import Lora
from simulator.scenario.policies import ContinuousPolicy, PrefillFirstPolicy
from simulator.scenario.queue import FcfsQueue, PriorityQueue
from simulator.scenario.speculative import (
    DraftModelSpeculative,
    EagleSpeculative,
    MtpSpeculative,
    NgramSpeculative,
)

CACHES = {"fp8": "fp8_e4m3", "fp4": "fp4_e2m1", "bf16": "bf16"}


def write_sglang(pool: ResolvedPool, name: str, base: Path | None = None) -> Written:
    """The command that starts a replica of ``pool``."""
    deployment = pool.deployment
    checkpoint = checkpoint_of(deployment, base, quantizes=("fp8",))
    command = ["python3", "-m", "sglang.launch_server", "--model-path", checkpoint.model]
    made = Written(command, checkpoint, told=dict(checkpoint.told))
    made.say(("precision.weights", "precision.activations", "precision.sparsity"))
    made.say("precision.pruned")
    if deployment.hardware.kind == "cpu":
        made.add("--device", "cpu")
    _parallelism(made, pool)
    _formats(made, pool)
    _memory(made, pool)
    _scheduling(made, pool)
    _speculation(made, pool)
    _adapters(made, deployment.scenario.engine.lora)
    if pool.role != "serve":
        made.add("--disaggregation-mode", pool.role)
        made.add("--disaggregation-transfer-backend", "nixl")
        made.notes.append(
            "requests reach prefill and decode servers through `python3 -m "
            "sglang_router.launch_router --pd-disaggregation`"
        )
    return made


def _parallelism(made: Written, pool: ResolvedPool) -> None:
    layout = pool.deployment.layout
    made.add("--tp-size", layout.tp * layout.dp, says="parallelism.tp")
    made.say(("parallelism.pp", "parallelism.dp", "parallelism.ep"))
    if layout.pp > 1:
        made.add("--pp-size", layout.pp)
    if layout.dp > 1:
        made.add("--dp-size", layout.dp)
        made.add("--enable-dp-attention")
    if layout.ep > 1:
        made.add("--ep-size", layout.ep)
    if layout.cp > 1:
        made.tell(
            "parallelism.cp",
            f"SGLang shares contexts only within the devices of --tp-size; written without, on "
            f"{layout.devices // layout.cp} devices",
        )
    if layout.redundant is not None:
        made.add("--enable-eplb")
        made.add(
            "--ep-num-redundant-experts", layout.redundant, says="parallelism.redundant_experts"
        )


def _formats(made: Written, pool: ResolvedPool) -> None:
    found, checkpoint = pool.deployment.precision, made.checkpoint
    made.add("--dtype", WIDE[checkpoint.dtype])
    if checkpoint.quantization:
        made.add("--quantization", checkpoint.quantization)
    if same_size(found.kv_cache, checkpoint.dtype):
        made.add("--kv-cache-dtype", "auto", says="precision.kv_cache")
    elif found.kv_cache in CACHES:
        made.add("--kv-cache-dtype", CACHES[found.kv_cache], says="precision.kv_cache")
    else:
        made.add("--kv-cache-dtype", "auto")
        made.tell(
            "precision.kv_cache",
            f"SGLang keeps the cache in 16 bits, fp8 or fp4, not {found.kv_cache}",
        )
    if pool.deployment.scenario.precision.recurrent_state is not None:
        made.add("--mamba-ssm-dtype", WIDE[found.recurrent_state], says="precision.recurrent_state")


def _memory(made: Written, pool: ResolvedPool) -> None:
    deployment, asked = pool.deployment, pool.deployment.scenario.engine
    limits, layout = deployment.limits, deployment.layout
    made.add("--context-length", limits.max_model_len, says="engine.max_model_len")
    made.add("--max-running-requests", limits.max_num_seqs * layout.dp, says="engine.max_num_seqs")
    if limits.kv_reserve:
        made.tell("engine.kv_allocation", "SGLang takes KV memory in pages")
    else:
        made.add("--page-size", limits.block_size, says="engine.block_size")
        made.say("engine.prefix_caching")
        if not limits.prefix_caching:
            made.add("--disable-radix-cache")
    fraction = asked.memory_fraction or deployment.engine.memory.fraction
    made.add("--mem-fraction-static", repr(fraction), says="engine.memory_fraction")
    if pinned(pool):
        each = held_tokens(pool) // layout.dp
        made.add("--max-total-tokens", each, says="engine.kv_cache_tokens")
    made.say("engine.kv_offload")
    for tier in asked.kv_offload:
        if tier.kind == "host":
            gb = floor(tier.gib * (1 << 30) / 1e9 / layout.devices)
            made.add("--enable-hierarchical-cache")
            made.add("--hicache-size", gb)
            made.tell(
                "engine.kv_offload",
                f"SGLang counts whole gigabytes a device: {gb} GB on each of {layout.devices}",
            )
        else:
            made.add("--hicache-storage-backend", "file")
            made.tell(
                "engine.kv_offload.ssd", "the size and the rates of drives follow from the machine"
            )


def _scheduling(made: Written, pool: ResolvedPool) -> None:
    deployment = pool.deployment
    limits, ranks = deployment.limits, deployment.layout.dp
    policy, budget = limits.policy, limits.max_num_batched_tokens
    made.say(("engine.policy", "engine.max_num_batched_tokens"))
    whole = isinstance(policy, ContinuousPolicy) and not policy.chunked_prefill
    made.add("--chunked-prefill-size", -1 if whole else budget * ranks)
    made.add("--max-prefill-tokens", budget)
    if not whole and budget % limits.block_size:
        made.notes.append(
            f"SGLang wants chunks of whole pages: make engine.max_num_batched_tokens a multiple of "
            f"{limits.block_size}"
        )
    if isinstance(policy, ContinuousPolicy):
        if whole:
            made.tell(
                "engine.policy", "without chunks SGLang computes prompts in steps of their own"
            )
        else:
            made.add("--enable-mixed-chunk")
    elif not isinstance(policy, PrefillFirstPolicy):
        made.tell("engine.policy", f"SGLang puts prompts first, or mixes them; not {policy.kind}")
    made.say(("engine.async_scheduling", "engine.cuda_graphs"))
    if not limits.async_scheduling:
        made.add("--disable-overlap-schedule")
    if limits.cuda_graphs is False:
        made.add("--disable-cuda-graph")
    elif limits.cuda_graphs == "decode_only":
        made.add("--disable-piecewise-cuda-graph")
    elif limits.cuda_graphs == "piecewise":
        made.tell("engine.cuda_graphs", "SGLang's decoding steps are whole graphs")
    if isinstance(limits.queue, FcfsQueue):
        made.add("--schedule-policy", "fcfs", says="engine.queue")
    elif isinstance(limits.queue, PriorityQueue):
        made.add("--enable-priority-scheduling", says="engine.queue")
        made.add("--schedule-low-priority-values-first")
    else:
        made.tell("engine.queue", f"SGLang has no order {limits.queue.kind}")
    admission = deployment.scenario.deployment.admission
    for rule in admission.rules if admission else ():
        if isinstance(rule, QueueLengthRule):
            made.add("--max-queued-requests", rule.max_waiting, says="deployment.admission")
            made.tell("deployment.admission.retries", "set in the clients")
    if admission and (len(admission.rules) > 1 or "deployment.admission" not in made.said):
        made.tell("deployment.admission.rules", "SGLang refuses by the length of its queue only")


def _speculation(made: Written, pool: ResolvedPool) -> None:
    asked = pool.deployment.scenario.engine.speculative
    if asked is None:
        return
    algorithm = {"draft_model": "STANDALONE", "eagle": "EAGLE", "mtp": "NEXTN", "ngram": "NGRAM"}
    name = algorithm[asked.kind]
    if isinstance(asked, EagleSpeculative) and asked.vocab is not None:
        name = "EAGLE3"
    made.add("--speculative-algorithm", name)
    match asked:
        case DraftModelSpeculative():
            draft = repository_of(asked.model)
            made.add("--speculative-draft-model-path", draft, says="engine.speculative.model")
            if asked.draft_tp is not None:
                made.tell("engine.speculative.draft_tp", "SGLang's drafts lie on all devices")
            if asked.precision.weights is not None:
                made.tell("engine.speculative.precision", "the draft's checkpoint has its type")
        case EagleSpeculative():
            head = f"<EAGLE head of {repository_of(pool.deployment.scenario.model)}>"
            made.add("--speculative-draft-model-path", head)
            made.notes.append("an EAGLE head is a checkpoint of its own: put its repository in")
        case MtpSpeculative() | NgramSpeculative():
            pass
    if asked.kind != "ngram":
        made.add("--speculative-num-steps", asked.tokens)
        made.add("--speculative-eagle-topk", 1)
    made.add("--speculative-num-draft-tokens", asked.tokens + 1, says="engine.speculative.tokens")
    if asked.max_batch is not None:
        made.tell("engine.speculative.max_batch", "SGLang drafts at every batch size")


def _adapters(made: Written, lora: Lora | None) -> None:
    if lora is None:
        return
    modules = [module for target in lora.targets for module in MODULES[target]]
    made.add("--enable-lora")
    made.add("--max-loras-per-batch", lora.max_loras, says="engine.lora.max_loras")
    made.add("--max-lora-rank", lora.max_rank, says="engine.lora.max_rank")
    made.add("--lora-target-modules", *modules, says="engine.lora.targets")
    made.notes.append("adapters are named with --lora-paths NAME=PATH")
