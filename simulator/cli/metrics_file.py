"""``run --openmetrics``: the run's metrics in a file for Prometheus."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.results import Result


def check(file: str | None, step_s: float | None, start: str | None) -> datetime | float | None:
    """When the metrics begin; None: nothing was said.

    Raises:
        UserError: the file cannot be written, or there is none for the other options.
    """
    if file is None:
        if step_s is not None or start is not None:
            option = "--metrics-step" if step_s is not None else "--metrics-start"
            raise UserError("there is no file for the metrics", where=option,
                            hint="add --openmetrics FILE")  # fmt: skip
        return None
    if step_s is not None and not 0.001 <= step_s < inf:
        raise UserError("must be a millisecond or more", where=f"--metrics-step {step_s:g}")
    path = Path(file)
    if path.is_dir():
        raise UserError("is a folder, not a file", where=f"--openmetrics {file}")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", where=f"--openmetrics {file}")
    return None if start is None else _moment(start)


def _moment(text: str) -> datetime | float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            "is neither a date nor Unix time", where=f"--metrics-start {text}",
            hint="write 2026-11-22T08:00:00Z, or seconds since 1970",
        ) from None  # fmt: skip
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def write(result: Result, file: str, step_s: float, start: datetime | float | None) -> Path:
    """Writes the file, first under a temporary name, so that it is never half there.

    Raises:
        UserError: it cannot be written, or there would be too much of it.
    """
    path = Path(file)
    pieces = result.openmetrics(step_s, start)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as out:
            out.writelines(pieces)
        os.replace(unfinished, path)
        return path
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=file) from None
    finally:
        unfinished.unlink(missing_ok=True)
