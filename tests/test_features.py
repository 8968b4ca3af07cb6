"""The table of features says what is true: fields, examples, tests and pages exist, and no feature
that the product promises is left out."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from simulator.cli import cli
from simulator.engines import load_engine
from simulator.errors import UserError
from simulator.features import AREAS, Feature, chosen, load_features, read_features
from simulator.features.paths import leads_somewhere
from simulator.hardware import load_hardware
from simulator.models import load_model
from simulator.planner.document import is_plan, load_plan
from simulator.planner.outlooks import outlooks
from simulator.resolve import resolve
from simulator.results.definitions import DEFINITIONS
from simulator.scenario import load_scenario

ROWS = load_features()
ON_ROWS = pytest.mark.parametrize("row", ROWS, ids=[f"{row.area}: {row.feature}" for row in ROWS])

# --- every row is true ---------------------------------------------------------------------------


@ON_ROWS
def test_fields_figures_and_commands_exist(row: Feature) -> None:
    for field in row.fields:
        assert leads_somewhere(field), field
        name = field.partition("=")[2]
        if field.startswith("model="):
            load_model(name)
        elif field.startswith("hardware.profile="):
            load_hardware(name)
        elif field.startswith("engine.profile="):
            load_engine(name)
    assert set(row.figures) <= {figure.key for figure in DEFINITIONS}
    assert not row.command or row.command in cli.commands


@pytest.mark.parametrize("example", sorted({row.example for row in ROWS}))
def test_examples_load_and_fit(example: str) -> None:
    file = str(ROOT / example)
    if is_plan(file):
        known, _ = outlooks(load_plan(file))
        assert any(entry.sizes for entry in known)
    else:
        resolve(load_scenario(file))


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@cache
def anchors(page: str) -> set[str]:
    """As GitHub derives them from the headings."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@ON_ROWS
def test_tests_and_pages_exist(row: Feature) -> None:
    file, _, function = row.test.partition("::")
    assert function in functions(file), row.test
    page, _, anchor = row.docs.partition("#")
    assert (ROOT / page).is_file(), row.docs
    assert not anchor or anchor in anchors(page), row.docs


def test_no_row_stands_twice() -> None:
    told = [(row.area, row.feature) for row in ROWS]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("engine.policy=prefill_first", True),
        ("engine.policy=prefill_last", False),
        ("engine.policy.chunked_prefill", True),
        ("engine.policy.chunked", False),
        ("workload.classes.slo.ttft_ms", True),
        ("workload.classes.workload.arrivals=gamma", True),
        ("workload.classes.0.slo", False),
        ("engine.max_num_seqs=many", False),
        ("engine.max_num_seqs=4", True),
        ("precision.weights=fp8", True),
        ("precision.weights=fp9", False),
        ("modle", False),
        ("", False),
    ],
)
def test_paths_are_followed_through_kinds_and_lists(path: str, there: bool) -> None:
    assert leads_somewhere(path) is there


# --- nothing is left out -------------------------------------------------------------------------

EXPECTED: dict[str, tuple[str, ...]] = {
    "Model architecture": (
        r"\bdense\b", r"\bMHA\b|multi-head", r"\bMQA\b", r"\bGQA\b|grouped", r"\bMLA\b|latent attention",
        r"routed", r"shared expert", r"first-k|first k|dense first|leading dense", r"skew",
        r"sliding|window", r"interleaved|alternat|local and global|local/global", r"cross-layer|across layers",
        r"linear attention", r"\bSSM\b|mamba|state.space", r"\btied\b", r"config\.json",
    ),
    "Model compression": (
        r"bf16|fp16", r"\bfp8\b", r"\bint8\b", r"weight-only", r"\bint4\b", r"\bfp4\b", r"activation",
        r"KV.cache", r"2:4", r"structured|pruned|pruning", r"distill|student", r"LoRA",
    ),
    "Attention and kernels": (
        r"FlashAttention", r"FlashAttention.1|\b1, 2\b|1/2/3", r"unfused", r"PagedAttention", r"fusion|fused operators", r"CUDA graphs",
    ),
    "Batching and scheduling": (
        r"static", r"dynamic", r"continuous|in-flight", r"prefill.first", r"chunked prefill", r"decode-maximal",
        r"full reservation", r"\bFCFS\b|first come", r"priorit", r"shortest", r"deadline|\bEDF\b", r"SLO.aware|SLO",
        r"recompute", r"swap", r"max_num_seqs", r"max_num_batched_tokens", r"max_model_len",
    ),
    "KV cache": (
        r"paged|blocks", r"watermark", r"contiguous|fragmentation", r"prefix caching", r"\bLRU\b",
        r"session", r"system prompt|shared prompt", r"few-shot", r"\bRAG\b", r"CPU memory|host memory",
        r"\bSSD\b|disk|NVMe", r"quantiz|fp8|int8", r"budget|memory rule|memory fraction",
    ),
    "Decoding": (
        r"draft model", r"EAGLE", r"\bMTP\b", r"n-gram", r"acceptance", r"draft cost|cost of drafting", r"verif",
        r"parallel sampling", r"best.of", r"reasoning", r"max_tokens", r"stop",
    ),
    "Parallelism": (
        r"tensor", r"pipeline", r"bubble", r"micro-?batch", r"replicas", r"data-parallel attention|DP attention",
        r"expert parallel", r"all-to-all", r"imbalance", r"context|sequence", r"fully sharded|FSDP|sharded weights",
        r"combin", r"nodes", r"collective",
    ),
    "Deployment": (
        r"round.robin", r"random", r"least.outstanding", r"power.of.two", r"prefix.aware", r"session affinity",
        r"disaggregat", r"KV transfer", r"heterogen", r"several models|multiple models", r"autoscal", r"cold start",
        r"scale.to.zero|serverless", r"real-time|interactive", r"async", r"offline|batch job", r"admission control",
        r"time-?out", r"failure", r"recover", r"network delay", r"edge|on-device",
    ),
    "Hardware": (
        r"NVIDIA data-centre", r"consumer", r"Instinct", r"TPU", r"Gaudi", r"Inferentia", r"Trainium", r"CPU",
        r"one YAML", r"calibration run",
    ),
    "Engines": (
        r"vLLM", r"SGLang", r"TensorRT-LLM", r"Text Generation Inference", r"DeepSpeed-Inference", r"ONNX Runtime",
        r"eager", r"one YAML", r"handful of measurements",
    ),
    "Workload": (
        r"Poisson", r"gamma|bursty", r"constant", r"ramp", r"diurnal", r"closed loop", r"Azure", r"BurstGPT", r"Mooncake",
        r"ShareGPT", r"CSV", r"JSONL", r"fixed", r"\bnormal\b", r"log-normal", r"empirical", r"sessions", r"classes",
    ),
    "Metrics": (
        r"TTFT", r"TPOT", r"inter-token", r"end-to-end", r"queueing", r"requests/s", r"output and total tokens/s",
        r"per GPU and per user", r"goodput", r"KV-cache use", r"batch size", r"preemption", r"hit rate", r"MFU", r"MBU",
        r"GPU utilization", r"power", r"energy a token", r"carbon", r"cost an hour",
    ),
    "Phases and limits": (
        r"separate rooflines", r"which resource binds", r"turns compute-bound",
    ),
    "Emulator": (
        r"OpenAI-compatible", r"prefix-cache hits", r"tokenizer", r"max_tokens", r"thinking", r"LoRA", r"bounded",
        r"HTTP errors", r"API key",
    ),
    "Monitoring": (
        r"Prometheus", r"Grafana dashboard", r"alerts", r"live emulator", r"from a simulation",
    ),
    "Planning": (
        r"what-if", r"side-by-side", r"sweep", r"highest rate", r"fewest GPUs", r"Pareto", r"headroom", r"failures", r"growth",
        r"on demand", r"reserved", r"spot", r"power cap", r"recommendation", r"reason", r"vLLM", r"SGLang", r"TensorRT-LLM",
        r"Kubernetes",
    ),
}  # fmt: skip
"""What the product promises, by area: words that some row's feature or fields must hold."""

