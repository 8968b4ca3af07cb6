"""What plans and sweeps leave on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.planner.report.plan_page import plan_page
from simulator.planner.report.sweep_page import sweep_page
from simulator.yamlio import parse_yaml

if TYPE_CHECKING:
    import pandas as pd

Report = dict[str, Any]


def write_plan(report: Report, folder: Path) -> list[Path]:
    """Writes ``plan.html``, ``plan.json``, ``deployments.csv`` and ``.parquet``; of the winner its
    scenario ``winner.yaml``, and in ``deploy/`` what starts it.

    Args:
        folder: must exist; each file is written under a temporary name first.

    Returns:
        The paths, in the order of writing.
    """
    files = [
        _text(folder / "plan.html", plan_page(report)),
        _text(folder / "plan.json", _json(report)),
    ]
    files += _tables(deployments(report), folder, "deployments")
    if report["winner"] is not None:
        files.append(_text(folder / "winner.yaml", report["winner"]["scenario"]))
        files += _deployment(report["winner"]["scenario"], folder / "deploy")
    return files


def _deployment(scenario: str, folder: Path) -> list[Path]:
    """What starts a deployment, or, where that is not known, why."""
    from simulator.errors import UserError
    from simulator.launch import launch_files
    from simulator.scenario.load import load_with_places

    data, _ = parse_yaml(scenario, folder)
    try:
        found = launch_files(load_with_places(data)[0])
    except UserError as error:
        found = {"not-written.txt": f"No files start this deployment: {error.what}.\n"}
    folder.mkdir(exist_ok=True)
    return [_text(folder / name, text) for name, text in found.items()]


def write_sweep(report: Report, folder: Path) -> list[Path]:
    """Writes ``sweep.html``, ``sweep.json``, ``points.csv`` and ``points.parquet``."""
    return [
        _text(folder / "sweep.html", sweep_page(report)),
        _text(folder / "sweep.json", _json(report)),
        *_tables(points(report), folder, "points"),
    ]


def deployments(report: Report) -> pd.DataFrame:
    """One row a simulated deployment: its axes, verdict and figures.

    The figures are those of the run that decided, with the traffic grown and replicas missing as
    the plan asks; then those of cost, which would be of fewer replicas, are left out. A run that
    was ended early has none.
    """
    import pandas as pd

    asked = report["asked"]
    stressed = bool(asked["headroom"] or asked["spare_replicas"])
    return pd.DataFrame(
        {
            "deployment": trial["label"],
            **{f"axis.{name}": text for name, text in trial["axes"].items()},
            "replicas": ":".join(map(str, trial["replicas"])),
            "devices": trial["devices"],
            "usd_per_hour": trial["usd_per_hour"],
            "state": trial["state"],
            "objective": trial["objective"],
            "tightest": (trial["worst"] or {}).get("limit"),
            "excess": (trial["worst"] or {}).get("excess"),
            "problem": trial["problem"] or None,
            "ended_early": trial["ended_early"] or None,
            **{
                path: None if trial["ended_early"] else value
                for path, value in trial["figures"].items()
                if not (stressed and path.startswith("cost."))
            },
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
