"""From the arguments of SGLang's server to a scenario's fields."""

from __future__ import annotations

from typing import Any

from simulator.errors import UserError
from simulator.launch.checkpoints import ReadModel, read_checkpoint
from simulator.launch.found import Found, KvSize, set_cache, set_weights, targets_of
from simulator.launch.options import Options, one_of
from simulator.scenario.pools import Role

_CACHES = {
    "auto": None, "bf16": "bf16", "bfloat16": "bf16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp4_e2m1": "fp4",
}  # fmt: skip
_STATES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_DRAFTS = {
    "STANDALONE": "draft_model", "EAGLE": "eagle", "EAGLE3": "eagle", "NEXTN": "mtp",
    "NGRAM": "ngram",
}  # fmt: skip
_ROLES: dict[str, Role] = {"null": "serve", "prefill": "prefill", "decode": "decode"}


def read_sglang(options: Options, model: ReadModel, native: str) -> Found:
    """What the command asks for. Arguments as of `read_vllm`."""
    found = Found("sglang", model, notes=list(options.notes))
    ranks = _parallelism(found, options)
    set_weights(found, native, options.text("dtype"), options.text("quantization"))
    cache = one_of(options.text("kv-cache-dtype") or "auto", _CACHES, "--kv-cache-dtype")
    set_cache(found, _CACHES[cache])
    if (state := options.text("mamba-ssm-dtype")) is not None:
        found.set("precision.recurrent_state", _STATES[one_of(state, _STATES, "--mamba-ssm-dtype")])
    found.set("engine.max_model_len", options.whole("context-length"))
    running = options.whole("max-running-requests")
    found.set("engine.max_num_seqs", running and max(1, running // ranks))
    found.set("engine.block_size", options.whole("page-size"))
    found.set("engine.memory_fraction", options.number("mem-fraction-static"))
    if options.flag("disable-radix-cache"):
        found.set("engine.prefix_caching", False)
    if options.flag("disable-overlap-schedule"):
        found.set("engine.async_scheduling", False)
    if options.flag("disable-cuda-graph"):
        found.set("engine.cuda_graphs", False)
    elif options.flag("disable-piecewise-cuda-graph"):
        found.set("engine.cuda_graphs", "decode_only")
    if (tokens := options.whole("max-total-tokens")) is not None:
        found.kv = KvSize("tokens", tokens)
    _steps(found, options, ranks)
    _order(found, options)
    _offload(found, options)
    _drafts(found, options)
    if options.flag("enable-lora"):
        lora: dict[str, Any] = {
            "max_loras": options.whole("max-loras-per-batch") or 8,
            "max_rank": options.whole("max-lora-rank") or 16,
        }
        if modules := options.words("lora-target-modules"):
            lora["targets"] = targets_of(modules, "--lora-target-modules")
        found.set("engine.lora", lora)
    role = one_of(options.text("disaggregation-mode") or "null", _ROLES, "--disaggregation-mode")
    found.role = _ROLES[role]
    return found


def _parallelism(found: Found, options: Options) -> int:
    """Sets the degrees; returns the ranks of data-parallel attention."""
    devices, ranks = options.whole("tensor-parallel-size") or 1, 1
    copies = options.whole("data-parallel-size") or 1
    if copies > 1 and not options.flag("enable-dp-attention"):
        raise UserError(
            f"without --enable-dp-attention these are {copies} servers of their own",
            where="--dp-size",
            hint="leave it out and give --replicas",
        )
    if copies > 1:
        if devices % copies:
            raise UserError(f"does not divide --tp-size {devices}", where="--dp-size")
        devices, ranks = devices // copies, copies
        found.set("parallelism.dp", ranks)
    found.set("parallelism.tp", devices)
    found.set("parallelism.pp", options.whole("pipeline-parallel-size"))
    ep = options.whole("expert-parallel-size")
    found.set("parallelism.ep", ep)
    copies_of_experts = options.whole("ep-num-redundant-experts")
    if options.flag("enable-eplb") and (ep or 1) > 1:
        found.set("parallelism.redundant_experts", copies_of_experts or 0)
    return ranks


def _steps(found: Found, options: Options, ranks: int) -> None:
    chunk, most = options.whole("chunked-prefill-size"), options.whole("max-prefill-tokens")
    mixed = options.flag("enable-mixed-chunk")
    if chunk is not None and chunk <= 0:
        found.set("engine.max_num_batched_tokens", most)
        found.notes.append("--chunked-prefill-size -1: a prompt is a step, as large as it is")
    else:
        found.set("engine.max_num_batched_tokens", chunk and max(1, chunk // ranks))
    if mixed:
        found.set("engine.policy", {"kind": "continuous"})


def _order(found: Found, options: Options) -> None:
    policy = options.text("schedule-policy") or "fcfs"
    if policy in ("lpm", "dfs-weight", "random", "lof"):
        found.notes.append(f"--schedule-policy {policy}: taken as fcfs")
    else:
        one_of(policy, ("fcfs", "priority"), "--schedule-policy")
    if options.flag("enable-priority-scheduling"):
        if not options.flag("schedule-low-priority-values-first"):
            found.notes.append(
                "--enable-priority-scheduling: the lowest priority goes first here, the highest "
                "there"
            )
        found.set("engine.queue", {"kind": "priority"})
    if (waiting := options.whole("max-queued-requests")) is not None:
        rules = [{"kind": "queue_length", "max_waiting": waiting}]
        found.set("deployment.admission", {"rules": rules})


def _offload(found: Found, options: Options) -> None:
    if not options.flag("enable-hierarchical-cache"):
        return
    found.hicache_gb = options.number("hicache-size")
    if not found.hicache_gb:
        raise UserError(
            "a host cache by its ratio to the device's has no size here",
            where="--hicache-ratio",
            hint="give --hicache-size in gigabytes a device",
        )
    if options.text("hicache-storage-backend"):
        found.notes.append(
            "--hicache-storage-backend: drives have rates; add them to engine.kv_offload"
        )


def _drafts(found: Found, options: Options) -> None:
    algorithm = options.text("speculative-algorithm")
    if algorithm is None:
        return
    kind = _DRAFTS[one_of(algorithm, _DRAFTS, "--speculative-algorithm")]
    verified = options.whole("speculative-num-draft-tokens")
    steps, branches = (
        options.whole("speculative-num-steps"),
        options.whole("speculative-eagle-topk"),
    )
    if (branches or 1) > 1:
        found.notes.append("--speculative-eagle-topk: trees of drafts are taken as chains")
    tokens = steps or (verified - 1 if verified else None)
    if not tokens:
        raise UserError(
            "the number of drafted tokens is missing", where="--speculative-num-steps",
            hint="SGLang would choose it by the model",
        )  # fmt: skip
    made: dict[str, Any] = {"kind": kind, "tokens": tokens}
    if kind == "draft_model":
        draft = options.text("speculative-draft-model-path")
        if draft is None:
            raise UserError("is missing", where="--speculative-draft-model-path")
        made["model"] = read_checkpoint(draft).name
    found.set("engine.speculative", made)
