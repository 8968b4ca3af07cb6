"""Measuring a machine, and the profile that is fitted to the measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from calibration.engine.build import NAME  # noqa: E402
from calibration.fit.machine import operators, steps  # noqa: E402
from calibration.fit.machine.profile import MachineFit, Own  # noqa: E402
from calibration.measure import cpu, floors, gpu, run  # noqa: E402
from calibration.measure.bursts import burst, step_rows  # noqa: E402
from calibration.measure.rows import FILE, Row, load_rows, save_rows  # noqa: E402
from calibration.measure.stage import Shape, packed  # noqa: E402
from simulator.cli import cli  # noqa: E402
from simulator.costs.model import StepCostModel  # noqa: E402
from simulator.deployment import Limits  # noqa: E402
from simulator.engines import load_engine  # noqa: E402
from simulator.engines.profile import HostOverhead, Launches  # noqa: E402
from simulator.errors import UserError  # noqa: E402
from simulator.hardware import load_hardware  # noqa: E402
from simulator.hardware.profile import HardwareProfile  # noqa: E402
from simulator.models import load_model  # noqa: E402
from simulator.models.layout import ALONE  # noqa: E402
from simulator.scenario.policies import ContinuousPolicy  # noqa: E402

DENSE: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MOE = DENSE | {
    "model_type": "qwen3_moe", "moe_intermediate_size": 16, "num_experts": 4,
    "num_experts_per_tok": 2, "norm_topk_prob": True,
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sweeps."""
    monkeypatch.setattr(cpu, "_BATCHES", (1, 2, 3, 5))
    monkeypatch.setattr(cpu, "_CONTEXTS", (16, 40))
    monkeypatch.setattr(cpu, "_PROMPTS", (2, 5, 9, 20))
    monkeypatch.setattr(cpu, "_LATER", ((4, 16),))
    monkeypatch.setattr(cpu, "_SEVERAL", ((2, 8),))
    monkeypatch.setattr(cpu, "_MIXED", ((2, 20, 6),))
    monkeypatch.setattr(run, "_ROUNDS", {"cpu": 2})
    monkeypatch.setattr(run, "_BURSTS", {"cpu": ((3, 8, 4), (2, 12, 3))})
    monkeypatch.setattr(run, "_CEILINGS", {"cpu": ("bf16",)})


def config(folder: Path, values: dict[str, Any], name: str = "tiny") -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values))
    return str(path)


def quiet(part: str, done: int, total: int) -> None:
    assert 0 <= done <= total


# --- measuring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [DENSE, MOE])
def test_a_cpu_is_measured_operator_by_operator(
    tmp_path: Path, few: None, values: dict[str, Any]
) -> None:
    model = run.named(config(tmp_path, values), run.formats("bf16"))
    _, rows = run.calibrate([model], CPU, tmp_path / "out", quiet)
    names = {row.name for row in rows if row.what == "operator"}
    spec = model.decoder.spec
    hardware = load_hardware("xeon-6980p-2s")
    wanted = set(operators.operators(spec, hardware, NAME, model.precision))
    assert names - {"executor"} == wanted
    assert all(row.seconds > 0 and row.rounds == 2 for row in rows if row.what == "operator")
    whole = [row for row in rows if row.name == "executor"]
    spec_operators = operators.operators(spec, hardware, NAME, model.precision)
    for row in whole:  # the parts of a step take most of it, and no more
        parts = sum(
            part.seconds * spec_operators[part.name].count  # type: ignore[attr-defined]
            for part in rows
            if part.what == "operator"
            and part.name != "executor"
            and (part.decode, part.context, part.chunks) == (row.decode, row.context, row.chunks)
        )
        assert 0.3 * row.seconds < parts < 1.3 * row.seconds
    assert len(whole) == len(list(cpu.shapes()))
    assert {row.what for row in rows} == {"ceiling", "operator", "step"}


