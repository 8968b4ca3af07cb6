"""The page Calibration: validation, provenance, a fit to own measurements; and its error paths."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from calibration.validate import Comparison, example_csv, read_dataset, validate
from dashboard import session
from dashboard.background import CancelledError, Jobs
from dashboard.calibrate import fitting, validation
from simulator import engine_origins, hardware_origins, load_engine, load_hardware
from simulator.cli import cli
from simulator.engines import EngineProfile, profile_names
from simulator.hardware import profile_names as device_names
from tests.dashboard_app import errors, finish, open_app

HEADER = "model,system,engine,isl,osl,concurrency,tp,num_prompts,ttft_ms,tpot_ms\n"
ROW = "llama-3.1-8b,h100-sxm,vllm,64,4,{},1,3,30,12\n"


def at(part: str, **query: str | list[str]) -> AppTest:
    app = open_app("calibration", **query)
    app.segmented_control(key="calibration part").set_value(part)
    return finish(app.run())


def upload(app: AppTest, key: str, text: str | bytes, name: str = "my points.csv") -> AppTest:
    content = text.encode() if isinstance(text, str) else text
    app.file_uploader(key=key).set_value((name, content, "text/csv"))
    return finish(app.run())


def told(app: AppTest) -> str:
    return " ".join(item.value for item in (*app.markdown, *app.caption))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # predictions for shipped points are kept under it


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A shipped file with three points."""
    file = tmp_path / "few.csv"
    file.write_text(HEADER + "".join(ROW.format(users) for users in (1, 2, 3)))
    from dashboard.calibrate import points

    monkeypatch.setattr(points, "sample_file", lambda _: file)
    monkeypatch.setattr(session, "JOBS", Jobs())  # one may know the real file's answer
    return file


def command(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, prog_name="simulate")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_figures_of_a_validation_are_those_of_the_command(few: Path) -> None:
    app = at("Validation")
    assert not errors(app)
    found = json.loads(command("validate", str(few), "--json", "--out", "other"))
    shown = app.dataframe[0].value
    for metric, title in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2e_ms", "E2E")):
        row = shown[(shown["metric"] == title) & (shown["points"] == "all")].iloc[0]
        own = found["metrics"][metric]
        assert row["n"] == own["n"] == 3
        assert row["median error, %"] == own["median_ape_pct"]
        assert row["p90 error, %"] == own["p90_ape_pct"]
        assert row["bias, ×"] == own["bias_ratio"]
        assert row["in 80% interval, %"] == own["interval_coverage_pct"]
    assert "Used in a fit** of the shipped profiles: 0" in told(app)
    # The command finds what the page has kept, and the other way round.
    kept = validation.usual_folder("served_points_sample") / "predictions.jsonl"
    assert len(kept.read_text().splitlines()) == 3
    # A point in detail: measured, predicted, interval.
    app.selectbox(key="calibration point").set_value("line 2")
    finish(app.run())
    detail = next(f.value for f in app.dataframe if "measured lies inside" in f.value.columns)
    assert detail.loc[detail["metric"] == "TPOT", "measured"].iloc[0] == "12.0 ms"
    # Another metric redraws, and nothing fails.
    app.segmented_control(key="calibration metric").set_value("tpot_ms")
    app.selectbox(key="calibration dimension").set_value("load")
    assert not errors(finish(app.run()))


WRONG = {
    "has no column 'model'": "system,engine,isl,osl\nh100-sxm,vllm,64,4\n",
    "has an unknown column 'engin'": HEADER.replace("engine", "engin") + ROW.format(1),
    "has no rows": "",
    "my-points.csv:2, isl: must be a number, got 'many'": HEADER + ROW.format(1).replace("64", "many"),
    "names a file, which is not read here": HEADER + ROW.format(1).replace("llama-3.1-8b", "/etc/hosts"),
    "is larger than 2 MB": "x" * 2_100_000,
}  # fmt: skip


def test_wrong_files_get_a_sentence() -> None:
    app = at("Validation")
    app.selectbox(key="calibration source").set_value(validation.OWN)
    finish(app.run())
    for sentence, text in WRONG.items():
        upload(app, "calibration points", text)
        assert len(errors(app)) == 1, sentence
        assert sentence in errors(app)[0]
        assert "/tmp" not in errors(app)[0]
    assert not app.dataframe
    # Rows that cannot be simulated are told with their reason.
    upload(app, "calibration points", HEADER + ROW.format(1).replace("h100-sxm", "h1000"))
    assert not errors(app)
    assert "unknown hardware profile 'h1000'" in app.dataframe[0].value["why"].iloc[0]
    # And a right one is validated.
    upload(app, "calibration points", HEADER + ROW.format(1))
    assert app.dataframe[0].value["n"].iloc[0] == 1
    assert "All points have the same load" in app.info[0].value


