"""Paths that users write: what is no path is told, or is simply not there."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str) -> Path:
    """A path with ``~`` replaced by a home; where nobody has that home, as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; what is too long or otherwise no path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
