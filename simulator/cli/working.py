"""Options of the commands that ask for many simulations: who does them, and where they are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.folder import ROOT
from simulator.cli.output import Bar, console, echo_json
from simulator.cli.safely import INTERRUPTED

if TYPE_CHECKING:
    from simulator.planner.jobs.work import Standing, Told, Work


@dataclass(frozen=True, slots=True)
class Working:
    """What the options say.

    Args:
        backend: name of the backend.
        workers: simulations at once; None: one a core.
        address: of the cluster, if the backend has one.
        store: folder of the store; None: nothing is kept.
    """

    backend: str
    workers: int | None
    address: str | None
    store: str | None

    @property
    def count(self) -> int:
        """Simulations at once, as far as this machine knows."""
        from simulator.planner.jobs.backends.local import cores

        return self.workers or cores()

    @contextmanager
    def open(self, told: Told | None = None) -> Iterator[Work]:
        """The workplace; its workers and its store are let go at the end. Ctrl-C ends the command,
        which then says what was kept."""
        from simulator.planner.jobs.backends import make_backend
        from simulator.planner.jobs.store import Store
        from simulator.planner.jobs.work import Work

        backend = make_backend(self.backend, self.workers, self.address)
        try:
            store = Store(self.store)
        except BaseException:
            backend.close()
            raise
        with Work(backend, store, told) as work:
            try:
                yield work
            except KeyboardInterrupt:
                if self.store is None:
                    raise
                click.echo(
                    f"Interrupted: {work.standing.done:,} simulations are kept in {self.store}; "
                    "the same command goes on from there.",
                    err=True,
                )
                raise SystemExit(INTERRUPTED) from None


def working_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets them as ``working``."""

    @click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        help="Simulations at once.  [default: one a core]",
    )
    @click.option(
        "--backend",
        default="local",
        metavar="NAME",
        help="Who simulates: local (processes of this machine) or ray.  [default: local]",
    )
    @click.option(
        "--address", metavar="ADDRESS", help="A Ray cluster's; without it one is started here."
    )
    @click.option(
        "--store",
        default=str(ROOT),
        metavar="DIR",
        help="Where simulations are kept; the same command then goes on where it was interrupted."
        f"  [default: {ROOT}]",
    )
    @click.option("--no-store", is_flag=True, help="Keep no simulations.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        workers: int | None,
        backend: str,
        address: str | None,
        store: str,
        no_store: bool,
        **kwargs: Any,
    ) -> Any:
        from simulator.planner.jobs.backends import check_backend

        check_backend(backend, address)
        working = Working(backend, workers, address, None if no_store else store)
        return command(*args, working=working, **kwargs)

    return wrapped


class WorkBar(Bar):
    """Of many simulations: what they are for, how many were kept from before, how fast they are
    done, and how long those take that are known to be left."""

    def __init__(self) -> None:
        super().__init__("simulations", remaining=False)
        self._stage = "Simulating"

    def stage(self, text: str) -> None:
        """What is being done."""
        self._stage = text.capitalize()

    def __call__(self, standing: Standing) -> None:
        """How far it is."""
        words = []
        if standing.from_store:
            words.append(f"{standing.from_store:,} kept")
        if standing.per_s is not None and standing.left_s is not None:
            words += [f"{standing.per_s:,.1f}/s", f"{timedelta(seconds=round(standing.left_s))}"]
        self.show(self._stage, standing.done, standing.total, " · ".join(words))


def tell_dry_run(found: dict[str, Any], *, as_json: bool) -> None:
    """How large the work is, on stdout."""
    if as_json:
        echo_json(found)
        return
    from simulator.planner.report.terminal import render_dry_run

    render_dry_run(found, console())