def test_a_gpu_is_measured_by_the_same_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep itself, with calls on this processor in place of graphs."""
    monkeypatch.setattr(gpu, "_TOKENS", (1, 4, 16))
    monkeypatch.setattr(gpu, "_BATCHES", (1, 3))
    monkeypatch.setattr(gpu, "_CONTEXTS", (16, 64))
    monkeypatch.setattr(gpu, "_PROMPTS", (8, 30))
    monkeypatch.setattr(gpu, "_LATER", ((4, 16),))
    monkeypatch.setattr(gpu, "_SEVERAL", ((2, 8),))
    for values in (DENSE, MOE):
        model = run.named(config(tmp_path, values), run.formats("bf16"))
        engine = run._stage(model, CPU)
        rows = list(gpu.operator_rows(engine, gpu.CallTimer(2), model.labels, lambda d, t: None))
        wanted = operators.operators(
            model.decoder.spec, load_hardware("h100-sxm"), NAME, model.precision
        )
        assert {row.name for row in rows} == set(wanted)
        assert {row.rows for row in rows if row.name == "norm"} == {1, 4, 16}
        assert {(r.decode, r.context) for r in rows if r.name == "decode_attention"} == {
            (1, 16), (1, 64), (3, 48), (3, 192)
        }  # fmt: skip


def test_a_staged_step_is_what_it_says(tmp_path: Path) -> None:
    model = run.named(config(tmp_path, DENSE), run.formats("bf16"))
    engine = run._stage(model, CPU)
    step = packed(engine, Shape([17, 3], [(5, 0), (4, 20)]))
    assert step.decode == 2
    assert step.positions.tolist() == [16, 2, *range(5), *range(20, 24)]
    assert step.starts.tolist() == [0, 5, 9]
    assert step.lengths.tolist() == [5, 24]
    assert step.sampled.tolist() == [0, 1, 6, 10]
    assert step.block_numbers.tolist() == list(range(2 + 1 + 1 + 2))
    assert len(engine.executor.run(step).wait()) == 4


def test_every_round_of_a_burst_runs_the_same_steps(tmp_path: Path) -> None:
    model = run.named(config(tmp_path, DENSE), run.formats("bf16"))
    engine = run._stage(model, CPU)
    requests = burst(5, 20, 6, seed=3)
    rows = list(step_rows(engine, [requests], 2, model.labels))
    assert [row.idle for row in rows] == [True] + [False] * (len(rows) - 1)
    prompts = sum(chunk.new for row in rows for chunk in row.prompt_chunks)
    assert prompts == requests.input_tokens.sum()
    tokens = sum(row.sampled for row in rows)
    assert tokens == requests.output_tokens.sum()
    assert all(0 < row.host_s <= row.seconds * 1.5 for row in rows)


def test_measuring_goes_on_where_it_stopped(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run.named(config(tmp_path, DENSE), run.formats("bf16"))
    out = tmp_path / "out"

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "_steps", stop)
        with pytest.raises(KeyboardInterrupt):
            run.calibrate([model], CPU, out, quiet)
    before, _ = load_rows(out)
    assert {row.what for row in before} == {"ceiling", "operator"}
    monkeypatch.setattr(run, "_operators", stop)  # must not be asked again
    _, rows = run.calibrate([model], CPU, out, quiet)
    assert rows[: len(before)] == before
    assert {row.what for row in rows[len(before) :]} == {"step"}
    monkeypatch.setattr(run, "_steps", stop)
    assert run.calibrate([model], CPU, out, quiet)[1] == rows


def test_measurements_of_another_machine_are_not_mixed(tmp_path: Path, few: None) -> None:
    model = run.named(config(tmp_path, DENSE), run.formats("bf16"))
    out = tmp_path / "out"
    _, rows = run.calibrate([model], CPU, out, quiet)
    machine = load_rows(out)[1]
    save_rows(out, rows, machine | {"device": "Another One"})
    with pytest.raises(UserError, match="holds measurements of device Another One, this is"):
        run.calibrate([model], CPU, out, quiet)


def test_files_that_are_no_measurements(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no measurements\.parquet"):
        load_rows(tmp_path)
    (tmp_path / FILE).write_text("what")
    with pytest.raises(UserError, match="holds no measurements of ours"):
        load_rows(tmp_path)


# --- fitting -------------------------------------------------------------------------------------

HOST = HostOverhead(step_ms=0.4, per_seq_us=30.0, per_token_us=1.5, overlap=0.0)


def made_up(folder: Path, hardware: HardwareProfile, *, kind: str = "cpu") -> None:
    """Measurements that the cost model itself made of a device, to be found again."""
    (folder / "models").mkdir(parents=True)
    big = DENSE | {"hidden_size": 1024, "intermediate_size": 3072, "head_dim": 64,
                   "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
    config(folder / "models", big, "big")
    spec = load_model(str(folder / "models" / "big.json"))
    precision = run.formats("bf16")
    engine = load_engine(NAME)
    bare = engine.overheads[-1].model_copy(update={"host": HOST, "launches": Launches(kernel_us=0)})
    engine = engine.model_copy(update={"overheads": (bare,)})
    limits = Limits(ContinuousPolicy(), 64, 1024, 2048, 16, True, False, False)
    cost = StepCostModel(spec, hardware, engine, precision, ALONE, limits)
    labels = {"model": "big", "weights": "bf16", "activations": "bf16", "kv_cache": "bf16"}
    rows = [
        Row("ceiling", "copy", 1.0, 3, amount=hardware.bandwidth_bytes_per_s),
        Row(
            "ceiling", "gemm", 1.0, 3, activations="bf16", amount=hardware.peak_flops_per_s("bf16")
        ),
    ]
    known = operators.operators(spec, hardware, NAME, precision)
    for shape in cpu.shapes():
        row = shape.row("operator", "", [1.0], rows=shape.tokens, **labels)
        sizes = floors._shape(row)
        for name, op in known.items():
            seconds = float(op.demand(sizes).seconds[0]) / op.count  # type: ignore[attr-defined]
            if seconds > 0:
                rows.append(replace(row, name=name, seconds=seconds))
    rng = np.random.default_rng(1)
    for number in range(200):
        batch, context = int(rng.integers(1, 60)), int(rng.integers(20, 900))
        chunks = [(int(rng.integers(1, 300)), 0)] if number % 3 == 0 else []
        shape = Shape([context] * batch, chunks)
        row = shape.row("step", f"burst-{number % 4}", [1.0], rows=shape.tokens, **labels)
        host_s = 4e-4 + 3e-5 * (batch + len(chunks))
        rows.append(replace(row, seconds=steps.predicted(cost, row), host_s=host_s))
    save_rows(
        folder, rows,
        {"date": "2026-01-02T03:04:05+00:00", "program": "0", "torch": "2", "triton": None,
         "device": "Made Up", "kind": kind, "memory_gib": 64.0, "threads": 1,
         "instructions": "none"},
    )  # fmt: skip


def test_what_made_the_measurements_is_found_again(tmp_path: Path) -> None:
    hardware = load_hardware("xeon-6980p-2s")
    made_up(tmp_path, hardware)
    machine = MachineFit(tmp_path)
    lines: list[Any] = []
    profile = HardwareProfile.model_validate(
        machine.profile(Own("made-up", "Made up", 10.0, 1.0), lines.append)
    )
    assert profile.bandwidth_bytes_per_s == pytest.approx(hardware.bandwidth_bytes_per_s, rel=1e-3)
    assert all(line.fit.median < 0.01 for line in lines), lines
    assert {line.family for line in lines} >= {"matmul bf16", "decode_attention bf16", "steps"}
    overheads = profile.efficiency.engines[NAME].overheads
    assert overheads is not None
    assert overheads.host.step_ms == pytest.approx(0.4, rel=0.15)
    assert overheads.host.per_seq_us == pytest.approx(30.0, rel=0.1)
    assert overheads.host.per_token_us == pytest.approx(1.5, rel=0.15)
    assert overheads.fit is not None
    assert overheads.fit.held_out_median_pct["tpot_ms"] < 1.0


def test_a_refit_reproduces_the_file(tmp_path: Path) -> None:
    made_up(tmp_path / "raw", load_hardware("xeon-6980p-2s"))
    out = tmp_path / "mine.yaml"
    command = ["fit", "--measured", str(tmp_path / "raw"), "--out", str(out), "--tdp-w", "9",
               "--idle-w", "2", "--title", "Mine"]  # fmt: skip
    first = CliRunner().invoke(cli, command)
    assert first.exit_code == 0, first.output
    assert "wrote" in first.output
    again = CliRunner().invoke(cli, command)
    assert f"{out} holds exactly this" in again.output
    mine = load_hardware(str(out))
    assert (mine.name, mine.title, mine.kind) == ("mine", "Mine", "cpu")
    assert mine.power.tdp_w.value == 9


def test_kernels_are_added_to_a_profile(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    source = Path("hardware_profiles/h100-sxm.yaml")
    (profiles / "h100-sxm.yaml").write_text(source.read_text())
    made_up(tmp_path / "raw", load_hardware("h100-sxm"), kind="cuda")
    command = ["fit", "--measured", str(tmp_path / "raw"), "--device", "h100-sxm", "--profiles",
               str(profiles)]  # fmt: skip
    told = CliRunner().invoke(cli, command)
    assert "differs; --write replaces the micro-engine's part" in told.output, told.output
    written = CliRunner().invoke(cli, [*command, "--write"])
    assert written.exit_code == 0, written.output
    assert "holds exactly this" in CliRunner().invoke(cli, command).output
    before = load_hardware("h100-sxm").efficiency
    after = load_hardware(str(profiles / "h100-sxm.yaml")).efficiency
    assert after.engines[NAME].overheads is not None
    assert after.matmul == before.matmul  # nobody else's kernels change
    assert after.seen_by(NAME).matmul != before.matmul
    others = {"engines": {}}
    assert after.model_copy(update=others) == before.model_copy(update=others)


def test_measurements_of_another_kind_of_device_are_refused(tmp_path: Path) -> None:
    made_up(tmp_path / "raw", load_hardware("xeon-6980p-2s"))
    command = ["fit", "--measured", str(tmp_path / "raw"), "--device", "h100-sxm"]
    answer = CliRunner().invoke(cli, command)
    assert answer.exit_code == 2
    assert "was measured on Made Up, which is no NVIDIA H100" in answer.output


def test_a_second_model_of_one_name_is_refused(tmp_path: Path, few: None) -> None:
    first = run.named(config(tmp_path, DENSE), run.formats("bf16"))
    run.calibrate([first], CPU, tmp_path / "out", quiet)
    other = run.named(config(tmp_path, DENSE | {"hidden_size": 64}), run.formats("bf16"))
    with pytest.raises(UserError, match="holds measurements of another model called tiny"):
        run.calibrate([other], CPU, tmp_path / "out", quiet)


def test_kernels_alone_are_worth_fitting(tmp_path: Path) -> None:
    """Where measuring was stopped before the steps, the engine's own overheads stand."""
    made_up(tmp_path, load_hardware("xeon-6980p-2s"))
    rows, machine = load_rows(tmp_path)
    save_rows(tmp_path, [row for row in rows if row.what != "step"], machine)
    profile = HardwareProfile.model_validate(
        MachineFit(tmp_path).profile(Own("made-up", "Made up", 10.0, 1.0), lambda line: None)
    )
    assert profile.efficiency.engines[NAME].overheads is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out", "x.yaml"], "a new profile needs the machine's power"),
        (["--out", "x.yaml", "--tdp-w", "2", "--idle-w", "3"], "a new profile needs the machine's"),
        ([], "needs either one --device"),
        (["--device", "h100-sxm", "--out", "x.yaml"], "needs either one --device"),
        (["--device", "h100-sxm", "--tdp-w", "3"], "belong to --out"),
        (["--device", "h100-smx"], "there is no profile 'h100-smx'; did you mean 'h100-sxm'?"),
        (["--out", "x.yaml", "--write"], "goes with --device"),
        (["--engine", "vllm", "--out", "x.yaml"], "takes no TABLES"),
        (
            ["--out", "My Machine.yaml", "--tdp-w", "3", "--idle-w", "1"],
            "cannot be a profile's file",
        ),
        (
            ["--out", "x.yaml", "--tdp-w", "inf", "--idle-w", "1"],
            "a new profile needs the machine's",
        ),
    ],
)
def test_options_that_contradict(tmp_path: Path, options: list[str], sentence: str) -> None:
    made_up(tmp_path / "raw", load_hardware("xeon-6980p-2s"))
    answer = CliRunner().invoke(cli, ["fit", "--measured", str(tmp_path / "raw"), *options])
    assert answer.exit_code == 2
    assert sentence in answer.output
    assert "Traceback" not in answer.output


