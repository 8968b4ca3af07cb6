"""Text from an address, a scenario or a file is text: no picture of it is fetched, no link made."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import urlencode

import pytest
from streamlit.testing.v1 import AppTest

from simulator import dump_scenario, load_scenario
from tests.dashboard_app import open_app, said

PICTURE = "![x](http://elsewhere.example/p.png)"
SHORT = ("workload.slice.duration_s=20",)


def packed(**changed: str) -> str:
    """A scenario with other texts, as an address has it."""
    scenario = load_scenario("chat-8b-h100", SHORT).model_copy(update=changed)
    return base64.urlsafe_b64encode(zlib.compress(dump_scenario(scenario).encode())).decode()


def shown(app: AppTest) -> list[str]:
    """All that is drawn as Markdown."""
    kinds = ("markdown", "caption", "title", "header", "subheader", "error", "warning", "info",
             "success")  # fmt: skip
    return [each.value for kind in kinds for each in app.get(kind)]


def check(app: AppTest, *, told: bool = True) -> None:
    texts = shown(app)
    assert not [text for text in texts if "![" in text.replace("\\!", "").replace("\\[", "")]
    assert not told or any(PICTURE in said(text) for text in texts), texts


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("", {"scenario": PICTURE}),
        ("", {"set": f"{PICTURE}=1"}),
        ("roofline", {"set": f"model={PICTURE}"}),
        ("capacity", {"set": f"hardware.profile={PICTURE}"}),
        ("fleet", {"set": f"workload.file={PICTURE}"}),
        ("compare", {"with": urlencode({"scenario": PICTURE})}),
        ("calibration", {"scenario": "mine.yaml", "yaml": PICTURE}),
    ],
)
def test_errors_show_what_was_written(page: str, query: dict[str, str]) -> None:
    check(open_app(page, **query), told="yaml" not in query)


@pytest.mark.parametrize("page", ["", "trace"])
def test_names_and_descriptions_are_no_markup(page: str) -> None:
    mine = packed(name=PICTURE, description=f"About {PICTURE}")
    check(open_app(page, scenario="mine.yaml", yaml=mine))


def test_the_baseline_is_no_markup() -> None:
    check(open_app(set=list(SHORT), baseline_scenario=PICTURE))