def test_provenance_tells_fitted_inherited_and_assumed() -> None:
    app = at("Provenance")
    text = told(app)
    assert "badge[fitted] fitted to measurements of this device" in text
    assert "NVIDIA AIConfigurator" in text
    assert "62 rows of measured servers" in text
    prices = next(f.value for f in app.dataframe if "cloud" in f.value.columns)
    profile = load_hardware("h100-sxm")
    assert len(prices) == len(profile.prices)
    figures = next(f.value for f in app.dataframe if "figure" in f.value.columns)
    assert figures.loc[figures["figure"] == "memory bandwidth", "value"].iloc[0] == "3,350 GB/s"
    for device, words in (("a100-pcie-80gb", "inherited from a device"), ("tpu-v5e", "assumed")):
        app = at("Provenance", set=[f"hardware={device}"])
        assert words in told(app)
        assert not errors(app)
    assert "there are no residuals" in app.info[0].value
    app = at("Provenance", set=["hardware=h1000"])
    assert "unknown hardware profile" in errors(app)[0]


def test_every_profile_tells_its_origins() -> None:
    for name in device_names():
        profile = load_hardware(name)
        for engine in ("", *profile_names()):
            found = hardware_origins(profile, engine)
            assert found["kernels"]["method"] == profile.efficiency.provenance.method
            named = {row["family"] for row in found["kernels"]["families"]}
            seen = profile.efficiency.seen_by(engine).provenance
            assert named == set(seen.residual_median_pct) | set(seen.residual_quantiles)
            assert len(found["prices"]) == len(profile.prices)
            json.dumps(found)
    vllm = engine_origins(load_engine("vllm"), "0.12.0")
    assert [entry["used"] for entry in vllm["overheads"]] == [True, False, False, False]
    assert vllm["overheads"][0]["fit"]["rows"] == 68
    low, high = vllm["overheads"][0]["spread_pct"]["tpot_ms"]
    assert low == pytest.approx(-14.3, abs=0.1)
    assert high == pytest.approx(12.4, abs=0.1)


def test_a_fit_writes_what_the_command_writes(tmp_path: Path) -> None:
    app = at("Fit your own")
    assert not errors(app)
    for sentence, text in (
        ("has no column 'model'", "isl\n1\n"),
        ("has no row of vLLM", HEADER + ROW.format(1).replace("vllm", "sglang")),
    ):
        upload(app, "calibration own", text)
        assert sentence in errors(app)[0]
        assert not [b for b in app.button if b.key == "calibration fit"]
    text = HEADER + "".join(ROW.format(users) for users in (1, 2))
    upload(app, "calibration own", text)
    assert "So few tell little" in app.warning[0].value
    app.button(key="calibration fit").click()
    finish(app.run())
    assert not errors(app)
    (tmp_path / "own.csv").write_text(text)
    command("fit", "--served", "own.csv", "--engine", "vllm", "--out", "own.yaml")
    yaml = Path("own.yaml").read_text()
    shown = app.get("download_button")
    assert any(button.proto.label == "Download the profile" for button in shown)
    app.button(key="calibration use").click()
    finish(app.run())
    assert "runs with this profile" in app.success[0].value
    name = app.session_state["_choice"].value_set("engine.profile")
    assert Path(name).read_text() == yaml
    own = load_engine(name)
    assert isinstance(own, EngineProfile)
    assert own.fitted
    # Errors before, of rows left out, and after it; two rows of one group are left out by row.
    table = next(f.value for f in app.dataframe if "left out, %" in f.value.columns)
    assert list(table["n"]) == [2, 2]
    assert (table["after, %"] <= table["before, %"]).all()
    assert "fitted without that row" in told(app)
    # The other parts know the profile.
    app.segmented_control(key="calibration part").set_value("Provenance")
    finish(app.run())
    assert not errors(app)
    assert "2 rows of measured servers" in told(app)


def test_the_example_is_read_as_the_sample_is(tmp_path: Path) -> None:
    file = tmp_path / "example.csv"
    file.write_text(example_csv())
    dataset = read_dataset(file, files=False)
    assert len(dataset.points) >= fitting.ENOUGH_ROWS
    assert not dataset.skipped
    assert not dataset.ignored
    assert {point.engine for point in dataset.points} == {"vllm"}
    assert len({(point.isl, point.concurrency) for point in dataset.points}) > 3


def test_what_is_finished_before_a_validation_ends_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "few.csv"
    file.write_text(HEADER + "".join(ROW.format(users) for users in (1, 2, 3)))
    given = []

    def second(comparison: Comparison) -> None:
        given.append(comparison.point.id)
        if len(given) == 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        validate(read_dataset(file), tmp_path / "kept", each=second)
    seen = []
    again = validate(read_dataset(file), tmp_path / "kept", each=lambda c: seen.append(c.point.id))
    assert again.computed == 1
    assert set(seen[:2]) == set(given)  # those of the run before come first
    assert len(seen) == len(again.comparisons) == 3

    def dead() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        validate(read_dataset(file), tmp_path / "other", alive=dead)


def test_the_page_needs_no_torch() -> None:
    code = (
        "import sys; import dashboard.calibrate.validation, dashboard.calibrate.fitting, "
        "dashboard.calibrate.provenance; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_tables_are_of_the_points_alone() -> None:
    assert isinstance(validation.table([], []), pd.DataFrame)
