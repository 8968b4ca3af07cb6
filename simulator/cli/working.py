"""Options of the commands that ask for many simulations: who does them, and where they are kept."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from simulator.cli.folder import ROOT
from simulator.cli.output import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from simulator.planner.work import Standing, Told, Work


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
        from simulator.planner.backends.local import cores

        return self.workers or cores()

    @contextmanager
    def open(self, told: Told | None = None) -> Iterator[Work]:
        """The workplace; its workers and its store are let go at the end."""
        from simulator.planner.backends import make_backend
        from simulator.planner.store import Store
        from simulator.planner.work import Work

        backend = make_backend(self.backend, self.workers, self.address)
        try:
            store = Store(self.store)
        except BaseException:
            backend.close()
            raise
        with Work(backend, store, told) as work:
            yield work


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
        from simulator.planner.backends import check_backend

        check_backend(backend, address)
        working = Working(backend, workers, address, None if no_store else store)
        return command(*args, working=working, **kwargs)

    return wrapped


class WorkBar:
    """A line on stderr, on a terminal only: what is being done, how fast, how long it may take."""

    PATIENCE_S = 1.0

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = "Simulating"
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, text: str) -> None:
        """What is being done."""
        self._stage = text.capitalize()

    def __call__(self, standing: Standing) -> None:
        """How far it is."""
        if not self._wanted or time.monotonic() - self._began < self.PATIENCE_S:
            return
        if self._bar is None or self._task is None:
            self._bar, self._task = _start_bar(standing.total)
        kept = f"{standing.from_store:,} kept · " if standing.from_store else ""
        rate = f"{standing.per_s:,.1f}/s" if standing.per_s else ""
        self._bar.update(
            self._task, completed=standing.done, total=standing.total,
            description=self._stage, rate=f"{kept}{rate}",
        )  # fmt: skip


def _start_bar(total: int) -> tuple[Progress, TaskID]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("simulations · {task.fields[rate]} ·"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=total, rate="")
    bar.start()
    return bar, task
