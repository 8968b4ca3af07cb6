"""Plans and sweeps in the terminal, as pages and as files."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from simulator import simulate
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.work import Work
from simulator.planner.pareto import FRONTS
from simulator.planner.report.charts import GROUPS, OTHERS, plan_data, sweep_data
from simulator.planner.report.files import write_plan, write_sweep
from simulator.planner.report.meters import meters
from simulator.planner.report.plan_page import plan_page
from simulator.planner.report.sweep_page import sweep_page
from simulator.planner.report.terminal import MOST_ROWS, render_plan, render_sweep
from simulator.planner.report.words import amount, bound, title
from simulator.planner.sweep import points_of_values, sweep
from simulator.results.definitions import value_at
from simulator.scenario import load_scenario
from tests.plan_support import CHAT, planned, write

NASTY = '<script>alert("1")</script> & </script> <b>'

Report = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A plan that asks for room, and has a winner."""
    folder = tmp_path_factory.mktemp("plan")
    limits = [{"metric": "ttft_ms.p99", "max": 800}, {"metric": "tpot_ms.p99", "max": 90}]
    return planned(folder, headroom=0.2, spare_replicas=1, description=NASTY, constraints=limits)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Report:
    limits = [{"metric": "ttft_ms.p99", "max": 20}]
    return planned(tmp_path_factory.mktemp("none"), constraints=limits)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = write(tmp_path_factory.mktemp("sweep"), CHAT | {"slo": {"ttft_ms": 400, "tpot_ms": 90}})
    points = points_of_values(path, (), ["hardware=l4,l40s", "parallelism.tp=1,2,16"])
    with Work(LocalBackend(1)) as work:
        return sweep(points, work, name="a sweep")


# --- pages ---------------------------------------------------------------------------------------

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects tags and text; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += f"{data}\n"

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0], parse_constant=pytest.fail)

    def tables(self) -> int:
        return sum(tag == "tr" for tag, _ in self.tags)


def test_a_page_of_a_plan_says_what_the_report_says(found: Report) -> None:
    page = Page(plan_page(found))
    winner = found["winner"]
    assert f"Take {winner['label']}" in page.text
    for sentence in found["reasons"]:
        for part in sentence.split("`"):  # what stands between backticks is set as code
            assert part in page.text
    for trial in found["trials"]:
        assert trial["label"] in page.text
    for other in found["runners_up"]:
        assert f"{100 * other['than_winner']['difference']:+.1f}" in page.text
    assert "20% more traffic and 1 replica missing" in page.text
    for device in found["provenance"]["devices"]:
        assert device["title"] in page.text
        assert device["prices"][0]["as_of"] in page.text
    assert winner["scenario"].strip() in page.text


def test_pages_need_nothing_from_elsewhere(found: Report, swept: Report) -> None:
    for text in (plan_page(found), sweep_page(swept)):
        page = Page(text)
        assert len(page.scripts) == 3
        for tag, attributes in page.tags:
            assert tag not in ("link", "iframe", "img", "object", "embed", "base")
            assert not {"src", "href", "action", "onclick"} & set(attributes)
        assert not re.search(r"@import|url\(", page.text)


def test_what_comes_from_files_is_text(found: Report, swept: Report) -> None:
    report = copy.deepcopy(found)
    report["name"] = report["winner"]["label"] = NASTY
    report["reasons"] = [NASTY]
    report["space"]["problems"] = [{"problem": NASTY, "kinds": 1}]
    for trial in report["trials"]:
        trial["label"] = trial["axes"]["hardware"] = NASTY
        if trial["worst"]:
            trial["worst"]["text"] = NASTY
    page = Page(plan_page(report))
    assert len(page.scripts) == 3
    assert page.text.count(NASTY) > 5
    assert NASTY in {point["label"] for point in page.data["points"]}
    assert "<" not in page.scripts[0]

    report = copy.deepcopy(swept)
    report["name"] = NASTY
    for row in report["rows"]:
        row["values"]["hardware"] = NASTY
        if row["problem"]:
            row["problem"] = NASTY
    page = Page(sweep_page(report))
    assert len(page.scripts) == 3
    assert page.data["groups"] != []


def test_what_was_ended_early_has_no_figures(found: Report) -> None:
    early = [trial for trial in found["trials"] if trial["ended_early"]]
    drawn = {point["label"] for point in plan_data(found)["points"]}
    assert early
    assert not drawn & {trial["label"] for trial in early}
    count = f"{len(early)} deployment{' is' if len(early) == 1 else 's are'} not drawn"
    assert count in plan_page(found)