def test_calibrate_from_the_command_line(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = config(tmp_path, DENSE)
    answer = CliRunner().invoke(
        cli, ["calibrate", "--device", "cpu", "--model", model, "--out", "o"]
    )
    assert answer.exit_code == 0, answer.output
    assert "GB/s" in answer.output
    assert "TFLOP/s" in answer.output
    assert "tiny: " in answer.output
    assert "measurements in o/measurements.parquet" in answer.output
    table = list(floors.table(list(floors.reached(Path("o"))), everything=True))
    assert len(table) > 100


def test_facts_of_a_machine_go_with_its_measurements() -> None:
    answer = CliRunner().invoke(cli, ["fit", "x", "--device", "h100-sxm", "--tdp-w", "3"])
    assert answer.exit_code == 2
    assert "belong to --measured DIR" in answer.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "gemma-2-9b"], "the micro-engine does not run gemma-2-9b"),
        (["--model", "nothing.json"], "no such file or folder"),
        (["--model", "llama-3.1-405b"], "its weights take"),
        (["--model", "llama-3.2-1b", "--weights", "fp8"], "processors have no products in fp8"),
        (["--model", "llama-3.2-1b", "--out", "/proc/nowhere"], "cannot be written"),
        (["--device", "cuda"], "PyTorch finds no CUDA device here"),
    ],
)
def test_what_cannot_be_measured(tmp_path: Path, options: list[str], sentence: str) -> None:
    if torch.cuda.is_available() and "cuda" in options:
        pytest.skip("there is a CUDA device")
    out = [] if "--out" in options else ["--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(cli, ["calibrate", "--device", "cpu", *options, *out])
    assert answer.exit_code == 2
    assert sentence in answer.output


def test_the_shipped_profile_is_what_its_measurements_give() -> None:
    raw = Path("calibration/datasets/measured/amd-epyc-zen5-1t")
    answer = CliRunner().invoke(
        cli,
        ["fit", "--measured", str(raw), "--out", "hardware_profiles/amd-epyc-zen5-1t.yaml",
         "--title", "One thread of an AMD EPYC (Zen 5)", "--tdp-w", "6", "--idle-w", "2"],
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert "holds exactly this" in answer.output
