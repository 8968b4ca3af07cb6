"""Settings of the whole suite. Hypothesis draws the same examples in every run."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Triton looks at this when it is first imported, by whichever test of a worker comes first.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Files that take longest, in this order before all others: workers take tests from each other's
# ends (``--dist worksteal``), so that the short ones even out what is left.
LONGEST = (
    "test_studies", "test_dashboard_browser", "test_plan_search", "test_kernels_compiled",
    "test_scenario_docs", "test_plan_ray", "test_fit_served",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; within a file the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """Modules and thousands of tests stay to the end: no collection has to walk through them."""
    gc.collect()
    gc.freeze()


settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", parent=settings.get_profile("ci"), derandomize=False)
settings.register_profile("thorough", parent=settings.get_profile("search"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
