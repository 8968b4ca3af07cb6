"""Files that start a deployment: they say every setting, or say that they do not."""

from __future__ import annotations

import json
import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT
from test_matrix_fields import BASE, CHANGES, nested

from simulator.cli import cli
from simulator.engines import load_engine
from simulator.errors import UserError
from simulator.launch import launch_files, launch_manifest
from simulator.planner.report.files import _deployment
from simulator.resolution.pools import resolve_pools
from simulator.scenario import load_scenario
from simulator.scenario.dump import dump_scenario
from simulator.scenario.scenario import Scenario
from simulator.scenario.shipped import scenario_names

ENGINES = ("vllm", "sglang", "tensorrt-llm")
CHAT = "chat-8b-h100"


def words(text: str) -> list[str]:
    """The command of a script, without comments."""
    return shlex.split(text, comments=True)


def files(source: str, *overrides: str, engine: str | None = None) -> dict[str, str]:
    return launch_files(load_scenario(source, overrides), engine=engine)


def value_of(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


# --- what is in the files ------------------------------------------------------------------------


def test_vllm_says_what_the_scenario_resolves_to() -> None:
    command = words(files(CHAT, "parallelism.tp=2", "precision.weights=fp8")["serve.sh"])
    assert command[:4] == ["exec", "vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct"]
    for name, value in {
        "--tensor-parallel-size": "2",
        "--quantization": "fp8",
        "--max-num-seqs": "1024",  # defaults of the device, written out
        "--max-num-batched-tokens": "8192",
        "--gpu-memory-utilization": "0.92",
        "--block-size": "16",
    }.items():
        assert value_of(command, name) == value
    assert "--enable-prefix-caching" in command
    assert "--async-scheduling" in command


def test_sglang_counts_all_attention_ranks_together() -> None:
    limits = ("engine.max_num_seqs=64", "engine.max_num_batched_tokens=1024")
    made = files("data-parallel-attention-deepseek-v3-h200", *limits, engine="sglang")
    command = words(made["serve.sh"])
    assert value_of(command, "--tp-size") == value_of(command, "--dp-size") == "8"
    assert value_of(command, "--max-running-requests") == str(8 * 64)
    assert value_of(command, "--chunked-prefill-size") == str(8 * 1024)
    assert "--enable-dp-attention" in command


def test_tensorrt_llm_has_its_options_beside_it() -> None:
    made = files(CHAT, "precision.kv_cache=fp8", "engine.cuda_graphs=false", engine="tensorrt-llm")
    assert value_of(words(made["serve.sh"]), "--extra_llm_api_options") == "serve.yaml"
    options = yaml.safe_load(made["serve.yaml"])
    assert options["kv_cache_config"]["dtype"] == "fp8"
    assert options["cuda_graph_config"] is None
    assert options["scheduler_config"]["capacity_scheduler_policy"] == "GUARANTEED_NO_EVICT"


@pytest.mark.parametrize(
    ("engine", "prefill", "decode"),
    [
        ("vllm", '"kv_role": "kv_producer"', '"kv_role": "kv_consumer"'),
        ("sglang", "--disaggregation-mode prefill", "--disaggregation-mode decode"),
        ("tensorrt-llm", "--server_role context", "--server_role generation"),
    ],
)
def test_pools_for_prompts_and_answers_have_their_roles(
    engine: str, prefill: str, decode: str
) -> None:
    made = files("disaggregated-70b-h100", engine=engine)
    assert prefill in made["serve-prefill.sh"]
    assert decode in made["serve-decode.sh"]
    if engine == "tensorrt-llm":
        before = yaml.safe_load(made["disaggregated.yaml"])
        assert before["context_servers"]["urls"] == ["serve-prefill:8000"]


@pytest.mark.parametrize(
    ("overrides", "model", "quantization"),
    [
        (["model=llama-3.1-8b"], "meta-llama/Llama-3.1-8B-Instruct", ""),
        (["model=meta-llama/Llama-3.1-8B"], "meta-llama/Llama-3.1-8B", ""),
        (["precision.weights=fp8"], "meta-llama/Llama-3.1-8B-Instruct", "fp8"),
        (["precision.weights=int4"], "<meta-llama/Llama-3.1-8B-Instruct with weights int4>", ""),
        (["precision.weights=fp8", "precision.activations=bf16"],
         "<meta-llama/Llama-3.1-8B-Instruct with weights fp8, activations bf16>", ""),
        (["precision.weights=fp8", "hardware=a100"], "meta-llama/Llama-3.1-8B-Instruct", "fp8"),
        (["model=gpt-oss-20b"], "openai/gpt-oss-20b", ""),
        (["precision.sparsity=2:4"], "<meta-llama/Llama-3.1-8B-Instruct with 2:4 sparsity>", ""),
    ],
)  # fmt: skip
def test_the_checkpoint_has_the_weights_of_the_scenario(
    overrides: list[str], model: str, quantization: str
) -> None:
    text = files(CHAT, *overrides)["serve.sh"]
    command = words(text)
    assert command[3] == model
    assert ("no checkpoint is known: put one in for <" in text) is model.startswith("<")
    assert (
        value_of(command, "--quantization") if "--quantization" in command else ""
    ) == quantization


def test_a_model_of_ones_own_is_served_from_its_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32000,
        "num_hidden_layers": 8, "num_attention_heads": 16, "max_position_embeddings": 4096,
    }))  # fmt: skip
    for given in (config, tmp_path):
        assert words(files(CHAT, f"model={given}")["serve.sh"])[3] == str(tmp_path)