"""Parts under way. A part that lands takes its words out."""


def missing() -> set[tuple[str, str]]:
    """What no row of its area holds."""
    told: dict[str, list[str]] = {}
    for row in ROWS:
        told.setdefault(row.area, []).append(f"{row.feature} {row.set_by}")
    return {
        (area, words)
        for area, wanted in EXPECTED.items()
        for words in wanted
        if not any(re.search(words, text, re.IGNORECASE) for text in told.get(area, ()))
    }


def test_every_promised_feature_has_a_row() -> None:
    assert set(EXPECTED) <= set(AREAS)
    assert missing() == set(), "no row of simulator/features holds these words"


# --- reading and showing -------------------------------------------------------------------------

GOOD = """\
# a comment
- area: Metrics
  feature: TTFT
  figures: [latency.ttft_ms]
  example: examples/chat-8b-h100.yaml
  test: "tests/test_features.py::test_no_row_stands_twice"
  docs: docs/results.md#figures
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Metrics", "Metrix", "rows.yaml:2: there is no area 'Metrix'; one of Model architecture"),
        ("  figures: [latency.ttft_ms]\n", "", "rows.yaml:2: a row names at least one field, figure or command"),
        ("figures", "figurs", "rows.yaml:4: rows[0].figurs: unknown key; did you mean 'figures'?"),
        ("test_features.py::", "", "rows.yaml:6: rows[0].test: "),
        ("docs/results.md#figures", "results", "rows.yaml:7: rows[0].docs: "),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_with_its_line(old: str, new: str, said: str) -> None:
    assert len(read_features(GOOD, "rows.yaml")) == 1
    with pytest.raises(UserError) as caught:
        read_features(GOOD.replace(old, new), "rows.yaml")
    assert str(caught.value).startswith(said)


def test_rows_are_chosen_by_area_and_word() -> None:
    assert [row.area for row in chosen(ROWS, "metr", None)].count("Metrics") > 10
    assert all("gamma" in row.words() for row in chosen(ROWS, None, "Gamma"))
    assert not chosen(ROWS, "Hardware", "TTFT")
    with pytest.raises(UserError, match="there is no area 'nowhere'"):
        chosen(ROWS, "nowhere", None)


def test_the_command() -> None:
    run = CliRunner()
    shown = run.invoke(cli, ["features"])
    assert shown.exit_code == 0
    assert all(area in shown.stdout for area in {row.area for row in ROWS})
    one = run.invoke(cli, ["features", "--area", "metrics", "ttft", "--json"])
    rows = json.loads(one.stdout)
    assert {row["area"] for row in rows} == {"Metrics"}
    assert rows[0]["figures"] == ["latency.ttft_ms"]
    assert run.invoke(cli, ["features", "qqqq"]).stdout == "No feature holds this word.\n"
    assert run.invoke(cli, ["features", "--area", "x"]).exit_code == 2


def test_rows_are_files_of_the_package() -> None:
    files = {file.name for file in (Path(ROOT) / "simulator" / "features").glob("*.yaml")}
    assert "existing.yaml" in files
