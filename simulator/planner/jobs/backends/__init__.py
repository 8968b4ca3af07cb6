"""Who does the simulations: processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from simulator.errors import UnknownNameError, UserError
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.sentences import closest

__all__ = ["NAMES", "Backend", "check_backend", "make_backend"]

NAMES = ("local", "ray")


class Backend(Protocol):
    """Does tasks, in any order, each in a process where numeric libraries have one thread."""

    @property
    def workers(self) -> int:
        """How many tasks are done at once."""
        ...

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Outcomes as they come. A worker that dies is replaced and its task done again; where that
        helps not, the outcome is ``lost``. Closing the generator ends what is under way."""
        ...

    def close(self) -> None:
        """Lets the workers go."""
        ...


def check_backend(name: str, address: str | None = None) -> None:
    """Raises a UserError where there is no backend of that name, or it has no addresses."""
    if name not in NAMES:
        near = closest(name, NAMES)
        raise UnknownNameError(
            f"there is no backend '{name}'",
            where="--backend",
            hint=f"did you mean '{near}'?" if near else f"known are {' and '.join(NAMES)}",
        )
    if address is not None and name != "ray":
        raise UserError("--address belongs to --backend ray")


def make_backend(name: str, workers: int | None = None, address: str | None = None) -> Backend:
    """The backend of that name, ready to work.

    Args:
        name: one of ``NAMES``.
        workers: how many tasks are done at once; default: one a core.
        address: of a Ray cluster; default: this machine.

    Raises:
        UserError: there is no such backend, it is not installed, or it has no addresses.
    """
    check_backend(name, address)
    if name == "ray":
        from simulator.planner.jobs.backends.ray import RayBackend

        return RayBackend(address, workers)
    from simulator.planner.jobs.backends.local import LocalBackend

    return LocalBackend(workers)
