"""Engine constants from measured servers: found again where they are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from calibration.fit import served
from calibration.fit.engines import (
    CONSTANTS,
    MARKERS,
    EngineFits,
    engines,
    overheads_text,
    profile_file,
    rows_of,
)
from calibration.fit.own import fit_own
from calibration.fit.served import NARROW
from calibration.validate import read_dataset
from calibration.validate.prediction import predict
from calibration.validate.splits import splits
from simulator import load_engine
from simulator.cli import cli
from simulator.engines.profile import EngineProfile
from simulator.errors import UserError

HEADER = "model,system,engine,isl,osl,concurrency,tp,num_prompts,ttft_ms,tpot_ms\n"
LOADS = [(256, 24, 1, 1), (256, 24, 8, 1), (2048, 16, 2, 1), (256, 24, 32, 1), (1024, 16, 4, 2)]


def with_constants(profile: EngineProfile, **values: float) -> EngineProfile:
    entry = profile.overheads[-1]
    parts = {}
    for part in ("host", "launches", "front_end"):
        own = getattr(entry, part)
        parts[part] = own.model_copy(update={k: v for k, v in values.items() if hasattr(own, k)})
    return profile.model_copy(update={"overheads": (entry.model_copy(update=parts),)})


def measured(folder: Path, truth: EngineProfile) -> Path:
    """A file of measurements of a server that is known to the last constant."""
    file = folder / "served.csv"
    row = "llama-3.1-8b,h100-sxm,vllm,{},{},{},{},{},{},{}\n"
    loads = [(*load, 3 * load[2]) for load in LOADS]
    file.write_text(HEADER + "".join(row.format(*load, 1, 1) for load in loads))
    lines = []
    for load, own in zip(
        loads, rows_of(read_dataset(str(file)).points, "vllm", folder), strict=True
    ):
        found = predict(own.scenario, folder, truth)
        lines.append(row.format(*load, found["ttft_ms"]["mean"], found["tpot_ms"]["mean"]))
    file.write_text(HEADER + "".join(lines))
    return file


def test_the_constants_of_a_known_server_are_found_again(tmp_path: Path) -> None:
    prior = with_constants(
        load_engine("vllm"), step_ms=0.6, per_seq_us=16, kernel_us=8, request_ms=2, token_us=20
    )
    truth = with_constants(prior, step_ms=3.0, per_seq_us=60, request_ms=12)
    points = read_dataset(str(measured(tmp_path, truth))).points
    found = fit_own(prior, points, tmp_path, lambda _: None)
    assert found.overheads[-1].host.step_ms == pytest.approx(3.0, abs=0.6)
    assert found.overheads[-1].front_end.request_ms > 2 * prior.front_end.request_ms
    fit = found.overheads[-1].fit
    assert fit is not None
    assert found.fitted
    assert fit.rows == len(LOADS)
    assert fit.fitted_median_pct["tpot_ms"] < 3.0
    assert fit.fitted_median_pct["ttft_ms"] < 5.0
    low, high = fit.left_out_spread["tpot_ms"]
    assert low <= high


def test_leaving_a_group_out_is_one_newton_step() -> None:
    """On a straight-line model with small residuals it is the fit without the group."""
    rng = np.random.default_rng(5)
    design = rng.normal(size=(30, 3))
    truth = np.array([1.0, 2.0, 3.0])
    data = design @ truth + rng.normal(size=30) * 1e-4
    best = np.linalg.lstsq(design, data, rcond=None)[0]
    residuals = design @ best - data
    scaled = design * ((1.0 + (residuals / NARROW) ** 2) ** -0.75)[:, None]
    for mine in (np.arange(30) < 10, np.arange(30) >= 10):
        alone = np.linalg.lstsq(design[~mine], data[~mine], rcond=None)[0]
        found = served._left_out(best, residuals, scaled, mine)
        np.testing.assert_allclose(found, alone, rtol=1e-6)


@pytest.mark.parametrize("plan", engines().engines, ids=lambda plan: plan.engine)
def test_the_shipped_file_holds_what_its_profile_says(plan: EngineFits) -> None:
    """Between the marker lines stands the fit, one entry for each range of releases, within its
    bounds and never from a row of a validation group."""
    profile = load_engine(plan.engine)
    assert MARKERS.read(profile_file(plan.engine)) == overheads_text(profile.overheads)
    assert [entry.before for entry in profile.overheads] == list(plan.before)
    fit_groups = {entry.group for entry in splits().groups if entry.half == "fit"}
    for entry in profile.overheads:
        for constant in CONSTANTS:
            value = getattr(getattr(entry, constant.part), constant.name)
            assert 0.0 <= value <= constant.most
        if entry.fit is not None:
            assert set(entry.fit.groups) <= fit_groups


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--served", "{file}"], "needs --engine"),
        (["--engine", "vllm"], "belong to --served"),
        ([], "needs --device"),
        (["--served", "{file}", "--engine", "vlm"], "did you mean 'vllm'"),
        (["--served", "{file}", "--engine", "sglang", "--out", "{out}"], "no row of SGLang"),
        (["--served", "{file}", "--engine", "tgi"], "nothing says how to fit tgi"),
        (["--served", "{file}", "--engine", "vllm", "--write", "--out", "{out}"], "--write"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    file = tmp_path / "served.csv"
    file.write_text(HEADER + "llama-3.1-8b,h100-sxm,vllm,64,4,1,1,3,30,8\n")
    filled = [a.format(file=file, out=tmp_path / "own.yaml") for a in arguments]
    result = CliRunner().invoke(cli, ["fit", *filled], prog_name="simulate")
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_profile_of_ones_own_can_be_named_in_a_scenario(tmp_path: Path) -> None:
    file, out = tmp_path / "served.csv", tmp_path / "own.yaml"
    file.write_text(HEADER + "llama-3.1-8b,h100-sxm,vllm,64,4,1,1,3,30,12\n")
    result = CliRunner().invoke(
        cli,
        ["fit", "--served", str(file), "--engine", "vllm", "--out", str(out)],
        prog_name="simulate",
    )
    assert result.exit_code == 0, result.output
    own = load_engine(str(out))
    assert own.fitted
    assert (
        own.overheads[-1].fit
        == EngineProfile.model_validate(yaml.safe_load(out.read_text())).overheads[-1].fit
    )


def test_rows_that_cannot_be_replayed_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "served.csv"
    file.write_text(HEADER + "no-such-model,h100-sxm,vllm,64,4,1,1,3,30,8\n")
    with pytest.raises(UserError, match="no row of vLLM"):
        fit_own(load_engine("vllm"), read_dataset(str(file)).points, tmp_path, lambda _: None)
