"""JSON files, and files of one JSON document a line, with bounds."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.measured.node import Node

MAX_BYTES = 256_000_000
"""Of a file, unpacked: a million streamed events take 20 MB, and memory four times the file."""

EXPECTED = (
    "expected the JSON of `vllm bench serve --save-result`, of guidellm (benchmarks.json), of "
    "inference-perf (*_lifecycle_metrics.json) or of AIPerf (profile_export*)"
)


def beside(file: Path, name: str) -> Node | None:
    """A JSON file in the folder of another one; None where there is none."""
    path = file.parent / name
    return read_documents(path)[0] if path.is_file() else None


def read_documents(file: Path) -> list[Node]:
    """The JSON documents of a file, compressed with gzip or not: one, or one a line.

    Raises:
        UserError: it cannot be read, is too large, or is no JSON.
    """
    return _documents(_text(file), str(file))


def _text(file: Path) -> str:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError("is not a whole gzip file", where=str(file)) from None
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot be read: {text}", where=str(file)) from None
    if len(data) > MAX_BYTES:
        raise UserError(f"is larger than {MAX_BYTES / 1e6:g} MB", where=str(file),
                        hint="measure a shorter run, or save it without details")  # fmt: skip
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text: byte {error.start:,}", where=str(file)) from None


def _documents(text: str, file: str) -> list[Node]:
    """One JSON document, or one a line."""
    if not text.strip():
        raise UserError("is empty", where=file)
    try:
        return [Node(_parsed(text, file), file)]
    except UserError:
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or not _alone(lines[0][1]):
            raise
    return [Node(_parsed(line, f"{file}:{i}"), f"{file}:{i}") for i, line in lines]


def _alone(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"is not JSON: {error.msg} ({place})", where=where, hint=EXPECTED) from None
    except RecursionError:
        raise UserError("is nested too deeply", where=where, hint=EXPECTED) from None
    except ValueError:  # an integer of thousands of digits
        raise UserError("holds a number that is too long", where=where) from None
