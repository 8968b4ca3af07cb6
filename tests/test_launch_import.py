"""Launch commands and manifests become scenarios: what was written out comes back the same."""

from __future__ import annotations

import copy
import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cli import cli
from simulator.costs.memory import GIB, activation_bytes
from simulator.errors import DoesNotFitError, UserError
from simulator.launch import ReadLaunch, launch_files, read_launch
from simulator.models.counting import weight_bytes_per_rank
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario import load_scenario
from simulator.scenario.scenario import Scenario
from simulator.scenario.shipped import scenario_names

ENGINES = ("vllm", "sglang", "tensorrt-llm")
CHAT = load_scenario("chat-8b-h100")


def command(text: str, **given: Any) -> ReadLaunch:
    return read_launch(text, **({"base": CHAT} | given))


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def facts(pool: ResolvedPool) -> dict[str, Any]:
    """What a pool resolves to, as far as it decides times and memory."""
    deployment = pool.deployment
    return {
        "role": pool.role,
        "replicas": pool.most,
        "scaling": pool.life.scaling if pool.life else None,
        "engine": deployment.engine.name,
        "hardware": deployment.hardware.name,
        "model": deployment.model,
        "limits": deployment.limits,
        "layout": deployment.layout,
        "precision": deployment.precision,
        "kv_blocks": deployment.memory.kv_blocks,
        "weights": deployment.memory.weights_gib,
        "activations": deployment.memory.activations_gib,
    }


def assert_same(before: Scenario, after: Scenario) -> None:
    first, second = resolve_pools(before), resolve_pools(after)
    assert [facts(pool) for pool in first] == [facts(pool) for pool in second]
    for pool in second:
        memory = pool.deployment.memory
        whole = memory.weights_gib + memory.activations_gib + memory.reserved_gib
        assert whole + memory.kv_cache_gib <= memory.device_gib + 1e-9


# --- round trips ---------------------------------------------------------------------------------

