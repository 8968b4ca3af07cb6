"""The dashboard's frame: pages, address, background work."""

from __future__ import annotations

from tests.dashboard_app import errors, open_app


def test_the_first_page_shows_the_default_scenario() -> None:
    app = open_app()
    assert not errors(app)
    assert app.metric[0].label == "TTFT p50"
    assert app.query_params["scenario"] == "chat-8b-h100"
