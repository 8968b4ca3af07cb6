"""Files of a run: summary, tables, trace, report."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UserError
from simulator.results.tables import Columns, replicas_columns, request_columns, timeline_columns

if TYPE_CHECKING:
    from simulator.results.result import Result


def write_files(
    result: Result, directory: Path, formats: Sequence[str] | None = None
) -> list[Path]:
    """Writes the files of the given formats; see ``Result.save``."""
    wanted = list(dict.fromkeys(DEFAULT_FORMATS if formats is None else formats))
    for name in wanted:
        if name not in _FILES:
            raise UserError(f"there is no format '{name}'", hint=f"one of {', '.join(FORMATS)}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in wanted:
        for file, write in _FILES[name]:
            if file.startswith("replicas.") and result.record.lives is None:
                continue
            _replace(directory / file, result, write)
            paths.append(directory / file)
    return paths


def _replace(path: Path, result: Result, write: Callable[[Result, Path], None]) -> None:
    """Writes beside ``path`` and renames; leaves nothing behind if that fails."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(result, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _summary(result: Result, path: Path) -> None:
    text = json.dumps(result.summary(), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _parquet(columns: Callable[[Result], Columns]) -> Callable[[Result, Path], None]:
    def write(result: Result, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({k: pa.array(v, from_pandas=True) for k, v in columns(result).items()})
        pq.write_table(table, path, compression="zstd")

    return write


def _csv(columns: Callable[[Result], Columns]) -> Callable[[Result, Path], None]:
    def write(result: Result, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import csv

        table = pa.table({k: pa.array(v, from_pandas=True) for k, v in columns(result).items()})
        csv.write_csv(table, path, csv.WriteOptions(quoting_style="needed"))

    return write


def _trace(result: Result, path: Path) -> None:
    from simulator.results.perfetto import trace

    text = json.dumps(trace(result), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # No time stamp inside, so that the same run gives the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 5, raw, mtime=0) as file:
        file.write(text.encode())


def _report(result: Result, path: Path) -> None:
    from simulator.results.html import report

    path.write_text(report(result), encoding="utf-8")


_FILES: dict[str, list[tuple[str, Callable[[Result, Path], None]]]] = {
    "json": [("summary.json", _summary)],
    "parquet": [
        ("requests.parquet", _parquet(request_columns)),
        ("timeline.parquet", _parquet(timeline_columns)),
        ("replicas.parquet", _parquet(replicas_columns)),
    ],
    "csv": [
        ("requests.csv", _csv(request_columns)),
        ("timeline.csv", _csv(timeline_columns)),
        ("replicas.csv", _csv(replicas_columns)),
    ],
    "trace": [("trace.json.gz", _trace)],
    "report": [("report.html", _report)],
}

FORMATS = tuple(_FILES)
"""``json``: summary.json; ``parquet``, ``csv``: requests and timeline as tables, and
replicas where they come and go; ``trace``: steps
and requests for Perfetto or chrome://tracing; ``report``: report.html."""

DEFAULT_FORMATS = ("json", "parquet", "trace", "report")
"""What ``save`` writes unless told otherwise."""