def test_a_verdict_that_was_left_open_is_shown_as_such(found: Report) -> None:
    report = copy.deepcopy(found)
    held = [trial for trial in report["trials"] if trial["state"] == "holds"]
    held[-1]["state"] = "open"
    page = Page(plan_page(report))
    assert page.text.count("left open") >= 2  # the legend and the table


def test_points_of_a_plan_are_its_trials(found: Report) -> None:
    data = plan_data(found)
    titles = [figure["title"] for figure in data["figures"]]
    chart = next(chart for chart in data["charts"] if chart["id"] == "cost_ttft")
    assert (titles[chart["x"]], titles[chart["y"]]) == ("Cost per hour, USD", "TTFT p99, ms")
    trials = {trial["label"]: trial for trial in found["trials"]}
    for point in data["points"]:
        trial = trials[point["label"]]
        assert point["values"][chart["x"]] == trial["usd_per_hour"]
        assert point["values"][chart["y"]] == trial["figures"]["latency.ttft_ms.p99"]
        assert point["state"] == trial["state"]
        assert data["groups"][point["group"]] == trial["axes"]["hardware"]
    assert [p["label"] for p in data["points"] if p["winner"]] == [found["winner"]["label"]]
    # The run that decides has other prices: fewer replicas, more traffic.
    assert not any("million" in text for text in titles)


def test_a_page_where_nothing_holds(nothing: Report) -> None:
    page = Page(plan_page(nothing))
    assert "No deployment holds." in page.text
    assert nothing["reasons"][1] in page.text
    assert "The winner" not in page.text


def test_a_page_of_a_sweep_has_every_point(swept: Report) -> None:
    page, data = Page(sweep_page(swept)), sweep_data(swept)
    assert data["groups"] == ["l4", "l40s"]
    assert len(data["points"]) == sum(not row["problem"] for row in swept["rows"]) > 0
    problems = [row["problem"] for row in swept["rows"] if row["problem"]]
    assert problems
    for text in problems:
        assert text in page.text
    assert "SLO attainment ≥ 99%" in page.text


def test_colours_are_few(swept: Report) -> None:
    report = copy.deepcopy(swept)
    one = next(row for row in report["rows"] if not row["problem"])
    report["rows"] = [copy.deepcopy(one) for _ in range(30)]
    for number, row in enumerate(report["rows"]):
        row["values"]["hardware"] = f"device-{number}"
    data = sweep_data(report)
    assert len(data["groups"]) == GROUPS
    assert data["groups"][-1] == OTHERS
    assert {point["group"] for point in data["points"]} == set(range(GROUPS))


def _limit(**changed: Any) -> Report:
    return {
        "text": "TPOT p99 ≤ 40 ms", "path": "latency.tpot_ms.p99", "limit": 40.0, "share": False,
        "mean": 30.0, "half": 2.0, "excess": -0.25, "bad_end": 48.0, "sure": False,
    } | changed  # fmt: skip


def test_bars_stand_for_their_values() -> None:
    text = meters([_limit()])
    high = 48.0 * 1.08
    assert f"width:{100 * 30 / high:.2f}%" in text
    assert f'class="limit" style="left:{100 * 40 / high:.2f}%' in text
    assert f"left:{100 * 28 / high:.2f}%;width:{100 * 4 / high:.2f}%" in text
    assert "bad end 48.00 ms: misses it" in text
    # A share near 1: the bar begins where it matters.
    share = _limit(text="≥ 99%", path="slo.goodput_share", limit=0.99, share=True, mean=0.995,
                   half=None, excess=-0.5, bad_end=0.98)  # fmt: skip
    assert f'class="limit" style="left:{100 * (1 - 0.01 / 0.022):.2f}%' in meters([share])
    assert 'class="fill miss"' in meters([_limit(excess=0.2, mean=48.0)])
    assert "–" in meters([_limit(mean=None, excess=None, half=None, bad_end=None)])


# --- the terminal --------------------------------------------------------------------------------