FULL = ("engine.max_num_seqs=64", "engine.max_num_batched_tokens=1024", "engine.max_model_len=8192")
MOE = ("model=qwen3-30b-a3b",)
DEEPSEEK = ("model=deepseek-v3", "hardware=h200-sxm")
TRIPS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "limits": FULL,
    "tensor": ("parallelism.tp=4", "precision.weights=fp8"),
    "pipeline": ("model=llama-3.1-70b", "parallelism.pp=4", "parallelism.tp=2"),
    "experts": (*MOE, "parallelism.tp=4", "parallelism.ep=4"),
    "copies": (*MOE, "parallelism.tp=4", "parallelism.ep=4", "parallelism.redundant_experts=16"),
    "ranks": (*DEEPSEEK, "parallelism.tp=1", "parallelism.dp=8", "parallelism.ep=8",
              "engine.max_num_seqs=32"),
    "fp8 cache": ("precision.kv_cache=fp8",),
    "32 bits": ("model=llama-3.2-1b", "precision.weights=fp32", "precision.kv_cache=fp32"),
    "16 bits": ("precision.weights=fp16",),
    "checkpoint": ("precision.weights=int4",),
    "int8": ("precision.weights=int8",),
    "weights alone": ("precision.weights=fp8", "precision.activations=bf16"),
    "mxfp4": ("model=gpt-oss-20b",),
    "sparse": ("precision.sparsity=2:4",),
    "windows": ("model=gemma-3-12b", "engine.max_model_len=16384"),
    "states": ("model=qwen3-next-80b-a3b", "parallelism.tp=4", "precision.recurrent_state=fp32"),
    "no cache": ("engine.prefix_caching=false", "engine.block_size=64"),
    "tokens": ("engine.kv_cache_tokens=100000", "engine.max_model_len=65536"),
    "tokens of ranks": (*DEEPSEEK, "parallelism.dp=8", "parallelism.ep=8",
                        "engine.kv_cache_tokens=1000000"),
    "tokens of windows": ("model=gemma-3-12b", "engine.max_model_len=16384", "engine.kv_cache_tokens=60000"),
    "fraction": ("engine.memory_fraction=0.61",),
    "less memory": ("hardware.memory_gib=50",),
    "no graphs": ("engine.cuda_graphs=false", "engine.async_scheduling=false"),
    "drafts": ("engine.speculative={kind: ngram, tokens: 4, acceptance: 0.6}",),
    "draft model": ("model=llama-3.1-70b", "hardware=h200", "parallelism.tp=4",
                    "engine.speculative={kind: draft_model, tokens: 3, acceptance: 0.6, "
                    "model: llama-3.2-1b}"),
    "mtp": (*DEEPSEEK, "parallelism.tp=8", "engine.speculative={kind: mtp, tokens: 1, acceptance: 0.6}"),
    "eagle": ("engine.speculative={kind: eagle, tokens: 3, acceptance: 0.6}",),
    "adapters": ("engine.lora={max_loras: 4, max_rank: 32, targets: [qkv, o]}",),
    "windows and less memory": ("model=gemma-3-12b", "hardware.memory_gib=50"),
    "edge": ("model=llama-3.2-1b", "hardware=l4"),
}  # fmt: skip
AMD = {"amd": ("model=llama-3.1-70b", "hardware=mi300x")}
ONLY = {
    "vllm": AMD | {
        "watermark": ("engine.kv_watermark=0.05",),
        "fp4 cache": ("precision.kv_cache=fp4", "hardware=b200"),
        "int8 cache": ("precision.kv_cache=int8",),
        "16-bit cache": ("model=llama-3.2-1b", "precision.weights=fp32", "precision.kv_cache=bf16"),
        "16-bit states": ("model=qwen3-next-80b-a3b", "parallelism.tp=4",
                          "precision.recurrent_state=bf16"),
        "modes": ("engine.cuda_graphs=decode_only",),
        "pieces": ("engine.cuda_graphs=piecewise",),
        "whole prompts": ("engine.policy={kind: continuous, chunked_prefill: false}",),
        "priority": ("engine.queue={kind: priority}",),
        "host tier": ("engine.kv_offload=[{kind: host, gib: 64}]",),
        "context": ("model=llama-3.1-70b", "hardware=h200", "parallelism.tp=2", "parallelism.cp=4"),
        "one device drafts": ("model=llama-3.1-70b", "hardware=h200", "parallelism.tp=4",
                              "engine.speculative={kind: draft_model, tokens: 3, acceptance: 0.6, "
                              "model: llama-3.2-1b, draft_tp: 1}"),
    },
    "sglang": AMD | {
        "mixed": ("engine.policy={kind: continuous}",),
        "priority": ("engine.queue={kind: priority}",),
        "fp4 cache": ("precision.kv_cache=fp4", "hardware=b200"),
        "parts of experts": (*MOE, "parallelism.tp=4", "parallelism.ep=2"),
        "refusals": ("deployment.admission={rules: [{kind: queue_length, max_waiting: 50}]}",),
    },
    "tensorrt-llm": {
        "evicting": ("engine.policy={kind: continuous}",),
        "waiting": ("engine.policy={kind: full_reservation, wait_steps: 7, wait_fill: 0.5}",),
        "fp4 cache": ("precision.kv_cache=fp4", "hardware=b200"),
        "host tier": ("engine.kv_offload=[{kind: host, gib: 64}]",),
        "few drafts": ("engine.speculative={kind: ngram, tokens: 4, acceptance: 0.6, max_batch: 8}",),
        "context": ("model=llama-3.1-70b", "hardware=h200", "parallelism.tp=2", "parallelism.cp=4"),
    },
}  # fmt: skip
CASES = [(engine, name) for engine in ENGINES for name in (*TRIPS, *ONLY[engine])]


def made(engine: str, name: str) -> Scenario:
    overrides = TRIPS.get(name) or ONLY[engine].get(name) or ()
    return load_scenario("chat-8b-h100", [f"engine.profile={engine}", *overrides])


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_script_comes_back_as_it_was(engine: str, name: str, tmp_path: Path) -> None:
    before = made(engine, name)
    files = launch_files(before)
    after = read_launch(
        files["serve.sh"],
        workload=before,
        hardware=before.hardware.profile,
        folder=written(tmp_path, files),
        acceptance=0.6 if before.engine.speculative else None,
    )
    assert_same(before, after.scenario)


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_a_manifest_comes_back_as_it_was(engine: str, name: str) -> None:
    before = made(engine, name)
    text = launch_files(before).get("kubernetes.yaml")
    if text is None:
        pytest.fail("no manifest")
    after = read_launch(
        text, workload=before, acceptance=0.6 if before.engine.speculative else None
    )  # the devices are those of the node labels
    assert_same(before, after.scenario)


@pytest.mark.parametrize("engine", ENGINES)
def test_pools_come_back_with_roles_and_replicas(engine: str) -> None:
    given = [f"engine.profile={engine}"]
    if engine == "tensorrt-llm":  # its servers for prompts cannot plan ahead
        given.append("deployment.pools.0.engine={async_scheduling: false}")
    before = load_scenario("disaggregated-70b-h100", given)
    after = read_launch(launch_files(before)["kubernetes.yaml"], base=before).scenario
    assert_same(before, after)
    assert [pool.name for pool in after.deployment.pools] == ["prefill", "decode"]
    assert after.deployment.router == before.deployment.router


