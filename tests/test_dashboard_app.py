"""The dashboard's frame: pages, address, background work."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import answers
from tests.dashboard_app import APP, PATIENCE_S, errors, finish, open_app


def test_the_first_page_shows_the_default_scenario() -> None:
    app = open_app()
    assert not errors(app)
    assert app.metric[0].label == "TTFT p50"
    assert app.query_params["scenario"] == "chat-8b-h100"


def test_a_fault_of_the_program_is_told_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def faulty(_: object) -> object:
        return lambda report: 1 // 0

    at = {"set": "workload.slice.duration_s=17"}
    with monkeypatch.context() as patched:
        patched.setattr(answers, "run", faulty)
        app = AppTest.from_file(str(APP), default_timeout=PATIENCE_S)
        app.query_params["set"] = at["set"]
        app.run()
        assert "fault of the program" in app.error[0].value
        assert any("ZeroDivisionError" in code.value for code in app.code)
    (again,) = [button for button in app.button if button.label == "Run again"]
    again.click()
    finish(app.run())
    assert not errors(app)
    assert {metric.label: metric.value for metric in app.metric} == {
        metric.label: metric.value for metric in open_app(**at).metric
    }