def shown(render: Any, report: Report, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    render(report, console, ["out/plan.html"])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_wider_than_the_terminal_or_cut(
    found: Report, nothing: Report, swept: Report, width: int
) -> None:
    for render, report in (
        (render_plan, found), (render_plan, nothing), (render_sweep, swept),
    ):  # fmt: skip
        printed = shown(render, report, width)
        assert max(map(len, printed)) <= width
        assert not any("…" in line for line in printed)
        for line in printed:  # what goes on below a label is indented
            assert re.match(r"^( {12}|\S|\s*$|[ ─]+)", line)


def test_more_room_shows_more(found: Report) -> None:
    narrow, wide = ("\n".join(shown(render_plan, found, width)) for width in (80, 160))
    assert "J/token" in wide
    assert "J/token" not in narrow
    assert "TTFT" in narrow


def test_a_long_sweep_shows_its_fronts_first(swept: Report) -> None:
    report = copy.deepcopy(swept)
    one = next(row for row in report["rows"] if not row["problem"])
    plain = one | {"fronts": dict.fromkeys(one["fronts"], False)}
    best = one | {"fronts": dict.fromkeys(one["fronts"], True)}
    report["rows"] = [*[plain] * 60, best]
    text = "\n".join(shown(render_sweep, report, 100))
    assert text.count("STPE") == 1
    assert f"{MOST_ROWS} of 61" in text


def test_figures_have_names_and_units() -> None:
    assert title("latency.ttft_ms.p99") == "TTFT p99"
    assert title("classes.chat.tpot_ms.p50") == "TPOT p50"
    assert amount(1234.5, "latency.ttft_ms.p99") == "1,234 ms"
    assert amount(0.985, "slo.goodput_share") == "98.5%"
    assert amount(39.56, "cost.usd_per_hour") == "$39.56"
    assert amount(None, "latency.ttft_ms.p99") == "–"
    assert bound(0.995, "slo.goodput_share") == "99.5%"
    assert bound(1000, "latency.ttft_ms.p99") == "1,000 ms"


# --- files ---------------------------------------------------------------------------------------


def test_a_plan_leaves_its_files(found: Report, tmp_path: Path) -> None:
    written = [path.relative_to(tmp_path).as_posix() for path in write_plan(found, tmp_path)]
    assert written[:5] == [
        "plan.html", "plan.json", "deployments.csv", "deployments.parquet", "winner.yaml",
    ]  # fmt: skip
    assert {"deploy/serve.sh", "deploy/kubernetes.yaml"} <= set(written)
    assert json.loads((tmp_path / "plan.json").read_text("utf-8")) == found
    table = pd.read_csv(tmp_path / "deployments.csv")
    assert len(table) == len(found["trials"])
    early = table["ended_early"].notna()
    assert early.any()
    assert table.loc[early, "latency.ttft_ms.p99"].isna().all()
    assert table["usd_per_hour"].notna().all()
    assert "cost.usd_per_hour" not in table  # that of the run that decides, with replicas missing
    assert len(pd.read_parquet(tmp_path / "deployments.parquet")) == len(table)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_the_winner_is_a_scenario_that_gives_its_figures(found: Report, tmp_path: Path) -> None:
    write_plan(found, tmp_path)
    summary = simulate(load_scenario(str(tmp_path / "winner.yaml"))).summary()
    winner = found["winner"]
    assert value_at(summary, "cost.usd_per_hour") == pytest.approx(winner["usd_per_hour"])
    assert summary["simulated"]["seed"] in found["provenance"]["seeds"]
    script = (tmp_path / "deploy" / "serve.sh").read_text("utf-8")
    assert "vllm serve" in script


def test_no_winner_no_scenario(nothing: Report, tmp_path: Path) -> None:
    names = {path.name for path in write_plan(nothing, tmp_path)}
    assert names == {"plan.html", "plan.json", "deployments.csv", "deployments.parquet"}


def test_a_sweep_leaves_its_files(swept: Report, tmp_path: Path) -> None:
    names = [path.name for path in write_sweep(swept, tmp_path)]
    assert names == ["sweep.html", "sweep.json", "points.csv", "points.parquet"]
    table = pd.read_csv(tmp_path / "points.csv")
    assert list(table["axis.hardware"]) == [row["values"]["hardware"] for row in swept["rows"]]
    assert table["problem"].notna().sum() == sum(bool(row["problem"]) for row in swept["rows"])


# --- fronts --------------------------------------------------------------------------------------


def test_points_on_fronts_are_beaten_by_none(swept: Report) -> None:
    rows = [row for row in swept["rows"] if not row["problem"]]
    for front in FRONTS:
        values = [
            (row["figures"][front.x] * (-1 if front.x_up else 1),
             row["figures"][front.y] * (-1 if front.y_up else 1))
            for row in rows
        ]  # fmt: skip
        for row, (x, y) in zip(rows, values, strict=True):
            beaten = any(a <= x and b <= y and (a < x or b < y) for a, b in values)
            assert row["fronts"][front.name] is not beaten
        assert any(row["fronts"][front.name] for row in rows)
