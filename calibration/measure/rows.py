"""Raw measurements: one row each, kept in Parquet with the machine they were taken on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from simulator.costs.protocol import Chunk
from simulator.errors import UserError

FILE = "measurements.parquet"
_MACHINE = b"machine"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    ``what``: ``ceiling`` (``amount`` bytes or FLOPs of the number format ``activations``),
    ``operator`` (one kernel of what the cost model calls ``name``, in a step of ``model``) or
    ``step`` (a whole step of a burst of requests).

    The step: ``decode`` sequences with ``context`` tokens in all (``local_context`` within the
    model's window), prompt chunks as ``new@past``, ``sampled`` rows of logits. ``rows``: how many
    rows the operator worked on. ``seconds``: the median of ``rounds``, of a ceiling the
    least; ``spread``: between the quarters of the rounds, over their median. ``host_s``: until the
    step was planned and enqueued. ``idle``: nothing ran before it.
    """

    what: str
    name: str
    seconds: float
    rounds: int
    spread: float = 1.0
    model: str = ""
    weights: str = ""
    activations: str = ""
    kv_cache: str = ""
    rows: int = 0
    decode: int = 0
    context: int = 0
    local_context: int = 0
    chunks: str = ""
    sampled: int = 0
    amount: float = 0.0
    host_s: float = 0.0
    idle: bool = False

    @property
    def prompt_chunks(self) -> list[Chunk]:
        """The chunks as the cost model takes them."""
        return [Chunk(*(int(part) for part in text.split("@"))) for text in self.chunks.split()]


def chunks_text(chunks: Iterable[tuple[int, int]]) -> str:
    """Chunks as a row keeps them."""
    return " ".join(f"{new}@{past}" for new, past in chunks)


def save_rows(folder: Path, rows: Iterable[Row], machine: Mapping[str, Any]) -> Path:
    """Writes all rows, under a temporary name first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([asdict(row) for row in rows])
    table = table.replace_schema_metadata({_MACHINE: json.dumps(dict(machine)).encode()})
    path = folder / FILE
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
    return path


def load_rows(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """All rows and the machine they were taken on.

    Raises:
        UserError: there are none, or the file is not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE if folder.is_dir() else folder
    try:
        table = pq.read_table(path)
        machine = json.loads((table.schema.metadata or {})[_MACHINE])
        names = [f.name for f in fields(Row)]
        rows = [Row(**row) for row in table.select(names).to_pylist()]
    except FileNotFoundError:
        raise UserError(
            f"there is no {FILE}", where=str(folder), hint="`simulate calibrate` makes one"
        ) from None
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"holds no measurements of ours: {reason}", where=str(path)) from None
    return rows, machine
