"""What a run gave: metrics, tables, files, reports."""

from __future__ import annotations

from simulator.results.comparison import Line, Row, compare, compare_all
from simulator.results.definitions import DEFINITIONS, Definition
from simulator.results.files import DEFAULT_FORMATS, FORMATS
from simulator.results.integrity import check_integrity
from simulator.results.record import RunRecord
from simulator.results.result import Result, SavedResult

__all__ = [
    "DEFAULT_FORMATS",
    "DEFINITIONS",
    "FORMATS",
    "Definition",
    "Line",
    "Result",
    "Row",
    "RunRecord",
    "SavedResult",
    "check_integrity",
    "compare",
    "compare_all",
]
