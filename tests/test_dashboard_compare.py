"""The page that compares: its list in the address, its table from the public functions, and one
wrong scenario beside right ones."""

from __future__ import annotations

import json
from io import StringIO
from urllib.parse import parse_qs

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import simulator
from dashboard import compared, side_by_side
from dashboard.choice import Choice
from dashboard.compared import Entry
from simulator import with_unit
from tests.dashboard_app import errors, finish, open_app

SHORT = "workload.slice.duration_s=40"


def entry(title: str, *sets: str) -> str:
    return Entry(title, Choice("chat-8b-h100", sets=(SHORT, *sets))).to_value()


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click()
    finish(app.run())


def names(app: AppTest) -> list[str]:
    return [box.value for box in app.text_input if box.label.startswith("Name of scenario")]


def test_scenarios_stand_side_by_side() -> None:
    sets = [(), ("parallelism.tp=2",), ("parallelism.tp=3",)]
    asked = [entry(title, *each) for title, each in zip("A*C", sets, strict=True)]
    app = open_app("compare", **{"with": asked})
    # The wrong one says why in its column, the others stand.
    assert len(errors(app)) == 1
    assert "cannot be split over tp = 3" in errors(app)[0]
    assert names(app) == ["A", "*", "C"]

    runs = [
        simulator.simulate(simulator.load_scenario("chat-8b-h100", [SHORT, *each])).summary()
        for each in sets[:2]
    ]
    table = app.table[0].value
    assert list(table.columns) == ["A", "\\*"]
    for key, metric in (
        ("latency.ttft_ms.p99", "TTFT p99"),
        ("cost.usd_per_hour", "Cost per hour"),
    ):
        line = next(each for each in simulator.compare_all(runs) if each.key == key)
        for place, cell in enumerate(table.loc[metric]):
            assert with_unit(line.values[place], line.unit) in cell.replace("\\", "")
            assert ("★" in cell) == cell.startswith("**") == (place in line.best)
    assert "★" in table.loc["Cost per hour"].iloc[0]
    assert "+100%" in table.loc["Cost per hour"].iloc[1]
    assert "KV-cache use" not in table.index

    differences = app.table[1].value
    assert list(differences.index) == ["`parallelism.tp`"]
    assert list(differences.iloc[0]) == ["1", "2"]

    ttft = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    assert [trace["name"] for trace in ttft] == ["p50", "p99"]
    for trace in ttft:
        key = f"latency.ttft_ms.{trace['name']}"
        values = [simulator.value_at(run, key) for run in runs]
        pairs = [run["uncertainty"]["intervals"][key] for run in runs]
        assert trace["x"] == pytest.approx(values)
        highs = [x + up for x, up in zip(trace["x"], trace["error_x"]["array"], strict=True)]
        assert highs == pytest.approx(
            [max(pair[1], x) for pair, x in zip(pairs, values, strict=True)]
        )

    app.toggle[0].set_value(True)
    finish(app.run())
    assert "KV\\-cache use" in app.table[0].value.index

    # --- the list ---
    next(box for box in app.text_input if box.value == "*").set_value("two devices")
    finish(app.run())
    assert app.table[0].value.columns[1] == "two devices"
    kept = app.query_params["with"]
    assert parse_qs(kept[1])["title"] == ["two devices"]
    next(b for b in app.button if b.label == "Remove" and "C" in b.help).click()
    finish(app.run())
    assert not errors(app)
    assert names(app) == ["A", "two devices"]
    assert app.query_params["with"] == kept[:2]
    next(box for box in app.text_input if box.value == "A").set_value(" ")
    finish(app.run())
    assert errors(app) == ["a scenario needs a name; it keeps the one it had"]
    assert names(app) == ["A", "two devices"]


def test_what_was_removed_may_come_back() -> None:
    app = open_app("compare", scenario="chat-8b-h100", set=[SHORT], **{"with": entry("A")})
    assert len(app.table[0].value.columns) == 1
    press(app, "Remove")
    assert not app.table
    press(app, "Add the current scenario")
    assert list(app.table[0].value.columns) == ["chat\\-8b\\-h100, duration\\_s=40"]
    assert not any("Cancelled" in each.value for each in app.info)


def test_the_list_grows_from_the_sidebar_and_the_shelf() -> None:
    app = open_app("compare", scenario="chat-8b-h100", set=[SHORT])
    assert not app.table
    assert "Add two to 6 scenarios" in app.info[0].value
    press(app, "Add the current scenario")
    assert names(app) == ["chat-8b-h100, duration_s=40"]
    assert "Add another scenario" in app.info[0].value
    assert app.query_params["scenario"] == "chat-8b-h100"
    press(app, "Add the current scenario")
    assert errors(app) == [
        "the same scenario is in the list already, as 'chat-8b-h100, duration_s=40'"
    ]
    assert len(names(app)) == 1
    shelf = next(box for box in app.selectbox if box.label == "Shipped scenario")
    assert shelf.value is None
    shelf.set_value("static-batching")
    finish(app.run())
    assert names(app) == ["chat-8b-h100, duration_s=40", "static-batching"]
    assert not errors(app)


