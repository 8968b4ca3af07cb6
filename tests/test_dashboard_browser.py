"""The dashboard in a real browser: what only a browser does, and how it looks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_server import Server, serving

from simulator import dump_scenario, load_scenario

if importlib.util.find_spec("playwright") is None:
    pytest.skip("needs Playwright (pip)", allow_module_level=True)

from dashboard_browser import CHROMIUM, SCREENSHOTS, Window, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

SHORT = "set=workload.slice.duration_s%3D60"
Opens = Callable[..., Window]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def window(browser: Any, server: Server) -> Iterator[Opens]:
    """Makes windows that see nothing of each other; none may have complained in the end."""
    made: list[Window] = []

    def new(path: str = "/", **context: Any) -> Window:
        made.append(Window(browser, server.address, **context))
        return made[-1].open(path)

    yield new
    for one in made:
        one.context.close()
        assert one.complaints == []


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        return Path(SCREENSHOTS)
    return tmp_path_factory.mktemp("pictures")


# --- every page --------------------------------------------------------------------------------------

PAGES = {
    "what-if": f"/?scenario=chat-8b-h100&{SHORT}",
    "compare": f"/compare?scenario=chat-8b-h100&{SHORT}&set=workload.rate_scale%3D2",
    "roofline": f"/roofline?scenario=chat-8b-h100&{SHORT}",
    "capacity": f"/capacity?scenario=chat-8b-h100&{SHORT}",
    "fleet": "/fleet?scenario=failover-8b-h100",
    "calibration": "/calibration",
    "trace": "/trace",
}
IN_DARK = ("what-if",)

# With a baseline and a change, as the documentation shows it.
PICTURED = {
    "what-if": "/?scenario=chat-8b-h100&set=workload.rate_scale%3D2&baseline_scenario=chat-8b-h100"
}


def compare(seen: Window) -> None:
    """Fills the page: two scenarios."""
    seen.page.get_by_role("button", name="Add the current scenario").click()
    seen.settled()
    seen.turn("Rate × recorded", "20")
    seen.page.get_by_role("button", name="Add the current scenario").click()
    seen.page.get_by_test_id("stPlotlyChart").first.wait_for()
    seen.settled()


FILL: dict[str, Callable[[Window], None]] = {"compare": compare}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_drawn_and_fits(window: Opens, pictures: Path, page: str) -> None:
    seen = window(PICTURED.get(page, PAGES[page]))
    if page in FILL:
        FILL[page](seen)
    assert seen.errors() == []
    assert seen.cut_off() == []
    assert seen.shoot(pictures, f"dashboard-{page}").stat().st_size < 200_000
    seen.page.set_viewport_size({"width": 800, "height": 1000})
    assert seen.settled().cut_off() == []
    if page in IN_DARK:
        seen.page.set_viewport_size({"width": 1400, "height": 1000})
        seen.page.emulate_media(color_scheme="dark")
        seen.page.reload()
        seen.settled().shoot(pictures, f"dashboard-{page}-dark")
        assert seen.page.evaluate(DARKNESS) < 0.2


DARKNESS = """() => {
  const rgb = getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor;
  return Math.max(...rgb.match(/\\d+/g).slice(0, 3).map(Number)) / 255;
}"""


# --- one scenario, everywhere ------------------------------------------------------------------------


def test_knobs_move_figures_and_the_address_restores_them(window: Opens) -> None:
    first = window(PAGES["what-if"])
    before = first.metrics()
    first.page.get_by_role("button", name="Pin", exact=True).click()
    other = window(PAGES["what-if"])
    first.turn("Rate × recorded", "40")
    after = first.metrics()
    assert set(after) == set(before)
    assert sum(after[label] != before[label] for label in before) > len(before) / 2
    assert "set=workload.rate_scale%3D40" in first.query()
    assert "baseline" in first.query()
    assert first.page.get_by_test_id("stMetricDelta").count() > 0

    # Another user sees neither the knob nor the baseline, until the address is handed over.
    assert other.open(PAGES["what-if"]).metrics() == before
    assert "baseline" not in other.query()
    assert other.page.get_by_test_id("stMetricDelta").count() == 0
    assert window("/?" + first.query()).metrics() == after


def test_the_yaml_is_the_command_lines(window: Opens, tmp_path: Path) -> None:
    seen = window(PAGES["what-if"])
    seen.page.get_by_text("Scenario as YAML").click()
    with seen.page.expect_download() as download:
        seen.page.get_by_role("button", name="Download YAML").click()
    file = tmp_path / "downloaded.yaml"
    download.value.save_as(file)
    expected = dump_scenario(load_scenario("chat-8b-h100", ["workload.slice.duration_s=60"]))
    assert file.read_text(encoding="utf-8") == expected

    file.write_text(expected.replace("name: chat-8b-h100", "name: mine"), encoding="utf-8")
    before = seen.metrics()
    uploader = seen.page.get_by_test_id("stFileUploader").filter(has_text="Your own scenario")
    uploader.locator("input").set_input_files(file)
    seen.page.wait_for_function("() => location.search.includes('yaml=')")
    assert seen.settled().metrics() == before
    assert window("/?" + seen.query()).metrics() == before


def test_a_trace_is_uploaded_described_and_replayed(window: Opens, tmp_path: Path) -> None:
    seen = window(PAGES["trace"])
    uploader = seen.page.get_by_test_id("stFileUploader").filter(has_text="Upload a trace")
    rows = "".join(f"{0.1 * i:.1f},{100 + i},{10 + i % 7}\n" for i in range(300))
    file = tmp_path / "mine.csv"
    file.write_text("arrival_s,input_tokens,output_tokens\n" + rows, encoding="utf-8")
    uploader.locator("input").set_input_files(file)
    seen.page.get_by_placeholder("all 300").wait_for()
    assert seen.settled().metrics()["Requests"] == "300"
    assert seen.errors() == []

    wrong = tmp_path / "wrong.csv"
    wrong.write_text("arrival_s,input_tokens,output_tokens\n0,100,many\n", encoding="utf-8")
    uploader.locator("input").first.set_input_files(wrong)
    seen.page.get_by_test_id("stAlertContentError").first.wait_for()
    (said,) = seen.settled().errors()
    assert "wrong.csv:2" in said
    assert "many" in said


def test_the_navigation_keeps_the_scenario(window: Opens) -> None:
    seen = window(PAGES["what-if"])
    seen.go("Roofline")
    assert "duration_s" in seen.query()
    before = seen.metrics()
    assert window("/roofline?" + seen.query()).metrics() == before
    seen.go("What-if")
    assert "duration_s" in seen.query()


def test_long_work_is_cancelled_and_ended(browser: Any) -> None:
    with serving() as server:
        seen = Window(browser, server.address)
        seen.page.goto(f"{server.address}/?scenario=week-70b-autoscaling")
        cancel = seen.page.get_by_role("button", name="Cancel").first
        cancel.click()
        seen.page.get_by_text("Cancelled.").first.wait_for()
        seen.page.wait_for_timeout(1500)  # until the cancelled work has ended
        seen.page.get_by_role("button", name="Run again").first.click()
        cancel.wait_for()
        # Under way, it does not keep Ctrl-C waiting.
        code, errors = server.stop()
        seen.context.close()
    assert (code, errors) == (0, "")


def test_the_keyboard_reaches_navigation_and_knobs(window: Opens) -> None:
    seen = window(PAGES["what-if"])
    before = seen.metrics()
    reached = []
    while len(reached) < 150 and not {"Roofline", "Scenario", "Rate × recorded"} <= set(reached):
        seen.page.keyboard.press("Tab")
        reached.append(seen.page.evaluate(FOCUSED))
    assert {"Roofline", "Scenario", "Rate × recorded"} <= set(reached), reached
    while seen.page.evaluate(FOCUSED) != "Rate × recorded":
        seen.page.keyboard.press("Shift+Tab")
    seen.page.keyboard.press("ControlOrMeta+A")
    seen.page.keyboard.type("20")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_function("() => location.search.includes('rate_scale')")
    assert seen.settled().metrics() != before


FOCUSED = """() => {
  const e = document.activeElement;
  const icon = e.querySelector('[data-testid=stIconMaterial]')?.innerText ?? '';
  return (e.getAttribute('aria-label') || e.innerText.replace(icon, '') || e.tagName).trim();
}"""
