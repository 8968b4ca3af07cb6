"""The result of a run: a summary, tables, files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.deployment import ResolvedDeployment
from simulator.errors import UserError
from simulator.results.answers import times_of
from simulator.results.fleet import Member
from simulator.results.integrity import check_integrity
from simulator.results.latency import RequestTimes
from simulator.results.metrics import SCHEMA_VERSION, counted_gaps, summarize
from simulator.results.quantiles import GapDistribution
from simulator.results.record import Accountant, RunRecord
from simulator.results.window import Window, window_of

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from simulator.results.history import History


class Result:
    """Everything that is known after a run; figures are computed when they are first asked for.

    Args:
        deployment: what was simulated.
        record: what the clock left behind.
        accountant: prices its steps.
        members: the pools, in the order of the record's groups; None: the deployment is the only
            one. Where there are several, ``deployment`` has the run's own scenario and is otherwise
            the first pool's.
        uncertainty: works out the section of the summary of that name; None: there is none.
    """

    def __init__(
        self,
        deployment: ResolvedDeployment,
        record: RunRecord,
        accountant: Accountant,
        uncertainty: Callable[[], dict[str, Any] | None] | None = None,
        members: Sequence[Member] | None = None,
    ) -> None:
        self.deployment = deployment
        self.record = record
        self.accountant = accountant
        self.members = members or (Member(deployment, accountant),)
        self._uncertainty = uncertainty

    def __repr__(self) -> str:
        requests, name = len(self.record.outcome), self.deployment.scenario.name
        return f"<Result of {name}: {requests:,} requests, {self.record.end_s:,.1f} s>"

    @cached_property
    def window(self) -> Window:
        """Which part of the run counts."""
        return window_of(self.record, self.deployment.scenario.measurement)

    @cached_property
    def times(self) -> RequestTimes:
        """Latencies of each request, ms."""
        return times_of(self.record)

    @cached_property
    def gaps(self) -> GapDistribution:
        """Inter-token gaps that count, seconds."""
        return counted_gaps(self.record, self.window)

    @cached_property
    def _bare(self) -> dict[str, Any]:
        return self._summarized(None)

    @cached_property
    def _summary(self) -> dict[str, Any]:
        return self._summarized(self._uncertainty()) if self._uncertainty else self._bare

    def _summarized(self, uncertainty: dict[str, Any] | None) -> dict[str, Any]:
        return summarize(
            self.deployment, self.record, self.members, self.window, self.times, self.gaps,
            uncertainty,
        )  # fmt: skip

    def summary(self, *, intervals: bool = True) -> dict[str, Any]:
        """All metrics, nested, JSON-able, units in the keys, null for what is undefined; what each
        key means stands in ``simulator.results.definitions``.

        Args:
            intervals: False leaves ``uncertainty`` null, which saves two runs where nobody asked
                for it yet.
        """
        return copy.deepcopy(self._summary if intervals else self._bare)

    def distributions(self) -> dict[str, Any]:
        """Cumulative distributions of ``ttft``, ``tpot``, ``itl`` and ``e2e``, as the HTML report
        draws them: ``traces`` with ``x`` in ms and ``y`` in % of requests (``itl``: of gaps), each
        of a class (``name``; empty where there is one), 300 points at most; ``marks`` at the SLO's
        limits with ``x`` and ``label``; the axis ``x``, which may be logarithmic."""
        from simulator.results.figures import distributions

        return distributions(self)

    def over_time(self) -> dict[str, Any]:
        """What went on over the simulated seconds, as the HTML report draws it: ``load`` (requests
        running and waiting, a replica), ``kv`` (% of the blocks), ``tokens`` (1/s) and ``requests``
        (1/s), each with ``traces`` of 400 points at most, and the counted ``window``; ``replicas``
        where they come and go. Traces with a ``role`` are the ``lower`` and ``upper`` edge over
        replicas."""
        from simulator.results.figures import over_time

        return over_time(self)

    def report(self) -> str:
        """The HTML report, as ``save`` writes it."""
        from simulator.results.html import report

        return report(self)

    @property
    def requests(self) -> pd.DataFrame:
        """One row a request; times in seconds from the start, latencies in ms, NaN: undefined."""
        import pandas as pd

        from simulator.results.tables import request_columns

        return pd.DataFrame(request_columns(self))

    @property
    def timeline(self) -> pd.DataFrame:
        """One row a stretch of equal steps on a replica, in the order of their starts there."""
        import pandas as pd

        from simulator.results.tables import timeline_columns

        return pd.DataFrame(timeline_columns(self))

    def history(self, bins: int = 240) -> History:
        """The run over time in so many intervals of equal length: traffic, replicas, SLO, cost and
        power; see ``History``."""
        from simulator.results.history import history

        return history(self, bins)

    def openmetrics(
        self,
        step_s: float = 15.0,
        start: float | datetime | None = None,
        model_names: Mapping[str, str] | None = None,
    ) -> Iterator[str]:
        """What a live server with the same traffic would have told Prometheus, under the same
        names, as text in the OpenMetrics format with timestamps, for ``promtool tsdb
        create-blocks-from openmetrics``.

        Args:
            step_s: simulated seconds between two times; the end of the run is the last one.
            start: when the run began, as Unix time or as a date (UTC unless it says otherwise);
                default: so that it ends now.
            model_names: the label ``model_name`` by pool; default: the names of the models.

        Returns:
            Pieces of the text.

        Raises:
            UserError: the step is not positive or so small that there would be too much text.
        """
        from simulator.monitoring.export import openmetrics

        return openmetrics(self, step_s, start, model_names)

    def check_integrity(self) -> None:
        """Raises a ValueError if the run breaks a conservation law."""
        check_integrity(self.record)

    def save(self, directory: Path | str, formats: Sequence[str] | None = None) -> list[Path]:
        """Writes files, each under a temporary name first, so that none is ever half there.

        Args:
            directory: made if it is missing; files of the same names are replaced.
            formats: see ``FORMATS``; default: ``DEFAULT_FORMATS``.

        Returns:
            The paths, in the order of writing.

        Raises:
            UserError: no such format.
        """
        from simulator.results.files import write_files

        return write_files(self, Path(directory), formats)

    @staticmethod
    def load(directory: Path | str) -> SavedResult:
        """The summary of a run that was saved, for comparison.

        Args:
            directory: where ``save`` wrote, or a summary file itself.

        Raises:
            UserError: there is none, or another version of the program wrote it.
        """
        path = Path(directory)
        if path.is_dir():
            path /= "summary.json"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                "there is no summary.json", where=str(directory),
                hint="give a folder that `simulate run` wrote",
            ) from None  # fmt: skip
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
        except ValueError:
            raise UserError("is not a JSON document", where=str(path)) from None
        version = summary.get("schema_version") if isinstance(summary, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f"holds a summary of version {version}, this program reads {SCHEMA_VERSION}"
                if version is not None else "is not the summary of a run",
                where=str(path), hint="simulate the scenario again",
            )  # fmt: skip
        return SavedResult(summary, path)


class SavedResult:
    """The summary of a run from a file."""

    def __init__(self, summary: dict[str, Any], path: Path) -> None:
        self.path = path
        self._summary = summary

    def summary(self) -> dict[str, Any]:
        """What the run's ``Result.summary()`` was."""
        return copy.deepcopy(self._summary)