def test_pools_on_other_devices_come_back() -> None:
    before = load_scenario("mixed-pools-8b", ["engine.max_model_len=16384"])
    after = read_launch(launch_files(before)["kubernetes.yaml"], base=before).scenario
    assert_same(before, after)
    assert after.deployment.pools[0].weight == 8.0  # what no manifest says, from the base


SCALED = {"kind": "queue", "target": 2.5, "min": 2, "max": 9, "initial": 3, "down_window_s": 120}


@pytest.mark.parametrize("kind", ["queue", "concurrency"])
def test_an_autoscaler_comes_back(kind: str) -> None:
    scaling = json.dumps(SCALED | {"kind": kind})
    before = load_scenario("chat-8b-h100", f"deployment.autoscaling={scaling}")
    text = launch_files(before)["kubernetes.yaml"]
    assert_same(before, read_launch(text, workload=before).scenario)


def test_a_base_gives_what_arguments_do_not_say() -> None:
    """Its acceptance, kernels and prices; the file's settings go before its own."""
    before = load_scenario("speculative-eagle-8b-h100", ["cost.usd_per_device_hour=2.5"])
    after = read_launch(launch_files(before)["serve.sh"], base=before).scenario
    assert_same(before, after)
    assert after.cost == before.cost
    other = load_scenario("speculative-eagle-8b-h100", ["engine.max_num_seqs=7"])
    assert_same(before, read_launch(launch_files(before)["serve.sh"], base=other).scenario)


# --- memory --------------------------------------------------------------------------------------

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "gemma-3-27b", "gpt-oss-120b",
          "deepseek-v2-lite", "falcon-h1-7b")  # fmt: skip
