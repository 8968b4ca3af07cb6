"""Steps that have ended and are not yet added up."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import numpy as np

from simulator.monitoring.meters import Work, price
from simulator.monitoring.tally import Tally
from simulator.results.record import Gaps, StepTable

_Table = TypeVar("_Table", StepTable, Gaps)


class PendingSteps:
    """Notes rows of steps until much has come together: adding up takes as long for one row as for
    hundreds, and from a server at a high speed they come often.

    Args:
        tally, work: what they are added to.
        most: rows that are kept.
    """

    def __init__(self, tally: Tally, work: Work, most: int) -> None:
        self._tally = tally
        self._work = work
        self._most = most
        self._rows = 0
        self._steps: list[StepTable] = []
        self._gaps: list[Gaps] = []

    def note(self, steps: StepTable, gaps: Gaps) -> None:
        """Steps have ended; see ``LiveDeployment.on_steps``."""
        self._steps.append(steps)
        self._gaps.append(gaps)
        self._rows += len(steps) + len(gaps.count)
        if self._rows > self._most:
            self.add_up()

    def add_up(self) -> None:
        """Adds what was noted."""
        if not self._steps:
            return
        steps, gaps = _joined(StepTable, self._steps), _joined(Gaps, self._gaps)
        self._steps, self._gaps, self._rows = [], [], 0
        self._tally.steps(steps, gaps)
        # Lanes that step together have to be priced together.
        steps = steps.select(np.argsort(steps.start_s, kind="stable"))
        cells = np.zeros(len(steps), dtype=np.int64)
        self._work.add(price(self._work.fleet, steps, cells, 1)[:, :, 0])


def _joined(kind: type[_Table], tables: list[_Table]) -> _Table:
    names = [field.name for field in fields(kind)]
    columns = {name: np.concatenate([getattr(t, name) for t in tables]) for name in names}
    return kind(**columns)
