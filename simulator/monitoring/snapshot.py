"""All values of all metrics at one moment, and the series that they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from simulator.monitoring.exposition import head, printable, sample_format
from simulator.monitoring.families import FAMILIES, OUTCOMES, REASONS, SOURCES, Family
from simulator.monitoring.fleet import Fleet
from simulator.monitoring.meters import STATE_NAMES, Presence, Work
from simulator.monitoring.tally import Histogram, Tally, bounds_of
from simulator.workload.requests import Floats, Ints

Snapshot = dict[str, Floats]
"""Values by name of the metric. Shape (series, width): one value, or of a histogram its cumulative
counts, the number of values and their sum. NaN: the series is not there."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Replicas at one moment; shapes (engines,).

    Args:
        running, waiting: requests.
        kv_share: of the KV blocks, in use.
    """

    running: Ints
    waiting: Ints
    kv_share: Floats


def take(
    tally: Tally,
    presence: Presence,
    work: Work,
    gauges: Gauges,
    now_s: float,
    energy_j: Floats,
    power_w: Floats,
) -> Snapshot:
    """All metrics that the simulation itself knows.

    Args:
        energy_j, power_w: of each pool until now, and now. Shapes (pools,).
    """
    held_s, held, seen = presence.held_s(now_s), presence.held, presence.seen
    there = presence.there
    values: Snapshot = {
        "vllm:num_requests_running": _only(gauges.running, there),
        "vllm:num_requests_waiting": _only(gauges.waiting, there),
        "vllm:kv_cache_usage_perc": _only(gauges.kv_share, there),
        "vllm:cache_config_info": _only(np.ones(len(seen)), there),
        "servecast:replica_info": _only(np.ones(len(seen)), there),
    }
    for name, counter in tally.counters.items():
        values[f"vllm:{name}"] = _only(counter, seen)
    for name, histogram in tally.histograms.items():
        values[f"vllm:{name}"] = np.where(seen[:, None], filled(histogram), np.nan)
    flops, hbm = work.peaks(held)
    pools = {
        "energy_joules": energy_j,
        "power_watts": power_w,
        "cost_usd": work.usd(held_s),
        "devices": work.devices(held),
        "busy_seconds": work.busy_s,
        "model_flops": work.model_flops,
        "hbm_bytes": work.hbm_bytes,
        "peak_flops": flops,
        "peak_hbm_bytes_per_second": hbm,
        "replicas": presence.counts().reshape(-1),
        "requests": tally.outcomes,
        "simulated_seconds": np.array([now_s]),
    }
    for name, each in pools.items():
        if each is not None:
            values[f"servecast:{name}"] = np.array(each, dtype=np.float64)[:, None]
    return values


def filled(histogram: Histogram) -> Floats:
    """Cumulative counts, the number of values, and their sum. Shape (engines, buckets + 3)."""
    upto = np.cumsum(histogram.counts, axis=1)
    return np.column_stack((upto, upto[:, -1], histogram.sums))


def _only(values: npt.NDArray[np.generic], there: npt.NDArray[np.bool_]) -> Floats:
    """The values of the engines that are there, each by each. Shape (series, 1)."""
    table = values.reshape(len(there), -1).astype(np.float64)
    table[~there] = np.nan
    return table.reshape(-1, 1)


@dataclass(slots=True)
class Catalogue:
    """The series of a deployment: labels of each row of a snapshot's tables.

    Args:
        fleet: the replicas.
        codes: HTTP statuses that have been sent, in the order of their rows.
    """

    fleet: Fleet
    codes: list[int] = field(default_factory=list)
    _lines: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def text(self, values: Snapshot, *, openmetrics: bool) -> str:
        """The values as they are now, without timestamps."""
        parts = []
        for name, family in FAMILIES.items():
            table = values.get(name)
            if table is None or not self.has(name):
                continue
            present = ~np.isnan(table[:, 0])
            lines = self._format(family, present)
            if lines:
                parts.append(head(family, openmetrics=openmetrics))
                rows = printable(family, table[present])
                parts.append(lines % tuple(chain.from_iterable(rows)))
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts)

    def has(self, name: str) -> bool:
        """Whether the deployment has what a metric tells of."""
        if name.startswith("vllm:spec_decode"):
            return any(m.deployment.limits.speculation for m in self.fleet.members)
        return True

    def _format(self, family: Family, present: npt.NDArray[np.bool_]) -> str:
        key = present.tobytes()
        before, lines = self._lines.get(family.name, (b"", ""))
        if key != before or not lines:
            formats = self.formats(family)
            lines = "".join(formats[row] for row in np.flatnonzero(present).tolist())
            self._lines[family.name] = key, lines
        return lines

    def formats(self, family: Family) -> list[str]:
        """What prints each series of a metric, see ``sample_format``."""
        bounds = bounds_of(family, self.fleet) if family.kind == "histogram" else ()
        return [sample_format(family, labels, bounds) for labels in self.series(family)]

    def series(self, family: Family) -> list[dict[str, str]]:
        """The labels of a metric's series, in the order of the rows of its table."""
        if "engine" in family.labels:
            more = "source" if "source" in family.labels else "finished_reason"
            each = {"source": SOURCES, "finished_reason": REASONS}[more]
            if more not in family.labels:
                each = ("",)
            return [
                {
                    label: value
                    for label, value in (self._of(engine) | {more: last}).items()
                    if label in family.labels
                }
                for engine in range(self.fleet.engines)
                for last in each
            ]
        pools = [group.name for group in self.fleet.groups]
        if "state" in family.labels:
            return [{"pool": pool, "state": state} for pool in pools for state in STATE_NAMES]
        if "pool" in family.labels:
            return [{"pool": pool} for pool in pools]
        if "outcome" in family.labels:
            return [{"outcome": outcome} for outcome in OUTCOMES]
        if "code" in family.labels:
            return [{"code": str(code)} for code in self.codes]
        return [{}]

    def _of(self, engine: int) -> dict[str, str]:
        pool = self.fleet.pool_of[engine]
        group, limits = self.fleet.groups[pool], self.fleet.members[pool].deployment.limits
        return {
            "engine": str(engine),
            "model_name": self.fleet.model_of(engine),
            "pool": group.name,
            "role": group.role,
            "block_size": str(group.block_size),
            "num_gpu_blocks": str(group.kv_blocks),
            "enable_prefix_caching": str(limits.prefix_caching),
        }
