"""The dashboard in a real browser: what only a browser does, and how it looks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_server import Server, serving

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


PAGES = ("what-if",)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_is_drawn(window: Opens, pictures: Path, page: str) -> None:
    seen = window(f"/{'' if page == 'what-if' else page}?scenario=chat-8b-h100&{SHORT}")
    assert seen.errors() == []
    assert seen.cut_off() == []
    assert seen.shoot(pictures, f"dashboard-{page}").stat().st_size < 200_000
    seen.page.set_viewport_size({"width": 800, "height": 1000})
    assert seen.settled().cut_off() == []
    seen.shoot(pictures, f"{page}-narrow")
