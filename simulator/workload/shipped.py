"""The traces and tables that come with the package, and how a name turns into a file."""

from __future__ import annotations

from pathlib import Path

from simulator.errors import TraceError, UnknownNameError
from simulator.paths import expanded

_DATA = Path(__file__).parent / "data"

SHIPPED: dict[str, str] = {
    "azure-llm-2023-code": "azure-llm-2023-code.csv.gz",
    "azure-llm-2023-conv": "azure-llm-2023-conv.csv.gz",
    "mooncake-conversation": "mooncake-conversation.jsonl.gz",
    "sharegpt-lengths": "sharegpt-lengths.csv.gz",
}
"""Name to file in ``data/``, whose README.md holds sources, licences and what was changed."""

TABLES: dict[str, str] = {
    "model-studio-week": "model-studio-week.csv",
    "model-studio-week-lengths": "model-studio-week-lengths.csv",
}
"""The same for tables of rates and of lengths over time."""


def find_trace(name: str, base: Path | None = None) -> Path:
    """The file behind a shipped trace's name or a path relative to ``base``.

    A shipped name wins over a file of the same name; ``./name`` means the file.

    Raises:
        UnknownNameError: neither a shipped trace nor a file.
        TraceError: the path is a folder.
    """
    return _find(name, base, SHIPPED, "trace")


def find_table(name: str, base: Path | None = None) -> Path:
    """As ``find_trace``, for a table of rates or of lengths over time."""
    return _find(name, base, TABLES, "table")


def _find(name: str, base: Path | None, known: dict[str, str], what: str) -> Path:
    if name in known:
        return _DATA / known[name]
    path = expanded(name)
    if not path.is_absolute() and base is not None:
        path = base / path
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise TraceError(f"{name} is a folder", hint=f"give one {what} file")
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise TraceError(f"{name!r} cannot be looked up: {error}") from error
    import difflib

    near = difflib.get_close_matches(name, _names_nearby(path, known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    shipped = f"shipped {what}s are {', '.join(sorted(known))}"
    raise UnknownNameError(
        f"there is no {what} '{name}'", hint=f"{hint} {shipped}" if hint else shipped
    )


def _names_nearby(path: Path, known: dict[str, str]) -> list[str]:
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except OSError:
        beside = []
    return [*known, *beside[:1000]]
