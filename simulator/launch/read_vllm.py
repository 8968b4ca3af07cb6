"""From the arguments of ``vllm serve`` to a scenario's fields."""

from __future__ import annotations

from typing import Any

from simulator.errors import UserError
from simulator.launch.checkpoints import ReadModel, read_checkpoint
from simulator.launch.found import Found, KvSize, set_cache, set_weights, targets_of
from simulator.launch.options import Options, one_of
from simulator.scenario.pools import Role

_GRAPHS: dict[str, bool | str] = {
    "NONE": False,
    "FULL_DECODE_ONLY": "decode_only",
    "PIECEWISE": "piecewise",
    "FULL_AND_PIECEWISE": True,
    "FULL": True,
}
_CACHES = {
    "auto": None, "bfloat16": "bf16", "float16": "fp16",
    "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_inc": "fp8", "fp8_ds_mla": "fp8",
    "fp8_per_token_head": "fp8", "int8_per_token_head": "int8", "int4_per_token_head": "int4",
    "nvfp4": "fp4", "nvfp4_4over6": "fp4", "nvfp4_ds_mla": "fp4",
}  # fmt: skip
_ROLES: dict[str, Role] = {"kv_producer": "prefill", "kv_consumer": "decode"}


def read_vllm(options: Options, model: ReadModel, native: str) -> Found:
    """What the command asks for.

    Args:
        options: its arguments.
        model: what it serves.
        native: type of the model's published weights.

    Raises:
        UserError: a value that is none, or that cannot be simulated.
    """
    found = Found("vllm", model, notes=list(options.notes))
    _parallelism(found, options)
    set_weights(found, native, options.text("dtype"), options.text("quantization"))
    cache = one_of(options.text("kv-cache-dtype") or "auto", _CACHES, "--kv-cache-dtype")
    set_cache(found, _CACHES[cache])
    state = options.text("mamba-ssm-cache-dtype")
    if state not in (None, "auto"):
        types = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
        found.set(
            "precision.recurrent_state",
            types[one_of(str(state), types, "--mamba-ssm-cache-dtype")],
        )
    longest = options.text("max-model-len")
    if longest in ("auto", "-1"):
        found.notes.append("--max-model-len auto: taken as the model's whole context")
    else:
        found.set("engine.max_model_len", options.whole("max-model-len"))
    found.set("engine.max_num_seqs", options.whole("max-num-seqs"))
    found.set("engine.max_num_batched_tokens", options.whole("max-num-batched-tokens"))
    found.set("engine.block_size", options.whole("block-size"))
    found.set("engine.memory_fraction", options.number("gpu-memory-utilization"))
    found.set("engine.prefix_caching", options.flag("enable-prefix-caching"))
    found.set("engine.async_scheduling", options.flag("async-scheduling"))
    if options.flag("enable-chunked-prefill") is False:
        found.set("engine.policy", {"kind": "continuous", "chunked_prefill": False})
    if (held := options.whole("kv-cache-memory-bytes")) is not None:
        found.kv = KvSize("bytes", held)
    elif (blocks := options.whole("num-gpu-blocks-override")) is not None:
        found.kv = KvSize("blocks", blocks)
    host = options.number("kv-offloading-size")
    if host:
        one_of(options.text("kv-offloading-backend") or "native", ["native"],
               "--kv-offloading-backend")  # fmt: skip
        found.set("engine.kv_offload", [{"kind": "host", "gib": host}])
    _graphs(found, options)
    order = one_of(options.text("scheduling-policy") or "fcfs", ("fcfs", "priority"),
                   "--scheduling-policy")  # fmt: skip
    if order != "fcfs":
        found.set("engine.queue", {"kind": order})
    _drafts(found, _speculation(options))
    found.set("engine.kv_watermark", options.number("watermark"))
    if options.flag("enable-lora"):
        modules = options.words("lora-target-modules")
        lora: dict[str, Any] = {
            "max_loras": options.whole("max-loras") or 1,
            "max_rank": options.whole("max-lora-rank") or 16,
        }
        if modules:
            lora["targets"] = targets_of(modules, "--lora-target-modules")
        found.set("engine.lora", lora)
    _transfer(found, options.mapping("kv-transfer-config"))
    return found


def _parallelism(found: Found, options: Options) -> None:
    sizes = {
        "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size",
        "dp": "data-parallel-size", "cp": "prefill-context-parallel-size",
    }  # fmt: skip
    for key, name in sizes.items():
        found.set(f"parallelism.{key}", options.whole(name))
    shards = options.whole("decode-context-parallel-size") or 1
    contexts = found.fields.get("parallelism.cp", 1)
    if shards != contexts:
        raise UserError(
            f"{contexts} ranks share prompts and {shards} the KV cache; both or none is simulated",
            where="--decode-context-parallel-size",
            hint="give both sizes alike",
        )
    devices = found.fields.get("parallelism.tp", 1) * found.fields.get("parallelism.dp", 1)
    if not options.flag("enable-expert-parallel") or devices == 1:
        return
    found.set("parallelism.ep", devices)
    if options.flag("enable-eplb"):
        copies = options.whole("num-redundant-experts")
        balance = options.mapping("eplb-config") or {}
        found.set(
            "parallelism.redundant_experts", copies or balance.get("num_redundant_experts", 0)
        )


def _graphs(found: Found, options: Options) -> None:
    config = dict(options.mapping("compilation-config") or {})
    mode = config.pop("cudagraph_mode", None)
    if config:
        keys = ", ".join(config)
        found.notes.append(
            f"ignored, although they may change times that are not simulated: {keys} of "
            "--compilation-config"
        )
    level = options.text("optimization-level")
    if options.flag("enforce-eager") or level == "0":
        found.set("engine.cuda_graphs", False)
    elif mode is not None:
        found.set(
            "engine.cuda_graphs", _GRAPHS[one_of(str(mode).upper(), _GRAPHS, "cudagraph_mode")]
        )


def _speculation(options: Options) -> dict[str, Any] | None:
    """The configuration, with its short forms."""
    config = dict(options.mapping("speculative-config") or {})
    for name, key in (("spec-method", "method"), ("spec-model", "model")):
        if (value := options.text(name)) is not None:
            config[key] = value
    if (tokens := options.whole("spec-tokens")) is not None:
        config["num_speculative_tokens"] = tokens
    return config or None


def _drafts(found: Found, config: dict[str, Any] | None) -> None:
    if config is None:
        return
    where = "--speculative-config"
    tokens = config.get("num_speculative_tokens")
    if not isinstance(tokens, int):
        raise UserError("num_speculative_tokens must be a whole number", where=where)
    draft = config.get("model")
    method = config.get("method") or ("draft_model" if draft else "ngram")
    if "mtp" in str(method):
        made: dict[str, Any] = {"kind": "mtp"}
    elif method in ("eagle", "eagle3"):
        made = {"kind": "eagle"}
    elif method == "draft_model" and isinstance(draft, str):
        made = {"kind": "draft_model", "model": read_checkpoint(draft).name}
        if config.get("draft_tensor_parallel_size") == 1:
            made["draft_tp"] = 1
    else:
        made = {"kind": one_of(str(method), ("ngram", "eagle", "mtp", "draft_model"), where)}
    found.set("engine.speculative", made | {"tokens": tokens})


def _transfer(found: Found, config: dict[str, Any] | None) -> None:
    if config is None:
        return
    role = str(config.get("kv_role"))
    if role in _ROLES:
        found.role = _ROLES[role]
    elif role == "kv_both":
        found.both_roles = True
    else:
        one_of(role, (*_ROLES, "kv_both"), "--kv-transfer-config")
