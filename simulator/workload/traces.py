"""Recorded traffic: reads a trace, cuts a slice out of it, and replays it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from simulator.errors import TraceError
from simulator.scenario.workload import TraceSlice, TraceWorkload
from simulator.workload.formats import (
    HASH_BLOCK,
    Layout,
    choose_layout,
    is_json,
    parse_object,
    split_row,
    split_rows,
)
from simulator.workload.lines import LineBlock, read_blocks
from simulator.workload.prefixes import hashed_blocks
from simulator.workload.randomness import spawn_generators
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats, Ints, PrefixStreams, Requests
from simulator.workload.rows import Fields, RowCollector
from simulator.workload.sampling import computed_samples, shaped, spread
from simulator.workload.shipped import find_trace

_WHOLE = TraceSlice()


@dataclass(frozen=True, slots=True)
class Trace:
    """The rows of a trace, or of a slice of it, ``n`` of them.

    Args:
        name: what the user called it.
        format: the format it was read as.
        arrival_s: (n,) seconds since the first row of the file, ascending; None where the file
            has lengths only.
        input_tokens: (n,), at least 1.
        output_tokens: (n,), at least 1.
        session: (n,) number of the conversation, -1 for none.
        class_id: (n,) index into ``classes``.
        classes: names of the traffic classes.
        hash_offsets: (n + 1,), request i has ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``.
        hash_ids: ids of the prompts' blocks of 512 tokens; both None where the file names none.
        notes: what was left out or not used.
    """

    name: str
    format: str
    arrival_s: Floats | None
    input_tokens: Ints
    output_tokens: Ints
    session: Ints
    class_id: Ints
    classes: tuple[str, ...]
    hash_offsets: Ints | None = None
    hash_ids: Ints | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.input_tokens)

    def prefixes(self) -> PrefixStreams | None:
        """The text that prompts share, as far as the file tells."""
        if self.hash_offsets is None or self.hash_ids is None:
            return None
        return hashed_blocks(self.hash_offsets, self.hash_ids, self.input_tokens, HASH_BLOCK)


def read_trace(
    name: str,
    format: str = "auto",
    slice: TraceSlice = _WHOLE,
    base: Path | None = None,
) -> Trace:
    """Rows of the trace ``name`` (shipped, or a file relative to ``base``) inside ``slice``.

    Rows must be in order of arrival in every format: nothing is sorted silently. Reading stops
    at the end of the slice; what lies behind it is not checked.

    Raises:
        UnknownNameError: there is no such trace.
        TraceError: the file or one of its rows is malformed, or the slice holds no request.
    """
    blocks = (block for block in read_blocks(find_trace(name, base), name) if block.lines)
    first = next(blocks, None)
    if first is None:
        raise TraceError("the file is empty", where=name, hint="expected one request a line")
    where = f"{name}:{first.numbers[0]}"
    json_lines = is_json(format, first.lines[0])
    if json_lines:
        columns = list(parse_object(first.lines[0], where))
    else:
        columns = [column.strip() for column in split_row(first.lines[0], where)]
        if len(set(columns)) < len(columns):
            raise TraceError("two columns have the same name", where=where)
        first = LineBlock(first.lines[1:], first.numbers[1:])
    layout = choose_layout(format, columns, json_lines, where)
    if layout.time is None and (slice.start_s or slice.duration_s):
        raise TraceError(
            "the file has no arrival times, so it cannot be cut by time",
            where=name,
            hint="cut it by slice.requests",
        )
    rows = RowCollector(layout, slice, name, labelled=layout.label in columns)
    source = chain([first] if first.lines else [], blocks)
    for fields, numbers in (
        _json_rows(source, name) if json_lines else _csv_rows(source, columns, name)
    ):
        if rows.add(fields, numbers):
            break
    if not rows.count:
        raise _nothing_kept(rows, slice, name)
    return _trace(rows, layout, name)


def _csv_rows(
    blocks: Iterable[LineBlock], columns: Sequence[str], name: str
) -> Iterator[tuple[Fields, Sequence[int]]]:
    for lines, numbers in blocks:
        fields = split_rows(lines, numbers, len(columns), name)
        yield dict(zip(columns, fields, strict=True)), numbers


def _json_rows(blocks: Iterable[LineBlock], name: str) -> Iterator[tuple[Fields, Sequence[int]]]:
    for lines, numbers in blocks:
        objects = [
            parse_object(line, f"{name}:{number}")
            for line, number in zip(lines, numbers, strict=True)
        ]
        keys = dict.fromkeys(key for row in objects for key in row)
        yield {key: [row.get(key) for row in objects] for key in keys}, numbers


def _nothing_kept(rows: RowCollector, part: TraceSlice, name: str) -> TraceError:
    if rows.failed:
        return TraceError(
            f"all {rows.failed:,} rows have zero tokens", where=name, hint="none can be replayed"
        )
    if not rows.has("input"):
        return TraceError("the file has no rows", where=name, hint="expected one request a line")
    until = "" if part.duration_s is None else f" and before {part.start_s + part.duration_s:g} s"
    return TraceError(
        f"no request arrives at or after {part.start_s:g} s{until}",
        where=name,
        hint=f"the rows read reach to {rows.extent_s:g} s: move or widen the slice",
    )


def _trace(rows: RowCollector, layout: Layout, name: str) -> Trace:
    notes = []
    if rows.failed:
        what = "rows with zero tokens" if layout.time is None else "failed calls (zero tokens)"
        notes.append(f"{name}: {rows.failed:,} {what} left out")
    if rows.unused:
        notes.append(f"{name}: not used: {', '.join(rows.unused)}")
    offsets = hash_ids = None
    if rows.has("hashes") and (hash_ids := rows.column("hashes")).size:
        offsets = np.concatenate([[0], np.cumsum(rows.column("hash_counts"))]).astype(np.int64)
    return Trace(
        name=name,
        format=layout.format,
        arrival_s=rows.column("seconds") if layout.time is not None else None,
        input_tokens=rows.column("input"),
        output_tokens=rows.column("output"),
        session=rows.column("session"),
        class_id=rows.column("class"),
        classes=tuple(rows.class_ids) or ("default",),
        hash_offsets=offsets,
        hash_ids=hash_ids if offsets is not None else None,
        notes=tuple(notes),
    )


def build_trace(
    workload: TraceWorkload,
    rng: np.random.Generator,
    base: Path | None = None,
    where: str = "workload",
) -> Requests:
    """Requests as recorded: row at time t is sent at (t - slice.start_s) / rate_scale.

    A session column tells routers and reports which requests belong together; the recorded times
    already hold the waiting for earlier answers, so such requests do not wait for each other.

    Raises:
        UnknownNameError, TraceError: see ``read_trace``; also a file without arrival times.
    """
    trace = read_trace(workload.file, workload.format, workload.slice, base)
    if trace.arrival_s is None:
        raise TraceError(
            "the file holds lengths but no arrival times, so it cannot be replayed",
            where=workload.file,
            hint="use it in a synthetic workload as lengths: {kind: from_trace, "
            f"file: {workload.file}}}",
        )
    n = len(trace)
    arrival_s = (trace.arrival_s - workload.slice.start_s) / workload.rate_scale
    if not np.isfinite(arrival_s).all():
        raise TraceError(
            f"rate_scale {workload.rate_scale:g} stretches the trace beyond the range of numbers",
            where=workload.file,
        )
    count = f"{n:,} request{'s' if n != 1 else ''}"
    scaled = f", sent {workload.rate_scale:g}x as fast" if workload.rate_scale != 1 else ""
    requests = Requests(
        arrival_s=arrival_s,
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        class_id=trace.class_id,
        parent=np.full(n, ROOT, dtype=np.int64),
        pool=np.full(n, OPEN_LOOP, dtype=np.int64),
        session=trace.session,
        classes=trace.classes,
        prefixes=trace.prefixes(),
        source=f"trace {workload.file}{_cut(workload.slice)}: {count}{scaled}",
        notes=trace.notes,
    )
    notes: list[str] = []
    natural = np.repeat(trace.output_tokens, computed_samples(workload))
    outputs, answers = shaped(workload, natural, spawn_generators(rng), where, notes)
    requests = replace(requests, notes=(*trace.notes, *notes))
    return spread(requests, workload.samples, outputs, answers, where)


def _cut(part: TraceSlice) -> str:
    """The slice in words, empty for the whole trace."""
    said = []
    if part.start_s or part.duration_s is not None:
        end = "the end" if part.duration_s is None else f"{part.start_s + part.duration_s:g} s"
        said.append(f"{part.start_s:g} s to {end}")
    if part.requests is not None:
        said.append(f"at most {part.requests:,} requests")
    return f" ({', '.join(said)})" if said else ""
