"""The What-if page shows what the command line prints; mistakes are sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import answers, kpis, look
from dashboard.choice import Choice
from simulator import load_scenario, simulate
from tests.dashboard_app import errors, finish, open_app

SHORT = "workload.slice.duration_s=30"


def printed(file: str, *sets: str) -> str:
    """What ``simulate run --json`` prints."""
    options = [word for item in sets for word in ("--set", item)]
    command = [sys.executable, "-m", "simulator", "run", file, *options, "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run_of(app: AppTest) -> answers.Run:
    found: answers.Run = app.session_state["_slots"]["run"].latest
    return found


def shown(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_the_page_equals_simulate_run() -> None:
    app = open_app()
    plain = printed("chat-8b-h100")
    assert run_of(app).json() == plain
    summary = json.loads(plain)
    assert shown(app) == {title: look.told(summary, key) for key, title in kpis.KPIS}
    low, high = summary["uncertainty"]["intervals"]["latency.ttft_ms.p99"]
    assert kpis.interval([low, high], "ms") in [caption.value for caption in app.caption]
    app.sidebar.number_input(key="knob engine.max_num_seqs").set_value(16)
    app.sidebar.selectbox(key="knob hardware.profile").set_value("h200-sxm")
    app.sidebar.number_input(key="knob workload.slice.duration_s").set_value(60.0)
    finish(app.run())
    changed = printed(
        "chat-8b-h100", "engine.max_num_seqs=16", "hardware.profile=h200-sxm",
        "workload.slice.duration_s=60",
    )  # fmt: skip
    assert json.loads(run_of(app).json()) == json.loads(changed)
    assert shown(app) == {t: look.told(json.loads(changed), key) for key, t in kpis.KPIS}
    app.sidebar.button[0].click()
    finish(app.run())
    assert "set" not in app.query_params
    assert run_of(app).json() == plain


def test_a_pinned_baseline_gives_the_change_its_sign_and_colour() -> None:
    app = open_app(set=SHORT)
    next(button for button in app.sidebar.button if button.label == "Pin").click()
    finish(app.run())
    assert {metric.delta for metric in app.metric} == {"0%"}
    assert app.query_params["baseline_set"] == SHORT
    app.sidebar.selectbox(key="knob hardware.profile").set_value("l40s")
    finish(app.run())
    ttft = next(metric for metric in app.metric if metric.label == "TTFT p99")
    assert ttft.delta.startswith("+")
    assert ttft.proto.color == ttft.proto.MetricColor.RED, "more is worse"
    address = {name: app.query_params[name] for name in app.query_params}
    again = open_app(**address)
    assert [m.delta for m in again.metric] == [m.delta for m in app.metric]


def test_report_and_preview() -> None:
    scenario = Choice(sets=("workload.slice.duration_s=1200",)).scenario
    given: list[answers.Run] = []

    class Told:
        def stage(self, words: str) -> None: ...
        def progress(self, done: float, total: float) -> None: ...
        def give(self, answer: answers.Run) -> None:
            given.append(answer)

    final = answers.run(Choice(sets=("workload.slice.duration_s=1200",)))(Told())  # type: ignore[arg-type]
    result = simulate(scenario)
    assert final.summary == result.summary()
    assert final.report() == result.report()
    assert given[0].of == len(result.requests)
    assert given[0].summary["requests"]["sent"] == answers.PREVIEW_REQUESTS
    assert (given[1].of, given[1].summary["uncertainty"]) == (None, None)
    assert given[1].summary["latency"] == final.summary["latency"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("model=llama-9-8b", "there is no model 'llama-9-8b'"),
        ("model=llama-3.1-405b", "405b"),
        ("engine.max_num_seq=3", "unknown key"),
        ("engine.max_num_seqs=-3", "must be greater than or equal to 1"),
        ("model=/etc/passwd", "lies outside"),
        ("=", "must be a path and a value"),
    ],
)
def test_mistakes_are_one_sentence(sets: str, words: str) -> None:
    app = open_app(set=[sets, SHORT])
    assert len(errors(app)) == 1
    assert words in errors(app)[0]
    assert not app.metric
    app.sidebar.text_area(key="sets").set_value(SHORT)
    finish(app.run())
    assert not errors(app)
    assert app.metric


def test_own_yaml_is_taken_or_refused_with_its_line(tmp_path: Path) -> None:
    app = open_app(set=SHORT)
    area = app.sidebar.text_area(key="scenario text")
    right = area.value
    area.set_value(right.replace("ttft_ms:", "tfft_ms:"))
    next(button for button in app.button if button.label == "Apply").click()
    finish(app.run())
    file = tmp_path / "chat-8b-h100.yaml"
    file.write_text(right.replace("ttft_ms:", "tfft_ms:"))
    with pytest.raises(Exception, match="tfft_ms") as told:
        load_scenario(file)
    assert errors(app) == [str(told.value).replace(str(file), file.name)]
    app.sidebar.text_area(key="scenario text").set_value(right.replace("500.0", "444.0"))
    next(button for button in app.button if button.label == "Apply").click()
    finish(app.run())
    assert not errors(app)
    assert run_of(app).summary["scenario"]["slo"]["ttft_ms"] == 444.0
    assert open_app(**{name: app.query_params[name] for name in app.query_params}).metric


def test_a_damaged_address_is_told_and_left() -> None:
    app = open_app(yaml="%%%")
    assert "the address" in errors(app)[0]
    app.button[0].click()
    finish(app.run())
    assert not errors(app)
    assert app.metric


def test_a_load_curve_with_the_highest_rate() -> None:
    app = open_app(scenario="chat-8b-h100", set=["workload.slice.duration_s=10"])
    app.toggle(key="load curve").set_value(True)
    finish(app.run())
    assert any(text.value.startswith("**Knee**") for text in app.markdown)
    report = app.session_state["_slots"]["load"].latest.report
    assert report["curve"]["points"][0]["figures"]["latency.ttft_ms.p99"]


def test_a_knob_without_a_value_says_what_holds() -> None:
    app = open_app(set=SHORT)
    assert app.sidebar.number_input(key="knob engine.max_num_seqs").placeholder == "default: 1,024"
    weights = app.sidebar.selectbox(key="knob precision.weights")
    assert weights.options[0] == "default: bf16"
    weights.set_value("fp8")
    finish(app.run())
    assert app.sidebar.selectbox(key="knob precision.weights").options[0] == "default"
    assert app.sidebar.number_input(key="knob slo.e2e_ms").placeholder == "not set"