DEVICES = ("h100-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "l4", "rtx-4090")


def value_of(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def kv_gib(engine: str, words: list[str], options: dict[str, Any], pool: ResolvedPool) -> float:
    """GiB that the engine's own rule gives the KV cache, from the numbers in the file."""
    deployment = pool.deployment
    weights = weight_bytes_per_rank(
        deployment.model, deployment.precision.weights, deployment.layout
    )
    held = activation_bytes(deployment.model, deployment.limits, deployment.layout)
    device = deployment.hardware.memory.capacity_gib.value
    reserved = deployment.engine.memory.reserved_gib
    if engine == "vllm":
        fraction = float(value_of(words, "--gpu-memory-utilization"))
        return fraction * device - (weights + held) / GIB - reserved
    if engine == "sglang":
        fraction = float(value_of(words, "--mem-fraction-static"))
        static = fraction * (device - reserved) - weights / GIB
        if "--max-total-tokens" not in words:
            return static
        tokens = int(value_of(words, "--max-total-tokens"))
        blocks = pool.resolved.layout.blocks_for(tokens)
        return min(static, blocks * deployment.memory.block_bytes / GIB)
    fraction = options["kv_cache_config"]["free_gpu_memory_fraction"]
    return float(fraction) * (device - (weights + held) / GIB - reserved)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_no_file_asks_for_more_than_a_device_has(device: str, engine: str, tmp_path: Path) -> None:
    fitted = 0
    for model in MODELS:
        for weights in ("null", "int4"):
            for tp in (1, 4):
                overrides = [f"model={model}", f"hardware={device}", f"precision.weights={weights}",
                             f"engine.profile={engine}", f"parallelism.tp={tp}"]  # fmt: skip
                before = load_scenario("chat-8b-h100", overrides)
                try:
                    pool = resolve_pools(before)[0]
                except (DoesNotFitError, UserError):
                    continue
                fitted += 1
                files = launch_files(before)
                words = shlex.split(files["serve.sh"], comments=True)
                options = yaml.safe_load(files.get("serve.yaml", "{}"))
                memory = pool.deployment.memory
                asked = kv_gib(engine, words, options, pool)
                block = memory.block_bytes / GIB
                assert asked - block - 1e-9 <= memory.kv_cache_gib <= asked + 1e-9
                whole = memory.weights_gib + memory.activations_gib + memory.reserved_gib
                assert whole + asked <= memory.device_gib + 1e-9
                after = read_launch(files["serve.sh"], workload=before, hardware=device,
                                    folder=written(tmp_path, files)).scenario  # fmt: skip
                assert resolve_pools(after)[0].deployment.memory.kv_blocks == memory.kv_blocks
    assert fitted >= 4


# --- commands as people write them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("vllm serve Qwen/Qwen3-8B", {"model": "qwen3-8b"}),
        ("vllm serve --model Qwen/Qwen3-8B -tp 2 --max_num_seqs=32", {"parallelism.tp": 2, "engine.max_num_seqs": 32}),
        ("python3 -m vllm.entrypoints.openai.api_server --model Qwen/Qwen3-8B --enforce-eager", {"engine.cuda_graphs": False}),
        ("vllm serve Qwen/Qwen3-8B --max-model-len 32k", {"engine.max_model_len": 32_000}),
        ("vllm serve Qwen/Qwen3-8B --max-model-len 32K", {"engine.max_model_len": 32_768}),
        ("vllm serve Qwen/Qwen3-8B -cc.cudagraph_mode=PIECEWISE", {"engine.cuda_graphs": "piecewise"}),
        ("vllm serve Qwen/Qwen3-8B -O0", {"engine.cuda_graphs": False}),
        ("vllm serve Qwen/Qwen3-8B --speculative-config.method ngram --speculative-config.num_speculative_tokens 3", {"engine.speculative.kind": "ngram", "engine.speculative.tokens": 3}),
        ("vllm serve Qwen/Qwen3-8B --num-gpu-blocks-override 1000", {"engine.kv_cache_tokens": 16_000}),
        ("vllm serve Qwen/Qwen3-30B-A3B -tp 2 -ep --no-enable-prefix-caching", {"parallelism.ep": 2, "engine.prefix_caching": False}),
        ("HF_TOKEN=x nohup vllm serve Qwen/Qwen3-8B --port 80 > log.txt 2>&1 &", {"model": "qwen3-8b"}),
        ("export TP=4\nMODEL=Qwen/Qwen3-8B\nvllm serve $MODEL \\\n  --tensor-parallel-size ${TP} # all\necho started", {"parallelism.tp": 4}),
        ("docker run --gpus all -p 8000:8000 vllm/vllm-openai:v0.11.2 --model Qwen/Qwen3-8B --max-num-seqs 9", {"engine.max_num_seqs": 9, "engine.version": "0.11.2"}),
        ("bash -c 'cd /x && exec vllm serve Qwen/Qwen3-8B --max-num-seqs 9'", {"engine.max_num_seqs": 9}),
        ("vllm serve RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", {"model": "llama-3.1-8b", "precision.weights": "fp8"}),
        ("vllm serve hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", {"model": "llama-3.1-8b", "precision.weights": "int4"}),
        ("vllm serve RedHatAI/Qwen3-8B-quantized.w4a16", {"model": "qwen3-8b", "precision.weights": "int4"}),
        ("vllm serve Qwen/Qwen3-8B --spec-method ngram --spec-tokens 5", {"engine.speculative.tokens": 5}),
        ("vllm serve Qwen/Qwen3-8B -tp 2 -pcp 2 -dcp 2", {"parallelism.cp": 2}),
        ("vllm serve Qwen/Qwen3-8B --dtype float16", {"precision.weights": "fp16"}),
        ("python -m sglang.launch_server --model Qwen/Qwen3-8B --tp 2 --mem-fraction-static 0.8", {"parallelism.tp": 2, "engine.memory_fraction": 0.8}),
        ("sglang serve --model-path deepseek-ai/DeepSeek-V3 --tp 8 --dp 8 --enable-dp-attention --ep 8 --max-running-requests 512", {"parallelism.tp": 1, "parallelism.dp": 8, "parallelism.ep": 8, "engine.max_num_seqs": 64}),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --enable-mixed-chunk --disable-radix-cache", {"engine.policy.kind": "continuous", "engine.prefix_caching": False}),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --enable-hierarchical-cache --hicache-size 10", {"engine.kv_offload.0.kind": "host", "engine.kv_offload.0.gib": 10e9 / 2**30}),
        ("trtllm-serve Qwen/Qwen3-8B --tp_size 2 --max_batch_size 64 --kv_cache_free_gpu_memory_fraction 0.8", {"parallelism.tp": 2, "engine.max_num_seqs": 64, "engine.memory_fraction": 0.8}),
        ("trtllm-serve serve Qwen/Qwen3-8B --backend pytorch --kv_cache_dtype fp8", {"precision.kv_cache": "fp8"}),
    ],
)  # fmt: skip
def test_commands_as_people_write_them(text: str, fields: dict[str, Any]) -> None:
    base = load_scenario("chat-8b-h100", "hardware=h200-sxm")
    read = command(text, base=base, acceptance=0.5)
    data = read.scenario.model_dump(mode="json")
    for path, value in fields.items():
        found: Any = data
        for key in path.split("."):
            found = found[int(key) if isinstance(found, list) else key]
        assert found == value, path
    resolve_pools(read.scenario)


