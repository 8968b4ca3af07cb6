"""The power curve: fitted to invented servers, held-out models, written into profiles."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import hardware_profiles
from calibration.fit import power as fitting
from calibration.validate import read_dataset, validate
from calibration.validate.metrics import power_at_measured_rate
from simulator import load_hardware
from simulator.cli import cli
from simulator.errors import UserError
from simulator.hardware import profile_names
from tests.test_validate_loads import ENERGY, KIND, energy_row
from tests.test_validate_schema import write

FOLDER = Path(str(hardware_profiles.__path__[0]))
TRUE = {"active": 0.3, "compute": 0.8, "memory": 0.3, "attention": 0.4, "widening": 0.2}


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Servers whose power follows a curve that is known, at rates a little off the predicted."""
    folder = tmp_path_factory.mktemp("power")
    models = [("Qwen/Qwen3-8B", "bf16"), ("openai/gpt-oss-20b", "mxfp4"), ("Qwen/Qwen3-14B", "bf16"),
              ("openai/gpt-oss-120b", "mxfp4"), ("google/gemma-3-27b-it", "bf16")]  # fmt: skip
    rows = [
        energy_row(model=name, dtype=dtype, load=f"{KIND},{load},{task}")
        for name, dtype in models
        for task, load in (("gpqa", 8), ("gpqa", 64), ("lm-arena-chat", 16), ("lm-arena-chat", 96))
    ]
    file = write(folder, ENERGY, *rows)
    own = load_hardware("h100").power
    own = own.model_copy(update={"curve": own.curve.model_copy(update=TRUE)})
    lines = list(csv.DictReader(file.read_text().splitlines()))
    for i, c in enumerate(validate(read_dataset(file), folder / "out").comparisons):
        rate = c.prediction["output_tokens_per_s"] * (0.8, 0.9, 1.0)[i % 3]
        measured = c.point.measured.model_copy(update={"output_tokens_per_s": rate})
        row = type(c)(c.point.model_copy(update={"measured": measured}), c.prediction, "fit", True)
        _, watts = power_at_measured_rate(row, own) or (0.0, 0.0)
        lines[i] |= {"output_tokens_per_s": str(rate), "avg_power_w_all_gpus": str(watts)}
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return file


def test_a_known_curve_is_found_again(invented: Path) -> None:
    found = fitting.fit_power(invented, "h100-sxm", invented.parent / "out")
    assert found.curve == {name: pytest.approx(value, abs=0.02) for name, value in TRUE.items()}
    assert (found.rows, found.models, found.held_rows, found.held_models) == (12, 3, 8, 2)
    assert found.residual_pct < 0.2
    assert found.held_out_pct is not None
    assert found.held_out_pct < 0.5
    with pytest.raises(UserError, match="has 0 rows with power and output_tokens_per_s of l40s"):
        fitting.fit_power(invented, "l40s", invented.parent / "out")


def test_the_command(invented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    for name in ("h100-sxm", "l40s"):
        shutil.copy(FOLDER / f"{name}.yaml", profiles)
    before = (profiles / "l40s.yaml").read_text()
    arguments = ["fit", "--power", str(invented), "--device", "h100-sxm", "--profiles", "profiles"]
    answer = CliRunner().invoke(cli, arguments)
    assert "differs; --write replaces its power curve" in answer.output
    answer = CliRunner().invoke(cli, [*arguments, "--write"])
    assert answer.exit_code == 0, answer.output
    assert "l40s.yaml, which inherits" in answer.output
    assert "holds exactly this" in CliRunner().invoke(cli, arguments).output
    written = load_hardware(str(profiles / "l40s.yaml")).power.curve
    parent = load_hardware(str(profiles / "h100-sxm.yaml")).power.curve
    assert (written.active, written.attention) == (parent.active, parent.attention)
    assert written.provenance.method == "inherited"
    assert parent.provenance.held_out_median_pct["power"] < 1.0
    after = (profiles / "l40s.yaml").read_text()
    cut = [
        text.partition("  curve:")[0] + text.partition("# one plain")[2] for text in (before, after)
    ]
    assert cut[0] == cut[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h100-sxm"], "needs TABLES to fit kernels, or --power FILE"),
        (["tables", "--power", "x.csv", "--device", "h100-sxm"], "takes no TABLES"),
        (["--power", "x.csv", "--device", "h100-sxm"], "x.csv: cannot be read"),
        (["--power", "x.csv", "--device", "h101"], "there is no profile 'h101'"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    answer = CliRunner().invoke(cli, ["fit", *arguments])
    assert answer.exit_code == 2
    assert message in answer.output


def test_the_shipped_curves_are_one() -> None:
    """Fitted on one device, passed on to all others but those measured by ``calibrate``, which draw
    what they are said to draw."""
    curves = {name: load_hardware(name).power.curve for name in profile_names()}
    assert curves.pop("amd-epyc-zen5-1t").provenance.method == "prior"
    fitted = curves["h100-sxm"]
    assert fitted.provenance.method == "fitted"
    for name, curve in curves.items():
        plain = curve.model_dump(exclude={"provenance"})
        assert plain == fitted.model_dump(exclude={"provenance"}), name
        assert name == "h100-sxm" or curve.provenance.method == "inherited"
    assert yaml.safe_load((FOLDER / "h100-sxm.yaml").read_text())["power"]["curve"]["widening"] > 0
