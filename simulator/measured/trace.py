"""A measured run as a trace that a scenario replays."""

from __future__ import annotations

from simulator.errors import UserError
from simulator.measured.runs import MeasuredRun, Records


def trace_text(run: MeasuredRun) -> str:
    """CSV with ``arrival_s,input_tokens,output_tokens`` and, where the client held conversations,
    ``session``: every answered request, as it was sent.

    Raises:
        UserError: the file has no requests, or does not say when they were sent.
    """
    records = replayable(run)
    if records.arrival_s is None:
        raise UserError("does not say when requests were sent", where=run.file,
                        hint="measure again with a newer version of the client")  # fmt: skip
    columns = [
        [f"{at:.6f}" for at in records.arrival_s.tolist()],
        *_lengths(records),
    ]
    header = "arrival_s,input_tokens,output_tokens"
    if (records.session >= 0).any():
        header += ",session"
        columns.append(["" if s < 0 else str(s) for s in records.session.tolist()])
    return _table(header, columns)


def lengths_text(run: MeasuredRun) -> str:
    """CSV with ``input_tokens,output_tokens`` alone.

    Raises:
        UserError: the file has no requests.
    """
    return _table("input_tokens,output_tokens", _lengths(replayable(run)))


def replayable(run: MeasuredRun) -> Records:
    """The requests of a run.

    Raises:
        UserError: the file has none of them.
    """
    if run.records is None:
        why = f": {run.notes[-1]}" if run.notes else ""
        raise UserError(f"has no single requests{why}", where=run.file)
    return run.records


def _lengths(records: Records) -> list[list[str]]:
    return [
        [str(tokens) for tokens in column.tolist()]
        for column in (records.input_tokens, records.output_tokens)
    ]


def _table(header: str, columns: list[list[str]]) -> str:
    return "\n".join([header, *(",".join(row) for row in zip(*columns, strict=True)), ""])
