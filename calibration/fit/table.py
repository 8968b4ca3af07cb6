"""The table of docs/calibration.md, from shipped profiles: ``python -m calibration.fit.table``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from calibration.fit.profile import ENGINES
from simulator.hardware import load_hardware
from simulator.hardware.efficiency import Provenance

DEVICES = ("h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "l40s")


def table(engine: str = "") -> str:
    """Median errors in percent, of the rows fitted / of shapes held out, by family and device: of
    the base, or of an engine's own kernels."""
    told = dict(_told(engine))
    families: list[str] = []
    for provenance in told.values():
        families += [f for f in provenance.residual_median_pct if f not in families]
    order = ("matmul", "grouped", "prefill", "decode", "collective", "all_gather")
    families.sort(key=lambda family: [family.startswith(word) for word in order].index(True))
    lines = [f"| family | {' | '.join(told)} |", "|---" * (len(told) + 1) + "|"]
    for family in families:
        cells = [
            f"{p.residual_median_pct[family]:.1f} / {p.held_out_median_pct[family]:.1f}"
            if family in p.residual_median_pct
            else "–"
            for p in told.values()
        ]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(engine: str) -> Iterator[tuple[str, Provenance]]:
    for name in DEVICES:
        efficiency = load_hardware(name).efficiency
        if not engine:
            yield name, efficiency.provenance
        elif engine in efficiency.engines:
            yield name, efficiency.engines[engine].provenance


if __name__ == "__main__":
    sys.stdout.write("\n\n".join(table(engine) for engine in ("", *ENGINES)) + "\n")
