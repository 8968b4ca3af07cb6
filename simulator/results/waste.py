"""Where contiguous KV memory goes: what was reserved and never used, and holes that fit nobody."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from simulator.results.window import Window


class KvWaste:
    """One row a row of the step table of replicas with contiguous runs."""

    def __init__(self) -> None:
        self._rows = array("d")

    def note(self, start_s: float, end_s: float, never_used: int, unfit: int) -> None:
        """Token slots of one replica from ``start_s`` to ``end_s``.

        Args:
            never_used: in runs, and no token will ever be there.
            unfit: free, while a request waits that no hole is large enough for.
        """
        self._rows.extend((start_s, end_s, never_used, unfit))

    def forget(self) -> None:
        """Drops all rows."""
        self._rows = array("d")

    def within(self, window: Window) -> tuple[float, float]:
        """Both, integrated over the window: slot-seconds."""
        rows = np.frombuffer(self._rows, dtype=np.float64).reshape(-1, 4)
        start, end, never_used, unfit = rows.T
        inside = np.minimum(end, window.end_s) - np.maximum(start, window.start_s)
        inside = np.maximum(inside, 0.0)
        return float((never_used * inside).sum()), float((unfit * inside).sum())


_SHARES = ("stored_share", "reserved_share", "internal_fragmentation", "external_fragmentation")


def waste_section(
    waste: KvWaste | None, window: Window, slots_s: float, allocated_s: float, stored_s: float
) -> dict[str, Any]:
    """Keys of the section ``kv_cache``, null where KV memory is paged: shares of all slots, over
    time.

    Args:
        waste: of the run.
        window: what counts.
        slots_s, allocated_s, stored_s: slot-seconds in all, in runs, and with a token in them.
    """
    if waste is None:
        return dict.fromkeys(_SHARES)
    never_used_s, unfit_s = waste.within(window)
    parts = (stored_s, allocated_s - stored_s - never_used_s, never_used_s, unfit_s)
    return {
        name: part / slots_s if slots_s > 0 else None
        for name, part in zip(_SHARES, parts, strict=True)
    }
