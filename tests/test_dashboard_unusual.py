"""Pages of scenarios that lack what most have: no fault, and no number where there is none."""

from __future__ import annotations

import pytest

from tests.dashboard_app import errors, open_app

ONE_TOKEN = (
    'workload={"kind":"synthetic","requests":1,"arrivals":{"kind":"burst"},"lengths":{'
    '"kind":"independent","input":{"kind":"fixed","tokens":200},'
    '"output":{"kind":"fixed","tokens":1}}}'
)
NOBODY_WAITS = ("workload.slice.duration_s=20", "deployment.timeout_s=0.001")


@pytest.mark.parametrize(
    ("page", "scenario"),
    [
        ("capacity", "batch-beside-chat-8b-h100"),  # its job begins after the sample that is timed
        ("fleet", "mixed-pools-8b"),
        ("roofline", "disaggregated-70b-h100"),
        ("calibration", "mixed-pools-8b"),
    ],
)
def test_pages_of_unusual_scenarios_have_no_faults(page: str, scenario: str) -> None:
    assert not errors(open_app(page, scenario=scenario))


def test_what_is_not_defined_is_a_dash() -> None:
    for query, undefined in (
        ({"set": [ONE_TOKEN]}, {"TPOT p50", "TPOT p99"}),
        ({"scenario": "on-device-3b-jetson"}, {"Cost / M output tokens", "Cost per hour"}),
        (
            {"set": list(NOBODY_WAITS)},
            {f"{name} p{share}" for name in ("TTFT", "TPOT", "E2E") for share in (50, 99)}
            | {"Cost / M output tokens", "Energy / output token"},
        ),
    ):
        app = open_app(**query)  # type: ignore[arg-type]
        assert {metric.label for metric in app.metric if metric.value == "–"} == undefined
