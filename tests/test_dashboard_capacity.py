"""The capacity page: a plan in, a recommendation out, and every way to get it wrong."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

import simulator
from dashboard import background
from dashboard.capacity import files, searching
from dashboard.capacity.searching import KEPT, Kept
from simulator.cli import cli
from tests.dashboard_app import APP, PATIENCE_S, errors, finish, open_app
from tests.plan_support import CHAT, PLAN
from tests.test_plan_told import workers

OWN = "A plan of my own"


def uploaded(document: dict[str, Any] | str, name: str = "mine.yaml") -> AppTest:
    """The page after a plan was uploaded."""
    app = open_app("capacity", set=["workload.slice.duration_s=20"])
    text = document if isinstance(document, str) else simulator.dump_plan(document)
    app.selectbox(key="capacity start").set_value(OWN).run()
    app.file_uploader(key="capacity upload").upload(name, text.encode(), "application/yaml").run()
    return finish(app)


def widget(app: AppTest, kind: str, label: str) -> Any:
    """The first widget with that label."""
    return next(found for found in getattr(app, kind) if found.label == label)


def shown(app: AppTest) -> str:
    """All that stands on the page in words."""
    parts = [*app.markdown, *app.caption, *app.success, *app.info, *app.error, *app.subheader]
    return "\n".join(part.value for part in parts).replace("\\", "")


def plan_yaml(app: AppTest) -> str:
    """The plan as the page shows it."""
    return next(code.value for code in app.code if code.value.startswith("name:"))


def search(app: AppTest) -> AppTest:
    """Presses the button and waits."""
    widget(app, "button", "Search").click().run()
    return finish(app)


def test_a_search_gives_what_the_command_gives(tmp_path: Path) -> None:
    app = uploaded(PLAN)
    assert not errors(app)
    assert "TTFT p99 ≤ 1,500 ms · TPOT p99 ≤ 120 ms. Best: the lowest cost per hour" in shown(app)
    assert "kinds" in shown(app)
    app = search(app)
    assert not errors(app)
    job = app.session_state["_slots"]["capacity search"]
    report = job.latest

    path = tmp_path / "plan.yaml"
    path.write_text(plan_yaml(app), encoding="utf-8")
    command = ["plan", str(path), "--json", "--no-store", "--workers", "1"]
    printed = CliRunner().invoke(cli, command, prog_name="simulate")
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout) == json.loads(files.document(report))

    words = simulator.plan_words(report)
    assert words.verdict in shown(app)
    assert all(reason in shown(app) for reason in words.reasons)
    tiles = {tile.label: tile.value for tile in app.metric}
    assert tiles["Cost per hour"] == f"${report['winner']['usd_per_hour']:.2f}"
    limits, finalists = (frame.value for frame in app.dataframe[:2])
    assert list(limits["limit"]) == words.asked.limits
    assert list(finalists["deployment"]) == words.finalists["deployment"]
    assert len(app.get("plotly_chart")) >= 4

    # A deployment that was simulated, chosen: its figures and its scenario.
    trial = report["trials"][-1]
    widget(app, "selectbox", "Deployment").set_value(trial["label"]).run()
    asked = simulator.parse_plan(plan_yaml(app))
    scenario = simulator.deployment_scenario(asked, trial)
    assert scenario is not None
    assert simulator.dump_scenario(scenario).strip() in [code.value.strip() for code in app.code]

    # To another page and back: the result is still there.
    app.switch_page("views/what_if.py").run()
    app = finish(app.switch_page("views/capacity.py").run())
    assert words.verdict in shown(app)
    assert app.session_state["_slots"]["capacity search"] is job
    assert widget(app, "selectbox", "Start from").value == OWN

    # The winner becomes the scenario of all pages.
    widget(app, "button", "Take this as the scenario").click().run()
    assert app.session_state["_choice"].yaml == report["winner"]["scenario"]
    assert not app.exception


def test_the_form_writes_the_plan() -> None:
    app = open_app("capacity", set=["workload.slice.duration_s=20"])
    assert "SLO attainment ≥ 99%" in shown(app)  # the scenario's own
    asked = simulator.parse_plan(plan_yaml(app))
    assert asked.scenario == app.session_state["_choice"].scenario
    assert (asked.plan.space.hardware, asked.plan.space.max_devices) == ("priced", 16)

    widget(app, "button", "Add a limit").click().run()
    widget(app, "button", "Add a limit").click().run()
    widgets = [select for select in app.selectbox if select.label == "Figure"]
    widgets[0].set_value("latency.e2e_ms.p95")
    widgets[1].set_value("throughput.output_tokens_per_s")
    [select for select in app.selectbox if select.label == "must be"][1].set_value("at least")
    values = [number for number in app.number_input if number.label == "Limit"]
    values[0].set_value(30_000.0)
    values[1].set_value(0.5)
    widget(app, "selectbox", "Best is").set_value("energy_per_output_token")
    widget(app, "number_input", "Headroom, %").set_value(10.0)
    widget(app, "number_input", "Spare replicas").set_value(1)
    widget(app, "selectbox", "Limits must hold").set_value("pessimistic")
    widget(app, "number_input", "Seeds").set_value(2)
    widget(app, "multiselect", "Devices").set_value(["l40s", "h100-sxm"])
    widget(app, "multiselect", "Precision of weights").set_value(["fp8"])
    widget(app, "multiselect", "Engines").set_value(["sglang"])
    widget(app, "multiselect", "Tensor parallelism, devices").set_value(["1", "2"])
    widget(app, "multiselect", "Pipeline stages").set_value(["1"])
    widget(app, "number_input", "Fewest replicas").set_value(2)
    widget(app, "number_input", "Most replicas").set_value(3)
    widget(app, "number_input", "Most devices").set_value(6)
    app = finish(app.run())
    assert not errors(app)
    plan = simulator.parse_plan(plan_yaml(app)).plan
    assert [str(limit) for limit in plan.constraints] == [
        "E2E latency p95 ≤ 30,000 ms", "Output throughput ≥ 0.5 tokens/s",
    ]  # fmt: skip
    assert plan.objective.metric == "energy_per_output_token"
    assert (plan.headroom, plan.spare_replicas, plan.judge, plan.seeds) == (
        0.1,
        1,
        "pessimistic",
        2,
    )
    space = plan.space
    assert (space.hardware, space.engine) == (("l40s", "h100-sxm"), ("sglang",))
    assert [precision.weights for precision in space.precision or ()] == ["fp8"]
    assert (space.tp, space.pp, space.max_devices) == ((1, 2), (1,), 6)
    assert space.replicas is not None
    assert space.replicas.values == (2, 3)  # type: ignore[union-attr]

    # What contradicts itself is told as the command tells it; a limit is taken away again.
    widget(app, "button", "Add a limit").click().run()
    [s for s in app.selectbox if s.label == "Figure"][2].set_value("latency.e2e_ms.p95")
    [s for s in app.selectbox if s.label == "must be"][2].set_value("at least")
    [n for n in app.number_input if n.label == "Limit"][2].set_value(40_000.0)
    app = finish(app.run())
    assert "they contradict each other" in errors(app)[0]
    assert widget(app, "button", "Search").disabled
    gone = [button for button in app.button if (button.help or "").startswith("Take this limit")]
    gone[2].click().run()
    assert not errors(finish(app))


def test_where_nothing_holds_the_reasons_and_the_closest_are_shown() -> None:
    app = uploaded(PLAN | {"constraints": [{"metric": "tpot_ms.p99", "max": 12}], "seeds": 1})
    app = search(app)
    assert "No deployment holds." in errors(app)[0]
    assert "Closest: " in shown(app)
    assert not any(button.label == "Take this as the scenario" for button in app.button[:3])
    assert any("closest deployments" in frame.value for frame in app.dataframe)


@pytest.mark.parametrize(("document", "sentence"), [
    (PLAN | {"constraints": []}, "nothing must hold: neither constraints nor an slo are given"),
    (PLAN | {"constraints": [{"metric": "ttft_ms.p98", "max": 1}]},
     "there is no metric 'ttft_ms.p98'"),
    (PLAN | {"objective": "goodput"}, "goodput is what is served within the SLO"),
    (PLAN | {"scenario": CHAT | {"model": "llama-9"}}, "llama-9"),
    (PLAN | {"scenario": CHAT | {"cost": {"usd_per_device_hour": 2}}},
     "would price all devices alike"),
    (PLAN | {"scenario": "/etc/passwd"}, "lies outside the folder that this server was started"),
    (PLAN | {"space": {"hardware": ["../../elsewhere.yaml"]}}, "lies outside the folder"),
    ("scenario: [", "mine.yaml:2: not valid YAML"),
    ("model: llama-3.1-8b", "is a scenario, not a plan"),
    ("a: 1", "is no plan: it has no key 'scenario'"),
    ("x: " + "y" * 300_000, "holds more than the 200 kB allowed"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(document: dict[str, Any] | str, sentence: str) -> None:
    app = AppTest.from_file(str(APP), default_timeout=PATIENCE_S)
    app.query_params["set"] = ["workload.slice.duration_s=20"]
    app.switch_page("views/capacity.py")
    app.session_state["capacity start"] = OWN
    app.run()
    text = document if isinstance(document, str) else simulator.dump_plan(document)
    app.file_uploader(key="capacity upload").upload("mine.yaml", text.encode()).run()
    app = finish(app)
    assert len(errors(app)) == 1
    assert sentence in errors(app)[0]


def test_scenarios_that_cannot_be_planned_are_told() -> None:
    app = open_app("capacity", scenario="disaggregated-70b-h100")
    assert any("the scenario has pools already" in error for error in errors(app))


def test_cancel_ends_the_processes_and_what_was_done_is_kept() -> None:
    slow = json.loads(json.dumps(PLAN))
    slow["scenario"]["workload"]["requests"] = 30_000
    app = uploaded(slow)
    widget(app, "button", "Search").click().run()
    _until(lambda: len(workers()) >= 1)
    app.run()
    assert any(button.label == "Cancel" for button in app.button)
    app.switch_page("views/what_if.py").run()  # it goes on meanwhile
    app.switch_page("views/capacity.py").run()
    job = app.session_state["_slots"]["capacity search"]
    assert job.state == background.RUNNING
    widget(app, "button", "Cancel").click().run()
    assert job.wait(5.0)
    assert job.state == background.CANCELLED
    _until(lambda: not workers())
    assert any(button.label == "Run again" for button in app.button)


def test_processes_end_with_the_session() -> None:
    slow = json.loads(json.dumps(PLAN))
    slow["scenario"]["workload"]["requests"] = 30_000
    text, viewer = simulator.dump_plan(slow), background.Viewer()
    job = background.JOBS.ask("gone", searching.searching(text), viewer, long=True)
    _until(lambda: len(workers()) >= 1)
    del viewer
    assert job.wait(5.0)
    assert job.state == background.CANCELLED
    assert not workers()


def test_searches_of_two_users_share_the_cores() -> None:
    slow = json.loads(json.dumps(PLAN))
    slow["scenario"]["workload"]["requests"] = 30_000
    first, second = background.Viewer(), background.Viewer()
    jobs = []
    for place, viewer in enumerate((first, second)):
        text = simulator.dump_plan(slow | {"name": f"user {place}"})
        work = searching.searching(text)
        jobs.append(background.JOBS.ask(f"two {place}", work, viewer, long=True))
    _until(lambda: len(workers()) >= 1)
    most = 0
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        most = max(most, len(workers()))
    assert most <= simulator.describe_plan(simulator.parse_plan(text))["workers"]
    assert jobs[1].state == background.WAITING
    jobs[1].leave(second)
    jobs[0].leave(first)
    assert all(job.wait(5.0) for job in jobs)
    assert not workers()


def test_simulations_are_kept_in_a_folder_of_bounded_size(monkeypatch: Any) -> None:
    kept = Kept()
    first = kept.folder()
    (first / "outcomes.sqlite").write_bytes(b"x" * 100)
    assert kept.folder() == first
    monkeypatch.setattr(searching, "MOST_KEPT_BYTES", 99)
    second = kept.folder()
    assert second != first
    assert not first.exists()
    assert KEPT.folder() not in (first, second)
    kept.close()
    assert not second.exists()


def test_deployment_files_are_those_of_the_export() -> None:
    yaml = simulator.dump_scenario(simulator.load_scenario("chat-8b-h100"))
    found = files.files_of(yaml)
    scenario = simulator.parse_scenario(yaml)
    assert found["sglang"] == simulator.launch_files(scenario, engine="sglang")
    with zipfile.ZipFile(io.BytesIO(files.zipped(found, yaml))) as archive:
        names = archive.namelist()
        assert archive.read("winner.yaml").decode() == yaml
        assert archive.read("vllm/serve.sh").decode() == found["vllm"]["serve.sh"]
        assert archive.getinfo("vllm/serve.sh").external_attr >> 16 == 0o755
    assert {"vllm/kubernetes.yaml", "sglang/kubernetes.yaml", "tensorrt-llm/serve.yaml"} < set(
        names
    )
    refused = simulator.dump_scenario(
        simulator.load_scenario("chat-8b-h100", ["parallelism.fsdp=2", "deployment.replicas=2"])
    )
    assert "vLLM does not start this" in files.files_of(refused)["vllm"][files.WHY_NOT]


def _until(found: Any) -> None:
    until = time.monotonic() + 20.0
    while not found():
        assert time.monotonic() < until
        time.sleep(0.05)
