"""Rows that name their load: energy at a number of sequences, and everything at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from calibration.validate import document, read_dataset, validate
from calibration.validate.formats import preset_name, target
from calibration.validate.loads import loads, unsaid, ways
from calibration.validate.metrics import errors
from calibration.validate.offline import limited
from calibration.validate.page import page
from calibration.validate.point import Point
from calibration.validate.protocol import scenario_of
from calibration.validate.tables import markdown
from simulator import load_hardware, load_model
from simulator.errors import UserError
from tests.test_validate_schema import write

ENERGY = (
    "model,gpu,n_gpus,parallelism,weight_dtype,kv_dtype,engine,engine_version,isl,osl,load_kind,"
    "load,task,architecture,avg_batch_size,output_tokens_per_s,itl_ms_p50,itl_ms_p90,itl_ms_p95,"
    "itl_ms_p99,avg_power_w_all_gpus,energy_j_per_output_token"
)
KIND = "closed_loop_max_num_seqs"


def energy_row(
    model: str = "Qwen/Qwen3-8B",
    ways: str = "1,TP1-EP1-DP1",
    dtype: str = "bf16",
    load: str = f"{KIND},4,lm-arena-chat",
    kind: str = "Dense Transformer",
    isl: str = "",
) -> str:
    return f"{model},H100,{ways},{dtype},,vLLM,0.11.1,{isl},120.5,{load},{kind},3.9,500,8,9,10,12,400,0.8"


def energy(folder: Path, *rows: str) -> Path:
    return write(folder, ENERGY, *rows)


def test_a_full_server(tmp_path: Path) -> None:
    (point,) = read_dataset(energy(tmp_path, energy_row())).points
    task = loads().saturated.tasks["lm-arena-chat"]
    assert (point.concurrency, point.max_num_seqs, point.num_prompts) == (4, 4, task.requests)
    assert (point.isl, point.osl, point.output_cv) == (task.isl, 120.5, task.output_cv)
    assert (point.precision, point.statistic, point.measured.power_w) == ("bf16", "p50", 400.0)
    assert point.measured.itl_ms == {"p50": 8.0, "p90": 9.0, "p95": 10.0, "p99": 12.0}
    scenario = scenario_of(point, target(point))
    assert not scenario.measurement.include_drain
    assert scenario.engine.max_num_batched_tokens == 8192
    assert scenario.workload.lengths.output.cv == task.output_cv  # type: ignore[union-attr]


def test_more_sequences_send_the_prompts_again(tmp_path: Path) -> None:
    rows = [energy_row(load=f"{KIND},{load},gpqa") for load in (8, 128, 192, 512)]
    counts = [p.num_prompts for p in read_dataset(energy(tmp_path, *rows)).points]
    assert counts == [198, 198, 396, 792]


def test_what_a_row_says_goes_first(tmp_path: Path) -> None:
    (point,) = read_dataset(energy(tmp_path, energy_row(isl="77"))).points
    assert point.isl == 77


def test_rows_that_cannot_be_expressed(tmp_path: Path) -> None:
    rows = [
        energy_row(ways="2,TP1-EP2-DP1"),
        energy_row(ways="2,DEP2"),
        energy_row(ways="4,TP2-PP2"),
        energy_row(kind="Mamba-Transformer Hybrid"),
        energy_row(load=f"{KIND},8,image-chat"),
        energy_row(load=f"{KIND},8,knitting"),
        energy_row(model="acme/unknown-7b"),
    ]
    found = validate(read_dataset(energy(tmp_path, *rows)), tmp_path / "out")
    assert found.comparisons == ()
    reasons = Counter(row.reason.partition(" over ")[0].partition(";")[0] for row in found.skipped)
    assert reasons == {
        "the simulator refuses it: parallelism.ep: qwen3-8b has no experts that could lie on "
        "different devices": 2,
        "pipeline parallelism": 1,
        "state-space layers are not modelled yet": 1,
        "prompts with images or videos are not modelled yet": 1,
        "no isl is given, and nothing is known about the task 'knitting'": 1,
        "there is no model 'acme/unknown-7b'": 1,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (energy_row(load=f"{KIND},many,gpqa"), "load: must be a number of sequences, got 'many'"),
        (energy_row(load="warp,8,gpqa"), "load_kind: must be one of closed_loop_max_num_seqs, off"),
        (energy_row(ways="1,XP2"), "parallelism: must be such as TP2 or TP1-EP8-DP1"),
        (energy_row(isl="-5"), "isl: should be greater than 0"),
    ],
)
def test_wrong_cells(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UserError, match=r"mine\.csv:2, " + message):
        read_dataset(energy(tmp_path, row))


def test_energy_and_power_are_compared(tmp_path: Path) -> None:
    rows = [energy_row(load=f"{KIND},{load},gpqa") for load in (4, 8)]
    found = validate(read_dataset(energy(tmp_path, *rows)), tmp_path / "out")
    metrics = document(found.comparisons, found.skipped)["metrics"]
    assert list(metrics)[:4] == ["ttft_ms", "tpot_ms", "e2e_ms", "itl_ms"]
    for name in ("itl_ms", "itl_ms_p99", "energy_j_per_output_token", "power_w", "avg_batch_size"):
        assert metrics[name]["n"] == 2
    power = load_hardware("h100").power
    for c in found.comparisons:
        assert power.idle_w.value < c.prediction["power_w"] <= power.tdp_w.value
        watts, rate = c.prediction["power_w"], c.prediction["output_tokens_per_s"]
        assert c.prediction["energy_j_per_output_token"] == pytest.approx(watts / rate, rel=1e-3)
        assert c.prediction["avg_batch_size"] == pytest.approx(c.point.concurrency, rel=0.03)
    assert errors(found.comparisons, "ttft_ms").n == 0
    assert "| power at rate | 2 |" in markdown(found.comparisons, found.skipped)
    assert "scatter-energy_j_per_output_token" in page(found)


def test_power_at_the_measured_rate(tmp_path: Path) -> None:
    """At its own rate the power model says what the simulation says."""
    found = validate(read_dataset(energy(tmp_path, energy_row())), tmp_path / "out").comparisons[0]
    own = found.prediction["output_tokens_per_s"]
    for share, tolerance in ((1.0, 0.02), (0.5, 0.3)):
        measured = found.point.measured.model_copy(update={"output_tokens_per_s": share * own})
        row = type(found)(found.point.model_copy(update={"measured": measured}), found.prediction,
                          "fit", True)  # fmt: skip
        _, watts = row.pair("power_w_at_measured_rate") or (0.0, 0.0)
        assert watts == pytest.approx(found.prediction["power_w"], rel=tolerance)
        assert (watts < found.prediction["power_w"]) or share == 1.0


def test_names_in_tables() -> None:
    known = {
        "LLaMA v3.1 8B": "llama-3.1-8b", "Llama 3.3 70B": "llama-3.3-70b",
        "Mixtral 8x22B": "mixtral-8x22b", "Qwen3 235B A22B": "qwen3-235b-a22b",
        "GPT-OSS 120B": "gpt-oss-120b", "Llama 4 Scout": "llama-4-scout",
        "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
    }  # fmt: skip
    for name, preset in known.items():
        assert load_model(preset_name(name)).name == preset
    assert ways("TP4") == {"tp": 4}
    assert ways("DEP8") == {"attention_dp": 8, "moe_ep": 8}
    assert ways("2x4") is None


SAMPLE = Path(__file__).parent.parent / "calibration/datasets/offline_throughput_sample.csv"
OFFLINE = "model,gpu,n_gpus,parallelism,weight_dtype,kv_dtype,engine,engine_version,isl,osl,load_kind,load,output_tokens_per_s"  # fmt: skip


def offline(folder: Path, row: str) -> Point:
    (point,) = read_dataset(write(folder, OFFLINE, row)).points
    return point


def test_everything_at_once(tmp_path: Path) -> None:
    row = "LLaMA v3.1 8B,H100 SXM 80GB,1,TP1,fp8,,TensorRT-LLM (bench),0.17,500,2000,offline_max_throughput,inf,18000"
    point = offline(tmp_path, row)
    assert (point.concurrency, point.num_prompts, point.engine) == (3000, 3000, "TensorRT-LLM")
    assert (point.kv_cache, point.memory_fraction, point.bench_limits) == ("fp8", 0.95, True)
    # 79.1 GiB less 8.5 GiB of weights, 0.95 of it, hold 1,073,000 tokens of 64 KiB: 439 sequences
    # of 2,500 and, in the mean, 439 · 1.25 tokens a step.
    known = limited(point, target(point))
    assert (known.max_num_seqs, known.max_num_batched_tokens) == (512, 2048)
    assert scenario_of(known, target(point)).measurement.include_drain
    assert limited(point.model_copy(update={"max_num_seqs": 7}), target(point)).max_num_seqs == 7


@pytest.mark.parametrize(
    ("isl", "osl", "limits"), [(128, 128, (4096, 8192)), (20000, 2000, (64, 2048))]
)
def test_the_tools_limits(tmp_path: Path, isl: int, osl: int, limits: tuple[int, int]) -> None:
    row = (
        f"Llama 3.1 8B,H100,1,TP1,fp8,fp8,TensorRT-LLM,1.0,{isl},{osl},offline_max_throughput,inf,1"
    )
    point = offline(tmp_path, row)
    known = limited(point, target(point))
    assert (known.max_num_seqs, known.max_num_batched_tokens) == limits


def test_rows_whose_command_says_more(tmp_path: Path) -> None:
    row = (
        "Llama 4 Scout,H100,4,TP4,fp8,,TensorRT-LLM,1.0 (new),128,128,offline_max_throughput,inf,1"
    )
    point = offline(tmp_path, row)
    assert "not modelled yet" in unsaid(point, target(point))


def test_names_that_mean_something_else_there(tmp_path: Path) -> None:
    row = "GPT-OSS 20B,H100,1,TP1,fp8,,TensorRT-LLM,1.1,1024,1024,offline_max_throughput,inf,1"
    point = offline(tmp_path, row)
    assert (point.model, point.precision, point.kv_cache) == ("gpt-oss-20b", "mxfp4", "bf16")


def test_the_shipped_sample(tmp_path: Path) -> None:
    """A tenth of the published rows: every model, GPU, precision and release."""
    dataset = read_dataset(SAMPLE)
    found = validate(dataset, tmp_path)
    assert (len(found.comparisons), len(found.skipped)) == (27, 3)
    assert all("not modelled yet" in row.reason for row in found.skipped)
    alone = [c for c in found.comparisons if c.point.system != "L40S" or c.point.tp == 1]
    output = errors(alone, "output_tokens_per_s")
    assert output.median_ape_pct is not None
    assert output.median_ape_pct < 12
    assert document(found.comparisons, found.skipped)["metrics"]["output_tokens_per_s"]["n"] == 27
    for c in found.comparisons:
        assert c.prediction["requests"] == c.point.num_prompts
