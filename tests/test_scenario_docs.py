"""The committed documentation is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from simulator.documentation import current, pages
from simulator.results import Result
from simulator.results.files import FORMATS
from simulator.scenario import load_scenario
from simulator.scenario.reference import reference
from simulator.simulation import simulate

DOCS = ROOT / "docs"


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def words_and_numbers(text: str) -> tuple[list[str], list[float]]:
    numbers = [float(number.replace(",", "")) for number in NUMBER.findall(text)]
    return NUMBER.sub("#", text).split(), numbers


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.stem)
def test_a_generated_page_is_current(page: Path) -> None:
    words, numbers = words_and_numbers(page.read_text(encoding="utf-8"))
    current_words, current_numbers = words_and_numbers(current(page, ROOT))
    assert words == current_words, f"{page.name}: run `make docs`"
    # Another processor may round the last digit of a simulated time differently.
    assert numbers == pytest.approx(current_numbers, rel=0.01), f"{page.name}: run `make docs`"


def test_every_link_of_the_reference_leads_somewhere() -> None:
    text = reference()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links
    assert links <= anchors


def test_every_file_that_the_pages_link_to_is_there() -> None:
    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tables_of_the_result_pages_name_every_column_and_format() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    scenario = load_scenario("chat-8b-h100", ["workload.slice.requests=50"])
    result: Result = simulate(scenario)
    for name in (*result.requests.columns, *result.timeline.columns, *FORMATS):
        assert f"`{name}`" in text, name