def test_a_configuration_file_lies_below_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "max-num-seqs: 5\ntensor-parallel-size: 2\nenforce-eager: true\nport: 80\n"
        "speculative-config: {method: ngram, num_speculative_tokens: 2}\n"
    )
    text = "vllm serve Qwen/Qwen3-8B --config c.yaml --max-num-seqs 6"
    scenario = command(text, folder=tmp_path, acceptance=0.5).scenario
    assert scenario.engine.max_num_seqs == 6
    assert scenario.parallelism.tp == 2
    assert scenario.engine.cuda_graphs is False
    assert scenario.engine.speculative is not None


def test_what_is_ignored_is_told() -> None:
    read = command(
        "vllm serve Qwen/Qwen3-8B --host 0.0.0.0 --port 80 --attention-backend FLASHINFER "
        "--trust-remote-code --cpu-offload-gb 0"
    )
    assert read.notes == (
        "ignored, for they have no effect on what is simulated: --host, --port, "
        "--trust-remote-code, --cpu-offload-gb",
        "ignored, although they may change times that are not simulated: --attention-backend",
    )


def test_variables_of_engines_are_told() -> None:
    read = command(
        "export HF_TOKEN=x\nNCCL_DEBUG=INFO VLLM_USE_DEEP_GEMM=1 vllm serve Qwen/Qwen3-8B"
    )
    said = "ignored, although they may change times: the variables NCCL_DEBUG, VLLM_USE_DEEP_GEMM"
    assert read.notes == (said,)
    manifest = OTHERS.replace(
        "value: Qwen/Qwen3-8B}", "value: Qwen/Qwen3-8B}, {name: VLLM_X, value: a}"
    )
    assert "the variables VLLM_X" in read_launch(manifest, workload=CHAT).notes[0]


def test_prefixes_of_models_with_states_are_not_shared() -> None:
    base = load_scenario("chat-8b-h100", "hardware=h200-sxm")
    read = command(
        "vllm serve Qwen/Qwen3-Next-80B-A3B-Instruct -tp 4 --enable-prefix-caching", base=base
    )
    assert read.notes == (
        "prefixes of qwen3-next-80b-a3b, which keeps states, are not shared here",
    )
    assert read.scenario.engine.prefix_caching is None


def test_pools_of_the_base_are_left_out_for_one_server() -> None:
    base = load_scenario("mixed-pools-8b")
    read = command("vllm serve Qwen/Qwen3-8B", base=base)
    assert read.notes == ("pools of the base are left out: large, small",)
    assert not read.scenario.deployment.pools
    assert read.scenario.deployment.router == base.deployment.router


def test_scaling_of_the_base_is_left_out_where_replicas_are_said() -> None:
    scaling = {"kind": "utilization", "target": 0.5, "min": 2, "max": 4}
    base = load_scenario("chat-8b-h100", f"deployment.autoscaling={json.dumps(scaling)}")
    read = read_launch(launch_files(base)["kubernetes.yaml"], base=base)
    assert read.notes[-1] == "the base's autoscaling is left out: 2 replicas are started"
    assert read.scenario.deployment.replicas == 2
    kept = read_launch(launch_files(base)["serve.sh"], base=base)  # which says nothing of it
    assert kept.scenario.deployment.autoscaling == base.deployment.autoscaling


def test_cold_starts_of_the_base_go_with_its_scaling() -> None:
    scaling = "{kind: utilization, target: 0.5, min: 1, max: 4}"
    pools = f"[{{name: a, autoscaling: {scaling}, cold_start: {{boot_s: 9}}}}, {{name: b}}]"
    base = load_scenario("chat-8b-h100", f"deployment.pools={pools}")
    read = read_launch(launch_files(base)["kubernetes.yaml"], base=base)
    assert read.notes[-2:] == (
        "the base's autoscaling is left out: the manifest starts the replicas of a",
        "the base's cold_start is left out: no replica starts later",
    )


def test_admission_comes_back_from_pools() -> None:
    rules = "deployment.admission={rules: [{kind: queue_length, max_waiting: 50}]}"
    before = load_scenario("mixed-pools-8b", ["engine.profile=sglang", rules])
    after = read_launch(launch_files(before)["kubernetes.yaml"], workload=before).scenario
    assert after.deployment.admission == before.deployment.admission


