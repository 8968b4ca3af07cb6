"""What an outcome comes from besides the scenario: this program's own files and the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from simulator import __version__
from simulator.scenario.document import FILE_KEYS

_PACKAGES = ("simulator", "hardware_profiles")


@cache
def program() -> str:
    """Version of this program and a digest of its code and data, so that an outcome of other code
    or of another profile is never taken for one of this."""
    digest = hashlib.sha256()
    for name, file in _own_files():
        digest.update(f"{name}\0".encode())
        digest.update(file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _own_files() -> Iterator[tuple[str, Path]]:
    """Every file of the packages, by its name in them, sorted."""
    from importlib.resources import files

    for package in _PACKAGES:
        root = Path(str(files(package)))
        for file in sorted(root.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(root).as_posix()}", file


def files_behind(document: Any) -> dict[str, str]:
    """The user's files that a scenario names by absolute path, each with a digest of what it holds;
    "" where it is not there. Names of shipped models, profiles and traces are no paths."""
    return dict(sorted(_named(document)))


def _named(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in FILE_KEYS and isinstance(item, str) and Path(item).is_absolute():
                yield item, _digest_of(Path(item))
            else:
                yield from _named(item)


def _digest_of(path: Path) -> str:
    if path.is_dir():  # of a model
        path /= "config.json"
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _digest(path: Path, changed_ns: int, size: int) -> str:
    del changed_ns, size  # part of the key, so that an edited file is read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
