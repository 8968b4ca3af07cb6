"""Where a run's files go. Nothing is ever overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.errors import UserError

ROOT = Path("servecast-results")


def check_free(out: str | None) -> None:
    """Refuse, before anything is simulated, a folder that holds something or cannot be made."""
    path = Path(out) if out is not None else ROOT
    try:
        if out is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                "already exists and is left as it is", where=out, hint="choose another --out"
            )
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(
                f"the folder cannot be made in {above}",
                where=str(path),
                hint="choose another --out",
            )
    except OSError as error:
        raise UserError(f"cannot be used: {error.strerror}", where=str(path)) from None


def make(out: str | None, name: str) -> Path:
    """The folder ``out``, or a new numbered one for the scenario ``name``."""
    try:
        if out is not None:
            path = Path(out)
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):  # another run has written here meanwhile
                raise UserError("holds files by now", where=out, hint="choose another --out")
            return path
        return _numbered(_slug(name))
    except OSError as error:
        where = out or str(ROOT)
        raise UserError(
            f"the folder cannot be made: {error.strerror}", where=where, hint="choose another --out"
        ) from None


def written(
    write: Callable[[dict[str, Any], Path], list[Path]], report: dict[str, Any], path: Path
) -> list[Path]:
    """The files that ``write`` makes of a report in the folder ``path``."""
    try:
        return write(report, path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None


def _numbered(slug: str) -> Path:
    ROOT.mkdir(exist_ok=True)
    number = 1 + max((_number(entry.name, slug) for entry in ROOT.iterdir()), default=0)
    while True:
        path = ROOT / f"{slug}-{number}"
        try:
            path.mkdir()
            return path
        except FileExistsError:  # another run took the number just now
            number += 1


def _number(entry: str, slug: str) -> int:
    match = re.fullmatch(re.escape(slug) + r"-(\d{1,9})", entry)
    return int(match[1]) if match else 0


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "scenario"