# --- no setting is dropped -----------------------------------------------------------------------

PLACES = ("engine.", "precision.", "parallelism.", "hardware.", "deployment.")
ELSEWHERE = {
    "engine.random_prompts": "about the traffic",
    "engine.profile": "another engine",
    "hardware.profile": "another device",
}
SETTINGS = [
    (path, value, given) for path, value, given in CHANGES
    if path.startswith(PLACES) and path not in ELSEWHERE and "usd_per_device_hour" not in str(value)
]  # fmt: skip


def text_of(made: dict[str, str]) -> str:
    """All files, without what they say about memory."""
    whole = "\n".join(f"{name}\n{text}" for name, text in made.items())
    return re.sub(r"# (memory|KV cache) of a .*\n", "", whole)


@cache
def frozen_files(fields: str, engine: str) -> str:
    scenario = Scenario.model_validate(nested(json.loads(fields)))
    return text_of(launch_files(scenario, engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("path", "value", "given"), SETTINGS, ids=[f"{path}={value}" for path, value, _ in SETTINGS]
)
def test_every_setting_is_said_or_told(
    path: str, value: Any, given: dict[str, Any], engine: str
) -> None:
    """Another value gives other files, or a comment says that it is left out."""
    if path == "engine.version" and engine != "vllm":
        return  # a release of vLLM
    try:
        after = frozen_files(json.dumps(BASE | given | {path: value}), engine)
        before = frozen_files(json.dumps(BASE | given), engine)
    except UserError:  # the engine cannot at all, or does not go with the setting
        return
    parts = path.split(".")
    told = [".".join(parts[: length + 1]) for length in range(1, len(parts))]
    told += [f"pool.{parts[-1]}", path]
    said = any(re.search(rf"not expressible: {re.escape(one)}[.:]", after) for one in told)
    assert said or after != before or is_default(path, value, engine)


def is_default(path: str, value: Any, engine: str) -> bool:
    """Whether the engine does that anyway."""
    profile = load_engine(engine)
    if path == "engine.policy":
        return bool(profile.policy.model_validate(value) == profile.policy)
    key = path.removeprefix("engine.")
    return path.startswith("engine.") and getattr(profile, key, None) == value


@pytest.mark.parametrize("engine", ENGINES)
def test_few_settings_are_refused(engine: str) -> None:
    """Or the test above would prove little."""
    refused = []
    for path, value, given in SETTINGS:
        try:
            frozen_files(json.dumps(BASE | given | {path: value}), engine)
        except UserError as error:
            refused.append((path, str(error)))
    assert len(refused) <= len(SETTINGS) / 8, refused


# --- manifests -----------------------------------------------------------------------------------


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def check(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest, each held against the schema of its kind."""
    found = documents(text)
    for one in found:
        if one["kind"] == "LeaderWorkerSet":  # no part of Kubernetes; its pods are
            templates = one["spec"]["leaderWorkerTemplate"]
            for name in ("leaderTemplate", "workerTemplate"):
                pod = {"apiVersion": "v1", "kind": "Pod", **templates[name]}
                kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        else:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    return found


@pytest.mark.parametrize("example", scenario_names())
def test_the_manifest_of_every_example_is_valid(example: str) -> None:
    scenario = load_scenario(str(ROOT / "examples" / f"{example}.yaml"))
    engine = None if scenario.engine.profile in ENGINES else "vllm"
    if scenario.parallelism.fsdp > 1:
        with pytest.raises(UserError, match="no serving engine gathers"):
            launch_files(scenario, engine=engine)
        return
    made = launch_files(scenario, engine=engine)
    if "kubernetes.yaml" not in made:
        assert "not expressible: a Kubernetes manifest" in "".join(made.values())
        return
    found = check(made["kubernetes.yaml"])
    kinds = [one["kind"] for one in found]
    pools = len(scenario.deployment.pools) or 1
    assert kinds.count("Deployment") + kinds.count("LeaderWorkerSet") == pools
    assert kinds.count("Service") == pools
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in names)
    for one in found:
        if one["kind"] == "Service":  # it finds the pods
            name = one["metadata"]["name"]
            workload = next(
                w for w in found if w["kind"] != "Service" and w["metadata"]["name"] == name
            )
            spec = workload["spec"]
            template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
            labels = template["metadata"]["labels"]
            wanted = {k: v for k, v in one["spec"]["selector"].items() if "worker-index" not in k}
            assert wanted.items() <= labels.items()


@pytest.mark.parametrize(
    ("hardware", "resource", "selector"),
    [
        ("h100-sxm", "nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}),
        ("mi300x", "amd.com/gpu", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}),
        ("tpu-v6e", "google.com/tpu", {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice"}),
        ("gaudi-3", "habana.ai/gaudi", None),
        ("trainium2", "aws.amazon.com/neuron", None),
    ],
)
def test_each_vendor_has_its_resource(
    hardware: str, resource: str, selector: dict[str, str] | None
) -> None:
    text = files(CHAT, f"hardware={hardware}", "parallelism.tp=2", "deployment.replicas=3")
    deployment = check(text["kubernetes.yaml"])[0]
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 3
    assert pod["containers"][0]["resources"]["limits"] == {resource: "2"}
    assert pod.get("nodeSelector") == selector


def test_a_replica_over_nodes_is_a_leader_and_its_workers() -> None:
    found = check(launch_manifest(load_scenario("two-nodes-70b-l40s")))
    spec = found[0]["spec"]["leaderWorkerTemplate"]
    assert spec["size"] == 2
    leader = spec["leaderTemplate"]["spec"]["containers"][0]
    worker = spec["workerTemplate"]["spec"]["containers"][0]
    assert leader["resources"]["limits"] == {"nvidia.com/gpu": "4"}  # of eight, over two nodes
    assert "--headless" in worker["args"]
    assert "readinessProbe" in leader
    assert "readinessProbe" not in worker


def test_names_that_older_yaml_takes_for_values_stay_text() -> None:
    pools = "deployment.pools=[{name: 'yes'}, {name: '0x1f'}, {name: '1e3'}]"
    found = check(files(CHAT, pools)["kubernetes.yaml"])
    names = [one["metadata"]["annotations"]["servecast/pool"] for one in found
             if one["kind"] == "Deployment"]  # fmt: skip
    assert names == ["yes", "0x1f", "1e3"]  # as a reader of YAML 1.1 has them


def test_names_cannot_leave_their_comment() -> None:
    made = files(CHAT, 'name="a\\nrm -rf x\\r\\u2028b"')
    assert words(made["serve.sh"])[:2] == ["exec", "vllm"]
    assert made["serve.sh"].splitlines()[1].startswith("# a rm -rf x b: vLLM")
    check(made["kubernetes.yaml"])


def test_what_would_not_start_is_told() -> None:
    whole = "engine.policy={kind: continuous, chunked_prefill: false}"
    assert "vLLM starts without chunks only if" in files(CHAT, whole)["serve.sh"]
    fits = ("engine.max_model_len=4096", whole)
    assert "vLLM starts without chunks only if" not in files(CHAT, *fits)["serve.sh"]
    paged = ("engine.block_size=64", "engine.max_num_batched_tokens=1000")
    assert "chunks of whole pages" in files(CHAT, *paged, engine="sglang")["serve.sh"]
    apart = files("disaggregated-70b-h100", engine="tensorrt-llm")
    assert yaml.safe_load(apart["serve-prefill.yaml"])["disable_overlap_scheduler"] is True
    assert "engine.async_scheduling: context servers cannot" in apart["serve-prefill.sh"]


SCALED = {"kind": "queue", "target": 2.5, "min": 2, "max": 9, "initial": 3, "down_window_s": 120}


def test_scaling_by_the_queue_is_an_autoscaler() -> None:
    found = check(files(CHAT, f"deployment.autoscaling={json.dumps(SCALED)}")["kubernetes.yaml"])
    scaler = found[-1]
    assert scaler["kind"] == "HorizontalPodAutoscaler"
    spec = scaler["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
    assert spec["metrics"][0]["pods"]["target"]["averageValue"] == "2.5"
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 120
    assert spec["scaleTargetRef"]["name"] == found[0]["metadata"]["name"]
    assert spec["scaleTargetRef"]["kind"] == found[0]["kind"]
    over_nodes = files("two-nodes-70b-l40s", f"deployment.autoscaling={json.dumps(SCALED)}")
    scaled = check(over_nodes["kubernetes.yaml"])[-1]
    assert scaled["spec"]["scaleTargetRef"]["kind"] == "LeaderWorkerSet"
    assert found[0]["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("scaling", "why"),
    [
        ({"kind": "queue", "target": 2, "min": 0, "max": 4}, "does not scale to zero"),
        ({"kind": "utilization", "target": 0.5, "max": 4}, "has no kind utilization"),
        ({"kind": "schedule", "steps": [{"at_s": 0, "replicas": 2}]}, "has no kind schedule"),
        (SCALED | {"cooldown_s": 60}, "cooldown_s: an autoscaler has windows instead"),
    ],
)
def test_scaling_that_an_autoscaler_cannot_do_is_told(scaling: dict[str, Any], why: str) -> None:
    text = files(CHAT, f"deployment.autoscaling={json.dumps(scaling)}")["kubernetes.yaml"]
    check(text)
    assert re.search(rf"# not expressible: deployment.autoscaling.*{why}", text)


# --- mistakes and the command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["engine=tgi"],
            "no launch arguments are known for Text Generation Inference; name the engine",
        ),
        (["model=llama-3.1-405b"], "does not fit on"),
        (
            ["hardware=mi300x", "engine=tensorrt-llm"],
            "TensorRT-LLM does not run on AMD Instinct MI300X 192 GB; take a GPU of NVIDIA",
        ),
        (["hardware=apple-m4-max"], "Kubernetes has no device plugin for Apple M4 Max"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        launch_manifest(load_scenario(CHAT, overrides))


def test_attention_ranks_that_tensorrt_llm_does_not_have() -> None:
    with pytest.raises(UserError, match="data-parallel over every device or over none"):
        files("data-parallel-attention-deepseek-v3-h200", "parallelism.tp=2", "parallelism.dp=4",
              engine="tensorrt-llm")  # fmt: skip


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    run = CliRunner()
    printed = run.invoke(cli, ["export", CHAT])
    assert printed.exit_code == 0
    assert printed.stdout.startswith("#!/bin/sh\n# chat-8b-h100: vLLM")
    manifest = run.invoke(cli, ["export", CHAT, "--for", "kubernetes"])
    assert documents(manifest.stdout)[0]["kind"] == "Deployment"
    out = tmp_path / "made"
    assert run.invoke(cli, ["export", CHAT, "--for", "sglang", "--out", str(out)]).exit_code == 0
    assert sorted(file.name for file in out.iterdir()) == ["kubernetes.yaml", "serve.sh"]
    assert os.access(out / "serve.sh", os.X_OK)
    again = run.invoke(cli, ["export", CHAT, "--out", str(out)])
    assert again.exit_code == 2
    both = json.loads(run.invoke(cli, ["export", CHAT, "--json"]).stdout)
    assert sorted(both) == ["kubernetes.yaml", "serve.sh"]


def test_a_plan_leaves_the_files_of_its_winner_or_the_reason(tmp_path: Path) -> None:
    chat = dump_scenario(load_scenario(CHAT))
    made = _deployment(chat, tmp_path / "a")
    assert [path.name for path in made] == ["serve.sh", "kubernetes.yaml"]
    none = _deployment(dump_scenario(load_scenario(CHAT, "engine=tgi")), tmp_path / "b")
    assert [path.name for path in none] == ["not-written.txt"]
    assert "no launch arguments are known for Text Generation" in none[0].read_text()


def test_vllm_is_not_asked_for_longer_sequences_than_its_cache_holds() -> None:
    scenario = load_scenario("chat-8b-h100", ["hardware=l4"])
    (pool,) = resolve_pools(scenario)
    holds = pool.deployment.memory.kv_tokens
    assert holds < pool.deployment.limits.max_model_len
    text = launch_files(scenario)["serve.sh"]
    asked = re.search(r"--max-model-len (\d+)", text)
    assert asked is not None
    assert int(asked[1]) == holds
    assert "instead of 131,072" in text
