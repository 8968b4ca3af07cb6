"""Reading kernel tables: ``<gpu>/<op>/<framework>/<version>/<table>_perf.parquet``, Apache-2.0, as
NVIDIA AIConfigurator ships them. Latencies are in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.fit.solve import Floats
from simulator.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Device:
    """Where a device's tables are and what its peaks are (TFLOP/s, bytes/s, bytes);
    ``network``: a device's rate to other nodes, bytes/s."""

    folder: Path
    peaks: dict[str, float]
    bandwidth: float
    link: float
    cache: float
    network: float | None = None

    @classmethod
    def of(cls, folder: Path, profile: dict[str, Any]) -> Device:
        """From the figures of a hardware profile."""
        memory, network = profile["memory"], profile["node"].get("network_gb_per_s_per_device")
        return cls(
            folder=folder,
            peaks={key: figure["value"] for key, figure in profile["peak_tflops"].items()},
            bandwidth=memory["bandwidth_gb_per_s"]["value"] * 1e9,
            link=profile["link"]["gb_per_s_per_direction"]["value"] * 1e9,
            cache=memory["cache_mb"]["value"] * 1e6,
            network=network and network["value"] * 1e9,
        )

    def peak(self, key: str) -> float:
        """FLOP/s in the type that products of this key are computed in."""
        return self.peaks[key.removeprefix("block-").split("-")[0]] * 1e12


BASE = "vllm"
"""The framework whose tables the coefficients of every engine start from."""


@dataclass
class Tables:
    """Finds the newest table of a kind, by default of one framework, and remembers which files
    were read."""

    device: Device
    framework: str = BASE
    read: list[Path] = field(default_factory=list)

    def get(
        self,
        op: str,
        name: str,
        columns: Sequence[str],
        framework: str | None = None,
        *,
        latency: bool = True,
    ) -> pd.DataFrame | None:
        """The newest table, or None where the device has none. ``latency``: whether it has a column
        of that name; rows without any are left out.

        Raises:
            UserError: the file is no Parquet table or lacks a column.
        """
        import pandas as pd

        paths = sorted(
            self.device.folder.glob(f"{op}/{framework or self.framework}/*/{name}_perf.parquet"),
            key=lambda path: [(len(part), part) for part in path.parts[-2].split(".")],
        )
        if not paths:
            return None
        path = paths[-1]
        if path not in self.read:
            self.read.append(path)
        try:
            rows = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise UserError(f"is no Parquet table: {error}", where=str(path)) from None
        needed = (*columns, "latency") if latency else tuple(columns)
        missing = [column for column in needed if column not in rows]
        if missing:
            raise UserError(
                f"lacks the column '{missing[0]}'",
                where=str(path),
                hint=f"a table of this kind has {', '.join(needed)}",
            )
        if not latency:
            return rows
        rows = rows[(rows.latency > 0) & rows.latency.notna()]
        return rows if "window_size" in rows else rows.assign(window_size=0)

    @property
    def base(self) -> bool:
        """Whether these are the tables that all engines start from."""
        return self.framework == BASE

    @property
    def sha256(self) -> str:
        """Of all files read, in the order of their paths."""
        data = hashlib.sha256()
        for path in sorted(self.read):
            data.update(path.read_bytes())
        return data.hexdigest()

    @property
    def versions(self) -> list[str]:
        """Engines and versions whose kernels were read."""
        return sorted({" ".join(path.parts[-3:-1]) for path in self.read})


def columns(rows: pd.DataFrame, *names: str) -> list[Floats]:
    """Columns as numbers."""
    return [rows[name].to_numpy(float) for name in names]


def measured(rows: pd.DataFrame) -> Floats:
    """Latencies in seconds."""
    seconds: Floats = rows.latency.to_numpy(float) / 1e3
    return seconds


def groups(rows: pd.DataFrame, *names: str) -> tuple[str, ...]:
    """Names of the rows' shapes."""
    return tuple(" ".join(map(str, key)) for key in rows[list(names)].to_numpy().tolist())
