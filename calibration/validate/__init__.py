"""Measured points rerun as simulations, and how far the two lie apart (``simulate validate``)."""

from __future__ import annotations

from calibration.validate.columns import COLUMNS
from calibration.validate.measured import Dataset, Skipped, read_dataset, unread
from calibration.validate.metrics import (
    DIMENSIONS,
    METRICS,
    TITLES,
    UNITS,
    Comparison,
    Errors,
    by,
    coverage_pct,
    document,
    errors,
    measured,
    repeated,
)
from calibration.validate.point import Point
from calibration.validate.prediction import dominant
from calibration.validate.runner import Validation, validate
from calibration.validate.samples import SAMPLES, example_csv, sample_file, usual_folder
from calibration.validate.tables import csv_text, describe, reasons

__all__ = [
    "COLUMNS",
    "DIMENSIONS",
    "METRICS",
    "SAMPLES",
    "TITLES",
    "UNITS",
    "Comparison",
    "Dataset",
    "Errors",
    "Point",
    "Skipped",
    "Validation",
    "by",
    "coverage_pct",
    "csv_text",
    "describe",
    "document",
    "dominant",
    "errors",
    "example_csv",
    "measured",
    "read_dataset",
    "reasons",
    "repeated",
    "sample_file",
    "unread",
    "usual_folder",
    "validate",
]
