"""What measured kernels take over or under a closed form, on a few knots.

A closed form with a handful of coefficients leaves a residual with structure: tiles that fit a
shape badly, kernels that switch at a size. A ``Grid`` holds by how much the form is to be
multiplied at the knots. Between knots the *logarithm of the factor* is interpolated over the
logarithm of the sizes, never a time; beyond the outermost knots the factor stays what it is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from pydantic import field_validator, model_validator

from simulator.scenario.base import Model, PositiveFloat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


class Grid(Model):
    """Factors on knots.

    ``axes`` names the sizes and their knots, ascending. ``percent`` holds by how many percent the
    measured time exceeds the form's, one number for each combination of knots, the last axis
    fastest; in a file it is text with a line for each knot of the axes before the last.
    """

    axes: dict[str, tuple[PositiveFloat, ...]]
    percent: tuple[float, ...]

    @field_validator("percent", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(word) for word in value.split())
        except ValueError as error:
            raise ValueError(f"percent must be numbers: {error}") from None

    @model_validator(mode="after")
    def _is_a_grid(self) -> Grid:
        size = 1
        for name, knots in self.axes.items():
            if len(knots) < 2 or any(a >= b for a, b in pairwise(knots)):
                raise ValueError(f"axes.{name} needs two or more knots in ascending order")
            size *= len(knots)
        if not self.axes or len(self.percent) != size:
            raise ValueError(
                f"percent needs {size} numbers for these axes, not {len(self.percent)}"
            )
        if any(not -99 < p < 10_000 for p in self.percent):
            raise ValueError("percent must lie between -99 and 10,000")
        return self

    @cached_property
    def logs(self) -> Floats:
        """Logarithms of the factors, one dimension an axis."""
        import numpy as np

        values = np.log1p(np.asarray(self.percent) / 100)
        return values.reshape([len(knots) for knots in self.axes.values()])

    @cached_property
    def _log_knots(self) -> dict[str, Floats]:
        import numpy as np

        return {name: np.log2(np.asarray(knots)) for name, knots in self.axes.items()}

    def log_factor(self, at: Mapping[str, Floats | float]) -> Floats:
        """Logarithm of the factor. ``at`` gives every axis a size or an array of them; arrays
        broadcast."""
        import numpy as np

        table = self.logs
        corners: list[tuple[Floats, Floats]] = []
        for name, knots in self._log_knots.items():
            size = at[name]
            x = np.log2(np.maximum(size, self.axes[name][0]))
            if np.ndim(x) == 0:  # one number for all: this axis goes
                place, share = _between(knots, x)
                axis = len(corners)
                low, high = table.take(place, axis), table.take(place + 1, axis)
                table = (1.0 - share) * low + share * high
            else:
                corners.append((knots, x))
        if not corners:
            return table
        if len(corners) == 1:
            knots, x = corners[0]
            return np.interp(x, knots, table)
        places = [_between(knots, x) for knots, x in corners]
        total: Any = 0.0
        for corner in product((0, 1), repeat=len(places)):
            weight: Any = 1.0
            for up, (_, share) in zip(corner, places, strict=True):
                weight = weight * (share if up else 1.0 - share)
            at_knots = (place + up for up, (place, _) in zip(corner, places, strict=True))
            total = total + weight * table[tuple(at_knots)]
        result: Floats = total
        return result


def _between(knots: Floats, x: Any) -> tuple[Any, Any]:
    """The knot below, and how far on the way to the next one; at the ends no farther."""
    import numpy as np

    # Not np.clip, which takes several times as long on numbers and short arrays.
    place = np.minimum(np.maximum(np.searchsorted(knots, x, side="right") - 1, 0), len(knots) - 2)
    low = knots[place]
    share = (x - low) / (knots[place + 1] - low)
    return place, np.minimum(np.maximum(share, 0.0), 1.0)


class Corrected(Model):
    """A closed form with corrections; their factors multiply."""

    corrections: tuple[Grid, ...] = ()

    def factor(self, **at: Floats | float) -> Floats | float:
        """By what the form is multiplied; the sizes that the grids' axes name, others are free."""
        if not self.corrections:
            return 1.0
        import numpy as np

        result: Floats = np.exp(sum(grid.log_factor(at) for grid in self.corrections))
        return result

    def knots(self, axis: str) -> tuple[float, ...]:
        """All knots of the grids along one axis, ascending."""
        return tuple(sorted({k for grid in self.corrections for k in grid.axes.get(axis, ())}))

    @classmethod
    def check_axes(cls, corrections: Sequence[Grid], known: Sequence[str]) -> None:
        """Raises ValueError for an axis that the form does not know."""
        for grid in corrections:
            for name in grid.axes:
                if name not in known:
                    raise ValueError(f"axes: '{name}' is none of {', '.join(known)}")
