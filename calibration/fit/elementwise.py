"""Norms, rotations and activations from operator profiles of microsoft/vidur (MIT).

``compute/<gpu>/<organization>/<model>/mlp.csv`` holds medians of single kernels in milliseconds, in
steps of 1 µs. What a kernel moves follows from the model's widths: a norm and a rotation read and
write what they work on, a gated activation reads two rows and writes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.fit.solve import Floats, Sample, solve
from simulator.errors import UserError
from simulator.hardware.forms import ElementwiseEfficiency
from simulator.yamlio import load_yaml

if TYPE_CHECKING:
    import pandas as pd

SOURCES = {
    "a100-sxm-80gb": ("a100", "a100-sxm-80gb"),
    "h100-sxm": ("h100", "h100-sxm"),
    "h200-sxm": ("h100", "h100-sxm"),
    "b200-sxm": ("h100", "h100-sxm"),
    "l40s": ("a40", "a40"),
}
"""Whose profiles a device takes: its own or the nearest's, as (folder, hardware profile)."""

COLUMNS = {
    "norm": ("input_layernorm", "post_attention_layernorm"),
    "rotation": ("attn_rope",),
    "activation": ("mlp_act",),
}
WIDTHS = (
    "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp", "num_tokens",
    "num_tensor_parallel_workers",
)  # fmt: skip
HALF = 2
"""Bytes of an activation."""


def fit_elementwise(operators: Path, name: str, profiles: Path) -> tuple[dict[str, Any], str]:
    """Coefficients by kind, and a sentence on where they come from.

    Raises:
        UserError: profiles or columns are missing.
    """
    folder, measured_on = SOURCES[name]
    files = sorted((operators / "compute" / folder).glob("*/*/mlp.csv"))
    if not files:
        raise UserError(
            "no operator profiles",
            where=str(operators / "compute" / folder),
            hint="expected <organization>/<model>/mlp.csv",
        )
    data, _ = load_yaml(profiles / f"{measured_on}.yaml")
    bandwidth = data["memory"]["bandwidth_gb_per_s"]["value"] * 1e9
    kinds: dict[str, Any] = {}
    rows, medians = 0, []
    for sample in _samples(files, bandwidth):
        found = solve(sample)
        kinds[sample.key] = found.coefficients
        rows += len(sample.measured)
        medians.append(f"{sample.key} {100 * found.held_out:.1f}%")
    sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    told = (
        f"{rows:,} rows of {folder} in microsoft/vidur's profiles (MIT), sha256 {sha256[:16]}; "
        f"median errors {', '.join(medians)}"
    )
    return kinds, told


def _samples(files: list[Path], bandwidth: float) -> Iterator[Sample]:
    import pandas as pd

    tables = []
    for path in files:
        table = pd.read_csv(path).assign(model=path.parts[-2])
        missing = [column for column in WIDTHS if column not in table]
        if missing:
            raise UserError(f"lacks the column '{missing[0]}'", where=str(path))
        tables.append(table)
    everything = pd.concat(tables)
    for kind, operators in COLUMNS.items():
        moved, measured, groups = [], [], []
        for operator in operators:
            column = f"time_stats.{operator}.median"
            d = everything[everything[column] > 0]
            moved.append(_bytes(kind, d))
            measured.append(d[column].to_numpy(float) / 1e3)
            groups += d.model.tolist()
        yield Sample(
            "elementwise", kind, ElementwiseEfficiency, {"bandwidth": 0.6, "overhead_us": 2.5},
            (np.concatenate(moved), bandwidth), np.concatenate(measured), groups=tuple(groups),
        )  # fmt: skip


def _bytes(kind: str, d: pd.DataFrame) -> Floats:
    tokens, hidden = d.num_tokens.to_numpy(float), d.n_embd.to_numpy(float)
    share = d.num_tensor_parallel_workers.to_numpy(float)
    if kind == "norm":
        width = 2 * hidden
    elif kind == "rotation":
        heads = (d.n_head + d.n_kv_head).to_numpy(float) / share
        width = 2 * heads * hidden / d.n_head.to_numpy(float)
    else:
        rows = np.where(d.use_gated_mlp.to_numpy(bool), 3.0, 2.0)
        width = rows * d.n_expanded_embd.to_numpy(float) / share
    moved: Floats = tokens * width * HALF
    return moved
