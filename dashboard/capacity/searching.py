"""The search as background work."""

from __future__ import annotations

import atexit
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import simulator
from dashboard.background import Report, Work

NAME = "plan.yaml"
"""What errors and commands call the plan."""

MOST_KEPT_BYTES = 256 << 20
"""Of simulations; with more, a new store is begun."""

Answer = dict[str, Any]
"""What ``simulator.plan`` or ``simulator.describe_plan`` gives."""


class Kept:
    """A folder for the simulations of this server's searches, which goes with the server. A search
    that was cancelled, or asks something similar, takes them from there.

    Searches of all users run one after the other, so that only one at a time writes.
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Takes it all away."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def folder(self) -> Path:
        """Where to keep them."""
        if self._folder is not None and self._size() > MOST_KEPT_BYTES:
            self.close()
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="servecast-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def _size(self) -> int:
        assert self._folder is not None
        return sum(file.stat().st_size for file in Path(self._folder.name).iterdir())


KEPT = Kept()
atexit.register(KEPT.close)


Within = tuple[Path, ...]
"""Files and folders that a plan may name; see ``simulator.parse_plan``."""


def key_of(text: str) -> str:
    """Equal for equal plans, and for no others."""
    return sha256(text.encode()).hexdigest()[:32]


def describing(text: str, within: Within = ()) -> Work[Answer]:
    """How large the search is: bounds, and a sample that is timed."""

    def work(report: Report[Answer]) -> Answer:
        report.stage("how large the search is")

        def told(_: str, standing: Any) -> None:
            report.progress(standing.done, standing.total)

        plan = simulator.parse_plan(text, NAME, within=within)
        return simulator.describe_plan(plan, told=told)

    return work


def searching(text: str, within: Within = ()) -> Work[Answer]:
    """Searches with a process on every core, which end as soon as nobody waits for it."""

    def work(report: Report[Answer]) -> Answer:
        def told(stage: str, standing: Any) -> None:
            report.stage(_words(stage, standing))
            report.progress(standing.done, standing.total)

        plan = simulator.parse_plan(text, NAME, within=within)
        return simulator.plan(plan, store=KEPT.folder(), told=told)

    return work


def _words(stage: str, standing: Any) -> str:
    """``searching · 12 of 20 simulations known so far, 4 kept from before · 3.4/s · 0:00:02 left``;
    ``bounds`` are of kinds of deployment."""
    if stage == "bounds" or not standing.total:
        return stage
    kept = f", {standing.from_store:,} kept from before" if standing.from_store else ""
    words = [stage, f"{standing.done:,} of {standing.total:,} simulations known so far{kept}"]
    if standing.per_s is not None and standing.left_s is not None:
        left = timedelta(seconds=round(standing.left_s))
        words += [f"{standing.per_s:,.1f}/s", f"{left} left"]
    return " · ".join(words)
