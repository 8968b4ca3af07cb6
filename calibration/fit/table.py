"""The tables of docs/calibration.md, from shipped profiles: ``python -m calibration.fit.table``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from calibration.fit.engines import CONSTANTS, engines
from calibration.fit.profile import ENGINES
from simulator.engines import load_engine
from simulator.engines.profile import ServedFit
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
    order = (
        "matmul", "grouped", "prefill", "decode", "recurrent", "collective", "all_gather",
        "exchange",
    )  # fmt: skip
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


def served_table() -> str:
    """Constants of the engines that are fitted to servers, by range of releases, and median errors
    of the rows fitted / held out."""
    head = ["engine", "releases", *(c.name for c in CONSTANTS), "rows", "TTFT", "TPOT"]
    lines = [f"| {' | '.join(head)} |", "|---|---" + "|---:" * (len(head) - 2) + "|"]
    for plan in engines().engines:
        profile = load_engine(plan.engine)
        since = ""
        for entry in profile.overheads:
            ends = (("from", since), ("before", entry.before))
            ranges = " ".join(f"{word} {release}" for word, release in ends if release)
            since = entry.before or since
            cells = [f"{getattr(getattr(entry, c.part), c.name):.3g}" for c in CONSTANTS]
            lines.append(f"| {profile.title} | {ranges or 'all'} | {' | '.join(cells)} | "
                         f"{_errors(entry.fit)} |")  # fmt: skip
    return "\n".join(lines)


def _errors(fit: ServedFit | None) -> str:
    if fit is None:
        return "– | – | –"
    cells = [str(fit.rows)]
    for metric in ("ttft_ms", "tpot_ms"):
        held = fit.held_out_median_pct.get(metric)
        own = fit.fitted_median_pct.get(metric)
        cells.append("–" if own is None else f"{own:.1f} / {held:.1f}" if held else f"{own:.1f}")
    return " | ".join(cells)


if __name__ == "__main__":
    kernels = [table(engine) for engine in ("", *ENGINES)]
    sys.stdout.write("\n\n".join([*kernels, served_table()]) + "\n")
