"""What all HTML reports share: how they look, and how data gets into them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def style() -> str:
    """The style sheet: light, dark and paper, wide and narrow."""
    return files("simulator.results").joinpath("page.css").read_text(encoding="utf-8")


def in_script(data: Any) -> str:
    """JSON to stand inside a ``script`` element.

    Raises:
        ValueError: a number is not finite.
    """
    # "</" would end the script, "<!--" would begin a comment; in JSON strings both may be escaped.
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")
