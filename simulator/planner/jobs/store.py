"""Outcomes on disk: written as they come, found again after the process was killed."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from simulator.errors import UserError
from simulator.planner.jobs.tasks import Outcome, Task

FILE = "outcomes.sqlite"
"""Name of the file in a store's folder."""

SCHEMA_VERSION = 1
"""Of the table; a new one whenever a column changes its meaning."""

_APPLICATION = 0x53657276
"""Marks the file as one of ours, in SQLite's own field for that."""

_WAIT_S = 60.0
"""How long a process waits for another one that writes."""

_TABLE = """
CREATE TABLE IF NOT EXISTS outcomes (
    key TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    summary BLOB NOT NULL,
    problem TEXT NOT NULL,
    hopeless TEXT NOT NULL,
    wall_s REAL NOT NULL,
    ended TEXT NOT NULL
)"""


class Store:
    """A row for each task that was done, in a SQLite file that several processes may use at once.

    Every outcome is a transaction of its own in a write-ahead log: once ``put`` has returned, it is
    there, whatever becomes of the process.

    Args:
        folder: where the file is or shall be; None: in memory, until the store is closed.

    Raises:
        UserError: the file is not such a store, was written by another version of the program, or
            cannot be written.
    """

    def __init__(self, folder: Path | str | None) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the folder cannot be made: {error.strerror}", where=str(folder)
            ) from None
        with self._told():
            self._db = sqlite3.connect(
                self.path or ":memory:", timeout=_WAIT_S, isolation_level=None
            )
        try:
            with self._told():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._told():
            return int(self._db.execute("SELECT count(*) FROM outcomes").fetchone()[0])

    def get(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes of those tasks that were done, by their keys."""
        found: dict[str, Outcome] = {}
        with self._told():
            for start in range(0, len(keys), 500):  # SQLite takes 999 values at least
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, summary, problem, hopeless, wall_s in self._db.execute(
                    "SELECT key, summary, problem, hopeless, wall_s FROM outcomes "
                    f"WHERE key IN ({marks})",
                    part,
                ):
                    document = json.loads(zlib.decompress(summary))
                    found[key] = Outcome(key, document, problem, hopeless, wall_s=wall_s)
        return found

    def put(self, task: Task, outcome: Outcome) -> None:
        """Keeps an outcome; if another process was first, its own stays."""
        summary = zlib.compress(json.dumps(outcome.summary, allow_nan=False).encode(), 1)
        with self._told():
            self._db.execute(
                "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    outcome.key, json.dumps(task.document), summary, outcome.problem,
                    outcome.hopeless, outcome.wall_s,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                ),
            )  # fmt: skip

    def close(self) -> None:
        """Lets the file go."""
        self._db.close()

    def _open(self) -> None:
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables:
            self._check()
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._transaction():
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._check()

    def _check(self) -> None:
        mark, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if mark != _APPLICATION:
            raise self._error("is a database of another program")
        if version != SCHEMA_VERSION:
            raise self._error(
                f"holds outcomes of version {version}, this program keeps {SCHEMA_VERSION}"
            )
        # Survives the end of the process; only the machine's own end may cost the last outcomes.
        self._db.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of SQLite as sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:  # full, read-only, locked, not to be opened
            raise self._error(f"cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise self._error(f"is no store of outcomes ({error})") from None

    def _error(self, what: str) -> UserError:
        return UserError(what, where=str(self.path), hint="give another folder")
