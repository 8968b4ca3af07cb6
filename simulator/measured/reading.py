"""Files of load generators: which client wrote one is recognized by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.measured import aiperf, guidellm, inference_perf, vllm
from simulator.measured.files import EXPECTED, read_documents
from simulator.measured.node import Node, printable
from simulator.measured.runs import MeasuredRun
from simulator.paths import expanded

_IN_FOLDERS = (
    "profile_export.jsonl",
    "profile_export_aiperf.json",
    "benchmarks.json",
    "per_request_lifecycle_metrics.json",
    "summary_lifecycle_metrics.json",
)
"""What clients call their results, those with every request first."""

_Reader = Callable[[Path, Sequence[Node]], list[MeasuredRun]]

_READERS: tuple[tuple[Callable[[Any], bool], _Reader], ...] = (
    (aiperf.is_record, aiperf.read_records),
    (aiperf.is_summary, aiperf.read_summary),
    (inference_perf.is_request_list, inference_perf.read_requests),
    (inference_perf.is_summary, inference_perf.read_summary),
    (guidellm.is_report, guidellm.read_report),
    (vllm.is_result, vllm.read_results),
)


def read_measurements(path: str | Path) -> tuple[MeasuredRun, ...]:
    """The runs that a load generator's file holds, in its order.

    Args:
        path: of the file, compressed with gzip or not; or of the folder that a client filled.

    Raises:
        UserError: it cannot be read, no known client wrote it, or something in it is wrong.
    """
    file = _file(expanded(str(path)))
    documents = read_documents(file)
    first = documents[0].value
    for recognizes, read in _READERS:
        if recognizes(first):
            runs = read(file, documents)
            if not runs:
                raise UserError("holds no run", where=str(file))
            return tuple(runs)
    raise UserError(f"is no result of a known client: {_looks(first)}", where=str(file),
                    hint=EXPECTED)  # fmt: skip


def client_of(path: str | Path) -> str | None:
    """Which client wrote a file; None for files of any other kind, whatever is wrong with them."""
    try:
        return read_measurements(path)[0].client
    except UserError:
        return None


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
    if found is None:
        raise UserError(
            "is a folder without a result of a known client", where=str(path),
            hint=f"expected {', '.join(_IN_FOLDERS[:-1])} or {_IN_FOLDERS[-1]} in it",
        )  # fmt: skip
    return found


def _looks(value: Any) -> str:
    if isinstance(value, dict):
        names = ", ".join(f"'{printable(str(key)[:40])}'" for key in list(value)[:6])
        return f"its keys are {names}{' …' if len(value) > 6 else ''}" if names else "it is empty"
    if isinstance(value, list):
        return "it is a list of other things than requests"
    return "it is neither an object nor a list"