def test_more_than_six_are_refused() -> None:
    asked = [entry(str(seed), f"measurement.seed={seed}", "parallelism.tp=3") for seed in range(7)]
    app = open_app("compare", **{"with": asked})
    assert errors(app) == ["the address, with=: asks for 7 scenarios side by side; at most 6"]
    app = open_app("compare", **{"with": [entry("A"), entry("B")]})
    assert errors(app) == ["the address, with=: asks for the same scenario twice"]
    app = open_app("compare", **{"with": asked[:6]})
    assert len(errors(app)) == 6  # each is wrong, and says so
    press(app, "Add the current scenario")
    assert "6 scenarios side by side are the most; remove one to add another" in errors(app)
    assert len(names(app)) == 6


def test_uploads_are_checked() -> None:
    app = open_app("compare")

    def send(name: str, data: bytes) -> list[str]:
        next(box for box in app.file_uploader if box.label == "Scenario (YAML)").upload(name, data)
        finish(app.run())
        return errors(app)

    (wrong,) = send("own.yaml", b"modell: llama-3.1-8b\n")
    assert wrong.startswith("own.yaml:1: modell")
    assert send("own.yaml", b"\xff\xfe\x00") == ["own.yaml: is not UTF-8 text (byte 0)"]
    assert send("own.yaml", b" \n") == ["own.yaml: the file is empty"]
    assert send("own.yaml", b"# \n" * 70_000) == ["own.yaml: holds more than 200 kB"]
    assert not names(app)
    text = simulator.dump_scenario(simulator.load_scenario("static-batching"))
    assert not send("own.yaml", text.encode())
    assert names(app) == ["own"]
    (kept,) = app.query_params["with"] if isinstance(app.query_params["with"], list) else [
        app.query_params["with"]
    ]  # fmt: skip
    again = Entry.from_value(kept)
    assert again.choice.scenario == simulator.load_scenario("static-batching")
    assert Entry.from_value(again.to_value()) == again


def test_names_that_come_again_get_a_number() -> None:
    choices = [Choice("chat-8b-h100", sets=(f"measurement.seed={n}",)) for n in range(3)]
    assert compared.titles([Entry("a", choice) for choice in choices]) == ["a", "a (2)", "a (3)"]


def test_names_are_no_markup() -> None:
    runs = [{"latency": {"ttft_ms": {"p50": 10.0, "p99": 20.0}}}] * 2
    lines = simulator.compare_all(runs)
    table = side_by_side.table(lines, ["<b>x</b>", "[a](b) $1$"], everything=True)
    assert list(table.columns) == ["\\<b\\>x\\</b\\>", "\\[a\\]\\(b\\) \\$1\\$"]
    ((title, chart),) = side_by_side.charts(lines, ["<b>x</b>", "y"])
    assert title == "TTFT"
    assert list(chart.data[0].y) == ["&lt;b&gt;x&lt;/b&gt;", "y"]


def test_the_best_are_marked_and_ties_are_none() -> None:
    def run(ttft: float, hit: float, use: float) -> dict:
        return {
            "latency": {"ttft_ms": {"p99": ttft}},
            "kv_cache": {"prefix_hit_rate": hit, "use_mean": use},
        }

    runs = [run(100.0, 0.0, 0.5), run(50.0, 0.0, 0.6), run(50.2, 0.0001, 0.7)]
    lines = {line.key: line for line in simulator.compare_all(runs)}
    ttft = lines["latency.ttft_ms.p99"]
    assert ttft.best == (1, 2)
    assert ttft.differences == pytest.approx((0.0, -50.0, -49.8))
    assert ttft.ratios == pytest.approx((1.0, 0.5, 0.502))
    assert lines["kv_cache.prefix_hit_rate"].best == ()  # equal after rounding
    assert lines["kv_cache.use_mean"].best == ()  # neither direction is better
    assert ttft.matters
    assert not lines["kv_cache.use_mean"].matters
    pairs = simulator.compare(runs[0], runs[1])
    assert [(row.key, row.b, row.difference) for row in pairs] == [
        (line.key, line.values[1], line.differences[1]) for line in simulator.compare_all(runs[:2])
    ]
    shown = pd.read_csv(StringIO(side_by_side.csv(list(lines.values()), ["a", "b", "c"])))
    assert list(shown.columns) == ["key", "metric", "unit", "a", "b", "c"]
    assert shown.set_index("key").loc["latency.ttft_ms.p99", "c"] == 50.2
    text = side_by_side.table(list(lines.values()), ["a", "b", "c"], everything=True)
    assert text.loc["TTFT p99"].tolist() == ["100 ms", "**50\\.0 ms** ★ (−50.0%)".replace("\\", ""),
                                             "**50.2 ms** ★ (−49.8%)"]  # fmt: skip


def test_scenarios_differ_in_keys_with_their_defaults() -> None:
    plain = simulator.load_scenario("chat-8b-h100")
    other = simulator.load_scenario(
        "chat-8b-h100", ["deployment.replicas=2", "engine.policy={kind: static, batch_size: 8}",
                         "name=other"],
    )  # fmt: skip
    found = {each.key: each.values for each in simulator.scenario_differences([plain, other])}
    assert found == {
        "engine.policy.kind": (None, "static"),
        "engine.policy.batch_size": (None, 8),
        "deployment.replicas": (1, 2),
    }
    assert simulator.scenario_differences([plain, plain]) == []