def test_lenient_goes_on() -> None:
    read = command("vllm serve Qwen/Qwen3-8B --new-thing 4 --cpu-offload-gb 9", lenient=True)
    assert "ignored, although they are not known: --new-thing" in read.notes
    assert "ignored, although they cannot be simulated: --cpu-offload-gb" in read.notes


# --- manifests of others -------------------------------------------------------------------------

OTHERS = """\
apiVersion: v1
kind: Secret
metadata: {name: token}
---
# the server
apiVersion: apps/v1
kind: Deployment
metadata: {name: llm}
spec:
  replicas: 3
  template:
    spec:
      nodeSelector: {node.kubernetes.io/instance-type: p5.48xlarge}
      containers:
        - name: sidecar
          image: envoy:latest
          args: ["--config", "x"]
        - name: server
          image: vllm/vllm-openai:v0.25.1
          env: [{name: MODEL, value: Qwen/Qwen3-8B}]
          command: ["/bin/sh", "-c"]
          args: ["vllm serve $(MODEL) --tensor-parallel-size 2 --max-num-seqs 64"]
          resources: {limits: {nvidia.com/gpu: 2}}
"""


def test_a_manifest_of_others() -> None:
    scenario = read_launch(OTHERS, workload=CHAT).scenario
    assert scenario.model == "qwen3-8b"
    assert scenario.hardware.profile == "h100-sxm"
    assert scenario.deployment.replicas == 3
    assert scenario.parallelism.tp == 2
    assert scenario.engine.version is None  # of the series that the profile speaks of


def test_the_image_alone_may_be_the_command() -> None:
    text = OTHERS.replace('          command: ["/bin/sh", "-c"]\n', "").replace(
        '["vllm serve $(MODEL) --tensor-parallel-size 2 --max-num-seqs 64"]',
        '["--model", "$(MODEL)", "--tensor-parallel-size", "2"]',
    ).replace("v0.25.1", "v0.11.0")  # fmt: skip
    scenario = read_launch(text, workload=CHAT).scenario
    assert scenario.model == "qwen3-8b"
    assert scenario.engine.version == "0.11.0"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("vllm serve", "sleep", "manifest: no container starts vLLM, SGLang or TensorRT-LLM; their"),
        ("nvidia.com/gpu: 2", "nvidia.com/gpu: 1", "manifest: llm: the command needs 2 devices, and its pod asks for 1; ask for as many"),
        ("--max-num-seqs", "--max-num-sex", "manifest: llm: --max-num-sex: vllm has no argument of this name that is known here; did you mean --max-num-seqs?"),
        ("p5.48xlarge", "m5.large", "launch commands do not say what they run on; give --hardware"),
        ("replicas: 3", "replicas: many", "manifest: llm: replicas must be a whole number, got 'many'"),
        ("# the server", "x: [", "manifest:7: not valid YAML: "),
        ("# the server", "!!python/object:os.system {}", "manifest:"),
        ("$(MODEL)", "$(OTHER)", "manifest: llm: model: ${OTHER} has no value here; write it out"),
    ],
)  # fmt: skip
def test_mistakes_in_manifests_are_one_sentence(old: str, new: str, said: str) -> None:
    assert old in OTHERS
    with pytest.raises(UserError) as caught:
        read_launch(OTHERS.replace(old, new), workload=CHAT)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("example", scenario_names())
def test_every_example_comes_back_over_itself(example: str) -> None:
    """Devices, layout, formats and memory of every pool; engines without arguments as vLLM's."""
    before = load_scenario(str(ROOT / "examples" / f"{example}.yaml"))
    if before.engine.profile not in ENGINES:
        before = before.model_copy(update={"engine": CHAT.engine})
    if before.parallelism.fsdp > 1:
        return  # no engine can
    text = launch_files(before)["kubernetes.yaml"]
    after = read_launch(text, base=before, hardware=None).scenario
    for first, second in zip(resolve_pools(before), resolve_pools(after), strict=True):
        one, other = first.deployment, second.deployment
        assert (first.name, first.role) == (second.name, second.role)
        assert (one.model, one.hardware) == (other.model, other.hardware)
        assert (one.layout, one.precision) == (other.layout, other.precision)
        if "engine.kv_allocation" not in text:  # runs become blocks
            assert one.memory == other.memory


