"""Measured points that come with the product."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from calibration.validate.measured import read_dataset
from simulator.cli.folder import ROOT

_FOLDER = Path(__file__).parent.parent / "datasets"

SAMPLES = {
    "served_points_sample": "served points, from NVIDIA AIConfigurator 0.12.0",
    "offline_throughput_sample": "offline throughput, from TensorRT-LLM's performance overview",
}
"""Name of each, and what it holds."""


def sample_file(name: str) -> Path:
    """The CSV file of one of ``SAMPLES``."""
    return _FOLDER / f"{name}.csv"


_EXAMPLE = (
    "id", "model", "system", "engine", "version", "precision", "tp", "isl", "osl", "concurrency",
)  # fmt: skip
_FIGURES = ("ttft_ms", "tpot_ms")
_ROWS = 8


def example_csv() -> str:
    """A small file of measured servers of one engine, as one's own may look: rows of the shipped
    sample, those with the least work first."""
    dataset = read_dataset(sample_file("served_points_sample"))
    points = [p for p in dataset.points if p.engine == "vllm" and not p.spread and p.concurrency]
    points.sort(key=lambda p: ((p.concurrency or 0) * (p.isl + p.osl), p.id))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_EXAMPLE, *_FIGURES))
    for point in points[:_ROWS]:
        cells = [getattr(point, name) for name in _EXAMPLE]
        figures = [getattr(point.measured, name)["mean"] for name in _FIGURES]
        writer.writerow("" if c is None else f"{c:g}" if isinstance(c, float) else c
                        for c in (*cells, *(round(f, 2) for f in figures)))  # fmt: skip
    return text.getvalue()


def usual_folder(name: str) -> Path:
    """Where predictions for a dataset are kept unless another folder is named."""
    return ROOT / f"validate-{name}"
