"""What plans and sweeps leave on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Report = dict[str, Any]


def write_plan(report: Report, folder: Path) -> list[Path]:
    """Writes ``plan.json``, ``deployments.csv`` and ``.parquet``, and the winner's scenario.

    Args:
        folder: must exist; each file is written under a temporary name first.

    Returns:
        The paths, in the order of writing.
    """
    files = [_text(folder / "plan.json", _json(report))]
    files += _tables(deployments(report), folder, "deployments")
    if report["winner"] is not None:
        files.append(_text(folder / "winner.yaml", report["winner"]["scenario"]))
    return files


def write_sweep(report: Report, folder: Path) -> list[Path]:
    """Writes ``sweep.json``, ``points.csv`` and ``.parquet``; see ``write_plan``."""
    return [_text(folder / "sweep.json", _json(report)), *_tables(points(report), folder, "points")]


def deployments(report: Report) -> pd.DataFrame:
    """One row a simulated deployment: its axes, verdict and figures."""
    import pandas as pd

    return pd.DataFrame(
        {
            "deployment": trial["label"],
            **{f"axis.{name}": text for name, text in trial["axes"].items()},
            "replicas": ":".join(map(str, trial["replicas"])),
            "devices": trial["devices"],
            "usd_per_hour": trial["usd_per_hour"],
            "state": trial["state"],
            "objective": trial["objective"],
            "misses": (trial["worst"] or {}).get("limit"),
            "excess": (trial["worst"] or {}).get("excess"),
            **trial["figures"],
        }
        for trial in report["trials"]
    )


def points(report: Report) -> pd.DataFrame:
    """One row a point of a sweep: its values, figures and fronts."""
    import pandas as pd

    return pd.DataFrame(
        {
            **{f"axis.{axis}": _plain(row["values"].get(axis)) for axis in report["axes"]},
            "problem": row["problem"],
            "holds": row["holds"],
            **row["figures"],
            **{f"front.{name}": on for name, on in row["fronts"].items()},
        }
        for row in report["rows"]
    )


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _tables(frame: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    return [
        _written(folder / f"{name}.csv", lambda path: frame.to_csv(path, index=False)),
        _written(folder / f"{name}.parquet", lambda path: frame.to_parquet(path, index=False)),
    ]


def _json(report: Report) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)


def _text(path: Path, text: str) -> Path:
    return _written(path, lambda other: other.write_text(text, encoding="utf-8"))


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes under another name, so that a file is whole or not there."""
    other = path.with_name(f".{path.name}.part")
    write(other)
    other.replace(path)
    return path