def test_an_autoscaler_by_another_metric_is_refused() -> None:
    scaled = (
        OTHERS
        + """\
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llm}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llm}
  maxReplicas: 9
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
"""
    )
    with pytest.raises(
        UserError, match="the metric that scales llm is neither of waiting requests"
    ):
        read_launch(scaled, workload=CHAT)
    assert read_launch(scaled, workload=CHAT, lenient=True).scenario.deployment.replicas == 3


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("vllm serve Qwen/Qwen3-8B", {"base": None}, "launch commands say nothing about the traffic; give --workload or --base"),
        ("vllm serve Qwen/Qwen3-8B", {"base": None, "workload": CHAT}, "launch commands do not say what they run on; give --hardware"),
        ("echo hello", {}, "no command starts vLLM, SGLang or TensorRT-LLM; write `vllm serve MODEL"),
        ("vllm serve Qwen/Qwen3-8B; vllm serve Qwen/Qwen3-4B", {}, "2 commands start vLLM, SGLang or TensorRT-LLM; several servers"),
        ("vllm serve --port 80", {}, "the command names no model; give it, or --model NAME"),
        ("vllm serve me/my-model", {}, "there is no model 'me/my-model'; --model NAME says which preset"),
        ("vllm serve Qwen/Qwen3-8B --max-num-sex 4", {}, "--max-num-sex: vllm has no argument of this name that is known here; did you mean --max-num-seqs? --lenient ignores it"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs many", {}, "--max-num-seqs: must be a whole number, got 'many'"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs $N", {}, "--max-num-seqs: $N has no value here; write it out"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs", {}, "--max-num-seqs: is given without a value"),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --disaggregation-mode decode", {}, "a server with the role decode needs one with the role prefill; import the manifest"),
        ("vllm serve Qwen/Qwen3-8B again", {}, "'again' stands in the command where an argument is expected; the model is Qwen/Qwen3-8B"),
        ("vllm serve 'Qwen/Qwen3-8B", {}, "the command cannot be read: no closing quotation; close the quotes"),
        ("vllm serve Qwen/Qwen3-8B --speculative-config x", {}, "--speculative-config: must be a JSON object, got 'x'"),
        ("vllm serve Qwen/Qwen3-8B --speculative-config '{\"method\": \"ngram\", \"num_speculative_tokens\": 2}'", {}, "engine.speculative: how many drafts are accepted is no argument; give --acceptance"),
        ("vllm serve Qwen/Qwen3-8B --cpu-offload-gb 4", {}, "--cpu-offload-gb: cannot be simulated: weights in host memory are not simulated; leave it out, or use --lenient"),
        ("vllm serve Qwen/Qwen3-8B --kv-cache-dtype int3", {}, "--kv-cache-dtype: 'int3' cannot be simulated; "),
        ("vllm serve Qwen/Qwen3-8B --quantization hqq", {}, "--quantization: 'hqq' cannot be simulated"),
        ("vllm serve Qwen/Qwen3-8B --gpu-memory-utilization 0.1", {}, "does not fit"),
        ("vllm serve Qwen/Qwen3-8B --gpu-memory-utilization 1.5", {}, "engine.memory_fraction: must be"),
        ("vllm serve Qwen/Qwen3-8B -tp 2 -dcp 2", {}, "--decode-context-parallel-size: 1 ranks share prompts and 2 the KV cache; both or none is simulated; give both sizes alike"),
        ("vllm serve Qwen/Qwen3-8B -tp 3", {}, "cannot be split over tp = 3"),
        ("vllm serve Qwen/Qwen3-8B --kv-cache-memory-bytes 900G", {}, "tokens of KV cache take"),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --dp 2", {}, "--dp-size: without --enable-dp-attention these are 2 servers of their own"),
        ("trtllm-serve Qwen/Qwen3-8B --extra_llm_api_options no.yaml", {}, "--extra_llm_api_options: the file no.yaml is not there"),
        ("trtllm-serve Qwen/Qwen3-8B --max_batch_sise 3", {}, "--max_batch_sise: tensorrt-llm has no argument of this name that is known here; did you mean --max_batch_size?"),
        ("vllm serve '<meta-llama/Llama-3.1-8B-Instruct with the pruned layers>'", {}, "'the pruned layers' cannot be read back"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(text: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        command(text, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the command ---------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner()
    given = [
        "import",
        "--base",
        "chat-8b-h100",
        "--",
        "vllm",
        "serve",
        "Qwen/Qwen3-8B",
        "--port",
        "80",
    ]
    printed = run.invoke(cli, given)
    assert printed.exit_code == 0
    assert "Note: ignored, for they have no effect on what is simulated: --port" in printed.stderr
    assert load_scenario(yaml.safe_load(printed.stdout)).model == "qwen3-8b"
    out = tmp_path / "s.yaml"
    files = ["--out", str(out)]
    assert run.invoke(cli, [*given[:1], *files, *given[1:]]).exit_code == 0
    assert load_scenario(str(out)).model == "qwen3-8b"
    assert run.invoke(cli, [*given[:1], *files, *given[1:]]).exit_code == 2  # it is there already
    document = json.loads(run.invoke(cli, [*given[:1], "--json", *given[1:]]).stdout)
    assert document["scenario"]["model"] == "qwen3-8b"
    piped = run.invoke(
        cli, ["import", "-", "--base", "chat-8b-h100"], input="vllm serve Qwen/Qwen3-8B"
    )
    assert "qwen3-8b" in piped.stdout
    missing = run.invoke(cli, ["import", "nothing.sh", "--base", "chat-8b-h100"])
    assert missing.exit_code == 2


def test_every_argument_that_is_written_is_read() -> None:
    """No name that the export uses is unknown or ignored, but for addresses."""
    for engine, name in CASES:
        before = made(engine, name)
        read = read_launch(
            launch_files(before)["kubernetes.yaml"], workload=before,
            acceptance=0.6 if before.engine.speculative else None,
        )  # fmt: skip
        ignored = [note for note in read.notes if note.startswith("ignored")]
        assert all(note.endswith("--host, --port") for note in ignored), (name, ignored)


# --- whatever stands there -----------------------------------------------------------------------

WORDS = st.sampled_from(
    ["vllm", "serve", "Qwen/Qwen3-8B", "-tp", "2", "--max-num-seqs", "--speculative-config", "{}", "-O3",
     "--speculative-config.method", "--compilation-config", "[1]", "--kv-transfer-config", "sh", "-c",
     "trtllm-serve", "--extra_llm_api_options", "python", "-m", "sglang.launch_server", "--dp", "\n", ";",
     "--no-enable-prefix-caching", "--lora-target-modules", "=", "--", "-", "$X", "<a with b>", "'"]
) | st.text(max_size=6)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=12))
def test_any_words_are_read_or_refused_in_a_sentence(words: list[str]) -> None:
    with suppress(UserError):
        command(" ".join(words), acceptance=0.5)


LEAVES = st.none() | st.booleans() | st.integers(-5, 9) | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def paths(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(path for key, item in inner for path in paths(item, (*at, key)))]


def sources() -> list[list[dict[str, Any]]]:
    """Manifests with all that is read: pools, options, an autoscaler."""
    apart = launch_files(load_scenario("disaggregated-70b-h100"), engine="tensorrt-llm")
    scaled = load_scenario("chat-8b-h100", f"deployment.autoscaling={json.dumps(SCALED)}")
    return [
        [one for one in yaml.safe_load_all(text) if one]
        for text in (apart["kubernetes.yaml"], launch_files(scaled)["kubernetes.yaml"], OTHERS)
    ]


SOURCES = sources()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_in_a_manifest_is_read_or_refused_in_a_sentence(data: st.DataObject) -> None:
    documents = copy.deepcopy(data.draw(st.sampled_from(SOURCES)))
    path = data.draw(st.sampled_from([at for at in paths(documents) if len(at) > 1]))
    place: Any = documents
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(VALUES)
    with suppress(UserError):
        read_launch(yaml.safe_dump_all(documents), base=CHAT, hardware="h100-sxm")


OPTIONS = {
    "kv_cache_config": {"max_tokens": 1000, "host_cache_size": 10**10, "tokens_per_block": 32},
    "moe_config": {"load_balancer": {"num_slots": 4}},
    "lora_config": {"max_loras": 2, "lora_target_modules": ["attn_q"]},
    "speculative_config": {"decoding_type": "NGram", "max_draft_len": 2, "max_concurrency": 4},
    "batch_wait_timeout_iters": 3,
    "batch_wait_max_tokens_ratio": 0.5,
    "max_batch_size": 4,
}


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(paths(OPTIONS)[1:]), value=VALUES)
def test_any_option_of_tensorrt_llm_is_read_or_refused_in_a_sentence(
    path: tuple[str | int, ...], value: Any
) -> None:
    options = copy.deepcopy(OPTIONS)
    place: Any = options
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"o.yaml": yaml.safe_dump(options)}}
    pod = yaml.safe_load(OTHERS.split("---\n")[1].replace("vllm serve", "trtllm-serve").replace(
        "--tensor-parallel-size 2 --max-num-seqs 64", "--extra_llm_api_options /x/o.yaml"))  # fmt: skip
    with suppress(UserError):
        read_launch(yaml.safe_dump_all([config, pod]), base=CHAT, acceptance=0.5)
