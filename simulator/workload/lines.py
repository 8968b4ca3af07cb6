"""Reads a text file, gzipped or not, in blocks of lines, within bounds and with line numbers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from simulator.errors import TraceError

MAX_BYTES = 2_000_000_000
MAX_LINE = 1 << 20
_READ = 1 << 20
_PACKED = {b"PAR1": "Parquet", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "ZIP"}
"""What is often taken for a trace, by its first bytes."""


class LineBlock(NamedTuple):
    """Consecutive lines that are not blank, and their numbers in the file (from 1)."""

    lines: Sequence[str]
    numbers: Sequence[int]


def read_blocks(path: Path, shown: str) -> Iterator[LineBlock]:
    """Blocks of about a megabyte; ``shown`` is what messages call the file.

    Raises:
        TraceError: the file cannot be opened or unpacked, is not UTF-8, has more than
            ``MAX_BYTES`` unpacked bytes or a line of more than ``MAX_LINE``.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            zipped = start.startswith(b"\x1f\x8b")
            packed = next((kind for magic, kind in _PACKED.items() if start == magic), None)
            if packed is not None:
                raise TraceError(
                    f"is a file of {packed}",
                    where=shown,
                    hint="traces are CSV or JSON lines, as they are or gzipped",
                )
            if zipped:
                with gzip.open(raw) as unzipped:
                    yield from _blocks(cast(BinaryIO, unzipped), shown)
            else:
                yield from _blocks(raw, shown)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(
            f"the gzip data is damaged: {error}", where=shown, hint="fetch the file again"
        ) from error
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror or error}", where=shown) from error


def _blocks(source: BinaryIO, shown: str) -> Iterator[LineBlock]:
    carry, line, size = b"", 1, 0
    while chunk := source.read(_READ):
        size += len(chunk)
        if size > MAX_BYTES:
            raise TraceError(
                f"the file is larger than {MAX_BYTES / 1e9:g} GB unpacked",
                where=shown,
                hint="cut out the part to replay",
            )
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            carry += chunk
            _check_length(len(carry), line, shown)
            continue
        text, carry = carry + whole, rest
        if not text.strip():  # a gigabyte of line ends packs into a file of a megabyte
            line += text.count(b"\n") + 1
            continue
        block = _decoded(text, line, shown)
        line += len(block)
        yield _without_blanks(block, line - len(block), shown)
    if carry:
        yield _without_blanks(_decoded(carry, line, shown), line, shown)


def _decoded(data: bytes, first_line: int, shown: str) -> list[str]:
    if first_line == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise TraceError(
            f"byte 0x{data[error.start]:02x} is not valid UTF-8",
            where=f"{shown}:{line}",
            hint="save the trace as UTF-8 text",
        ) from error
    return text.replace("\r\n", "\n").removesuffix("\r").split("\n")


def _without_blanks(lines: list[str], first_line: int, shown: str) -> LineBlock:
    longest = max(lines, key=len)
    if len(longest) > MAX_LINE:
        _check_length(len(longest), first_line + lines.index(longest), shown)
    numbers = range(first_line, first_line + len(lines))
    if any(not text or text.isspace() for text in lines):
        kept = [number for number in numbers if lines[number - first_line].strip()]
        return LineBlock([lines[number - first_line] for number in kept], kept)
    return LineBlock(lines, numbers)


def _check_length(length: int, line: int, shown: str) -> None:
    if length > MAX_LINE:
        raise TraceError(
            f"the line is longer than {MAX_LINE:,} bytes",
            where=f"{shown}:{line}",
            hint="a trace has one request a line",
        )
