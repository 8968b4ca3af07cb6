"""Opens the dashboard as a browser would, without one."""

from __future__ import annotations

import re
import time
from pathlib import Path

from streamlit.testing.v1 import AppTest

APP = Path(__file__).parents[1] / "dashboard" / "app.py"
PATIENCE_S = 60.0


def open_app(page: str = "", **query: str | list[str]) -> AppTest:
    """The app at an address, on a page (a file in ``views``), when all its work is done."""
    app = AppTest.from_file(str(APP), default_timeout=PATIENCE_S)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page:
        app.switch_page(f"views/{page}.py").run()
    return finish(app)


def finish(app: AppTest) -> AppTest:
    """Runs the app until no work is under way; none of it may have been a fault."""
    until = time.monotonic() + PATIENCE_S
    while any(button.label == "Cancel" for button in app.button):
        assert time.monotonic() < until, "work did not end"
        time.sleep(0.05)
        app.run()
    assert not app.exception, app.exception[0].message
    assert not any("fault of the program" in told for told in errors(app)), app.code
    return app


def errors(app: AppTest) -> list[str]:
    """The sentences in red."""
    return [said(error.value) for error in app.error]


def said(markdown: str) -> str:
    """What a browser shows of text that ``look.plain`` gave."""
    return re.sub(r"\\([^A-Za-z0-9 ])", r"\1", markdown)
