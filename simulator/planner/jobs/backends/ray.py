"""A Ray cluster: many machines, or this one for a start."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from simulator.errors import UserError
from simulator.planner.jobs.backends.local import ATTEMPTS, cores
from simulator.planner.jobs.backends.process import sendable
from simulator.planner.jobs.doing import THREADS, do_task
from simulator.planner.jobs.origin import program
from simulator.planner.jobs.tasks import Outcome, Task

if TYPE_CHECKING:
    from simulator.planner.constraints import Constraint
    from simulator.scenario import Scenario

_STORE_BYTES = 128 << 20
"""Shared memory of a cluster that is started here; outcomes are small and do not go through it."""

_PATIENCE_S = 10.0


class RayBackend:
    """Does tasks on a Ray cluster, each on one core of it.

    Every machine of the cluster needs this very program and the files that scenarios name, under
    the same paths: each task is checked for it where it is done.

    Args:
        address: of the cluster (``ray://head:10001``, ``10.0.0.1:6379``, or ``auto``); None: the
            environment's ``RAY_ADDRESS``, or a cluster of this machine alone, which ends with the
            backend.
        workers: how many tasks are done at once; default: one a core of the cluster.

    Raises:
        UserError: Ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                f"the backend ray needs Ray ({error})", hint="pip install 'servecast[ray]'"
            ) from None
        self._ray: Any = ray
        self._wanted = workers
        self._started = not ray.is_initialized()
        if self._started:
            self._connect(address or os.environ.get("RAY_ADDRESS"))
        remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, retry_exceptions=False)
        self._simulate: Any = remote(simulate_task)

    def _connect(self, address: str | None) -> None:
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": THREADS},
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if address is None:
            # Ray would tell its makers about this run.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            address = "local"
            settings |= {
                "num_cpus": self._wanted or cores(),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        try:
            if ":" in address:
                _knock(address)
            self._ray.init(address=address, **settings)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"there is no Ray cluster to work on ({_first_sentence(error)})",
                where=f"--address {address}",
                hint="`ray start --head` starts one; if it wants a token, set RAY_AUTH_MODE=token",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many tasks are done at once; the cluster may grow."""
        there = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return there if self._wanted is None else min(self._wanted, there)

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Outcomes as they come; see ``Backend``. Ray itself does tasks again whose workers died.

        Raises:
            UserError: a machine of the cluster has another program or other files.
        """
        waiting = iter(tasks)
        asked: dict[Any, Task] = {}
        try:
            while True:
                # As many again wait at the cluster, so that its workers never wait for this one.
                most = self._wanted or 2 * self.workers
                for task in islice(waiting, max(0, most - len(asked))):
                    ref = self._simulate.remote(
                        task.key, program(), task.scenario, task.intervals, task.limits
                    )
                    asked[ref] = task
                if not asked:
                    return
                ready, _ = self._ray.wait(list(asked), num_returns=1)
                for ref in ready:
                    yield self._outcome(ref, asked.pop(ref))
        finally:
            for ref in asked:
                self._ray.cancel(ref, force=True)

    def _outcome(self, ref: Any, task: Task) -> Outcome:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(ref)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            return Outcome(
                task.key,
                problem=f"{task.scenario.name}: the process that simulated it died, "
                f"{ATTEMPTS} times ({_first_sentence(error)})",
                lost=True,
            )
        except errors.RayError as error:
            raise UserError(
                f"the Ray cluster cannot simulate ({_first_sentence(error)})",
                hint="install servecast on all of its machines, with the same Python",
            ) from error
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Outcome)
        return answer

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        if self._started:
            self._ray.shutdown()
            self._started = False


def simulate_task(
    key: str, its_program: str, scenario: Scenario, intervals: bool, limits: tuple[Constraint, ...]
) -> Outcome | Exception:
    """Does a task somewhere on the cluster; an error is returned, since Ray would wrap it."""
    try:
        _check_program(its_program)
        task = Task(scenario, intervals, limits)
        _check_files(task, key)
        return do_task(task)
    except Exception as error:
        return sendable(error)


def _knock(address: str) -> None:
    """Whether anybody listens there; Ray itself would try for minutes.

    Raises:
        OSError, ValueError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()


def _check_program(its_program: str) -> None:
    if program() != its_program:
        raise UserError(
            f"a machine of the cluster has servecast {program()}, this one {its_program}",
            hint="install the same on all of them",
        )


def _check_files(task: Task, key: str) -> None:
    """Of the same program, only files that differ make another key."""
    if task.key != key:
        raise UserError(
            "a machine of the cluster has other files than this one: "
            f"{', '.join(task.document['files'])}",
            where=task.scenario.name,
            hint="put the same files under the same paths of all of them",
        )


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
