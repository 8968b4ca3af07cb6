"""Plans and sweeps from Python, in one call each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import UserError
from simulator.planner.document import Asked, load_plan
from simulator.planner.jobs.work import Standing, Work

if TYPE_CHECKING:
    from simulator.planner.constraints import Constraint
    from simulator.scenario import Scenario

LoadTold = Callable[[Standing], object]
"""Gets how far the simulations are."""

PlanTold = Callable[[str, Standing], object]
"""Gets what is being done, in words, and how far it is: in the stage ``bounds`` the kinds of
deployment that were looked at, in all others the simulations."""


def plan(
    source: str | Path | Asked,
    *,
    workers: int | None = None,
    store: str | Path | None = None,
    told: PlanTold | None = None,
) -> dict[str, Any]:
    """The best deployment that holds, and why: what ``simulate plan`` writes to ``plan.json``.

    Args:
        source: a plan's file, the name of a shipped one, or what ``load_plan`` or ``parse_plan``
            gave.
        workers: simulations at once; default: one a core.
        store: folder that keeps every simulation, so that a later call takes it from there;
            default: none are kept.
        told: called with every stage and simulation, and several times a second between them. If
            it raises, the search ends at once with this exception: no process is left behind, and
            what was simulated is in the store. All simulations are then done in processes of
            their own.

    Returns:
        Plain data. ``winner`` is None where no deployment holds, and ``reasons`` says why; else it
        has ``label``, ``usd_per_hour``, ``figures``, ``limits``, ``sure`` and the ``scenario`` as
        YAML.

    Raises:
        UserError: the plan is wrong, with file, line and key.
    """
    from simulator.planner.plan import plan as search

    def run(asked: Asked, work: Work, telling: _Telling) -> dict[str, Any]:
        return search(asked, work, told=telling.stage, looked=telling.looked)

    return _with(source, workers, store, told, run)


def sweep(
    source: str | Path | Asked,
    *,
    workers: int | None = None,
    store: str | Path | None = None,
    told: PlanTold | None = None,
) -> dict[str, Any]:
    """Every deployment of a plan's space, simulated: what ``simulate sweep`` writes to
    ``sweep.json``; arguments and errors as ``plan`` has them."""
    from simulator.planner.sweep import points_of_plan
    from simulator.planner.sweep import sweep as simulate_all

    def run(asked: Asked, work: Work, telling: _Telling) -> dict[str, Any]:
        telling.stage("simulating")
        points = points_of_plan(asked)
        return simulate_all(points, work, name=asked.plan.name, limits=asked.plan.constraints)

    return _with(source, workers, store, told, run)


def load_report(
    scenario: Scenario,
    constraints: Sequence[Constraint] = (),
    *,
    metric: str = "e2e_ms.mean",
    quick: bool = False,
    workers: int | None = None,
    told: LoadTold | None = None,
    first: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Latency and throughput as the load grows, and the highest load that holds: what ``simulate
    load --json`` prints.

    Args:
        scenario: its traffic is scaled, from a tenth of what saturates the deployment to beyond.
        constraints: what the highest load must hold; default: the SLO.
        metric: latency whose knee is looked for.
        quick: fewer points, and no interval of the highest load.
        workers: simulations at once; default: one a core.
        told: called with every simulation, and several times a second between them. If it raises,
            the work ends at once with this exception, and no process is left behind.
        first: called with the quick report, before work on the other one begins.

    Returns:
        Plain data: ``name``, ``description``, ``curve`` (``points``, each with ``factor``,
        ``rate_per_s``, ``users``, ``keeps_up`` and ``figures``; ``knee``; ``saturation_per_s``) and
        ``highest``, null where there is nothing to hold.

    Raises:
        UserError: the scenario cannot be simulated, or its traffic has no rate to raise.
    """
    from simulator.planner.loads.load import load_report as report

    telling = _Telling(None if told is None else lambda _, standing: told(standing))
    with _work(workers, None, None if told is None else telling) as work:
        if first is not None and not quick:
            first(report(scenario, constraints, metric, work, quick=True))
        return report(scenario, constraints, metric, work, quick=quick)


def describe_plan(
    source: str | Path | Asked, *, workers: int | None = None, told: PlanTold | None = None
) -> dict[str, Any]:
    """What a plan asks for and how large a search it is: what ``simulate check`` and ``simulate
    plan --dry-run`` say, in a second or so.

    Args:
        source: as ``plan`` has it.
        workers: simulations at once, for the time they take; default: one a core.
        told: called after each kind of deployment that was looked at; if it raises, that is all.

    Returns:
        Plain data: ``asked``, ``space``, about how many ``simulations`` a search takes and
        ``estimated_s``, its seconds where no simulation is kept from before; None: unknown.

    Raises:
        UserError: the plan is wrong, with file, line and key.
    """
    from simulator.planner.jobs.backends.local import cores
    from simulator.planner.plan import sized_up

    asked = source if isinstance(source, Asked) else load_plan(source)
    telling = _Telling(told)
    try:
        return sized_up(asked, workers or cores(), telling.looked)
    except UserError as error:
        raise asked.located(error) from None


def deployment_scenario(
    source: str | Path | Asked, deployment: Mapping[str, Any]
) -> Scenario | None:
    """A deployment of a plan as a scenario, with the traffic as it is.

    Args:
        source: the plan, as ``plan`` has it.
        deployment: an entry of its report: the winner, a runner-up, one of ``trials``.

    Returns:
        The scenario; None where the plan's space has no such deployment.

    Raises:
        UserError: the plan is wrong, with file, line and key.
    """
    from simulator.planner.space import kinds

    asked = source if isinstance(source, Asked) else load_plan(source)
    try:
        every = kinds(asked)
    except UserError as error:
        raise asked.located(error) from None
    wanted = (deployment["axes"], tuple(deployment["pools"]))
    found = next((k for k in every if (dict(k.axes), tuple(k.pools)) == wanted), None)
    return None if found is None else found.scenario(tuple(deployment["replicas"]))


class _Telling:
    """Puts together what is being done and how far it is."""

    def __init__(self, told: PlanTold | None) -> None:
        self._told = told
        self._stage, self._standing = "", Standing()

    def stage(self, text: str) -> None:
        self._stage = text
        self.pulse()

    def looked(self, done: int, total: int) -> None:
        if self._told is not None:
            self._told("bounds", replace(Standing(), done=done, total=total))

    def worked(self, standing: Standing) -> None:
        self._standing = standing
        self.pulse()

    def pulse(self) -> None:
        if self._told is not None:
            self._told(self._stage, self._standing)


def _with(
    source: str | Path | Asked,
    workers: int | None,
    store: str | Path | None,
    told: PlanTold | None,
    run: Callable[[Asked, Work, _Telling], dict[str, Any]],
) -> dict[str, Any]:
    asked = source if isinstance(source, Asked) else load_plan(source)
    telling = _Telling(told)
    try:
        with _work(workers, store, None if told is None else telling) as work:
            return run(asked, work, telling)
    except UserError as error:
        raise asked.located(error) from None


@contextmanager
def _work(
    workers: int | None, store: str | Path | None, telling: _Telling | None
) -> Iterator[Work]:
    from simulator.planner.jobs.backends.local import LocalBackend
    from simulator.planner.jobs.store import Store

    backend = LocalBackend(workers, pulse=None if telling is None else telling.pulse)
    kept = Store(None if store is None else str(store))
    with Work(backend, kept, None if telling is None else telling.worked) as work:
        yield work
