"""Plans and sweeps from Python, in one call each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.planner.document import Asked, load_plan
from simulator.planner.jobs.work import Work


def plan(
    source: str | Path | Asked, *, workers: int | None = None, store: str | Path | None = None
) -> dict[str, Any]:
    """The best deployment that holds, and why: what ``simulate plan`` writes to ``plan.json``.

    Args:
        source: a plan's file, the name of a shipped one, or what ``load_plan`` gave.
        workers: simulations at once; default: one a core.
        store: folder that keeps every simulation, so that a later call takes it from there;
            default: none are kept.

    Returns:
        Plain data. ``winner`` is None where no deployment holds, and ``reasons`` says why; else it
        has ``label``, ``usd_per_hour``, ``figures``, ``limits``, ``sure`` and the ``scenario`` as
        YAML.

    Raises:
        UserError: the plan is wrong, with file, line and key.
    """
    from simulator.planner.plan import plan as search

    return _with(source, workers, store, search)


def sweep(
    source: str | Path | Asked, *, workers: int | None = None, store: str | Path | None = None
) -> dict[str, Any]:
    """Every deployment of a plan's space, simulated: what ``simulate sweep`` writes to
    ``sweep.json``; arguments and errors as ``plan`` has them."""
    from simulator.planner.sweep import points_of_plan
    from simulator.planner.sweep import sweep as simulate_all

    def run(asked: Asked, work: Work) -> dict[str, Any]:
        points = points_of_plan(asked)
        return simulate_all(points, work, name=asked.plan.name, limits=asked.plan.constraints)

    return _with(source, workers, store, run)


def _with(
    source: str | Path | Asked,
    workers: int | None,
    store: str | Path | None,
    run: Callable[[Asked, Work], dict[str, Any]],
) -> dict[str, Any]:
    asked = source if isinstance(source, Asked) else load_plan(source)
    try:
        with _work(workers, store) as work:
            return run(asked, work)
    except UserError as error:
        raise asked.located(error) from None


@contextmanager
def _work(workers: int | None, store: str | Path | None) -> Iterator[Work]:
    from simulator.planner.jobs.backends.local import LocalBackend
    from simulator.planner.jobs.store import Store

    kept = Store(None if store is None else str(store))
    with Work(LocalBackend(workers), kept) as work:
        yield work
