"""Rows of routed experts, and what to compute for each.

The coefficients are fitted to rows with balanced routing, which deal the tokens out evenly: T
tokens with k experts each reach min(E, T·k) of E. Rows with skewed routing then give ``tiling``,
one number, and show how well other loads are predicted (simulator.costs.routing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.fit.products import input_bytes, stored_bytes
from calibration.fit.solve import Axes, Fit, Floats, Sample, median_error, quantiles
from calibration.fit.tables import Device, Tables, columns, groups, measured
from simulator.costs import routing
from simulator.hardware.forms import ExpertsEfficiency

if TYPE_CHECKING:
    import pandas as pd

_PER_EXPERT = (0.03, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
EXPERT_GRIDS: tuple[Axes, ...] = (
    {"tokens_per_expert": _PER_EXPERT, "width": (512, 2048)},
    {"tokens_per_expert": _PER_EXPERT, "hidden": (3072,)},
    {"tokens_per_expert": (0.5, 4, 64), "experts": (32, 128)},
)

EXPERT_TYPES = {
    "bf16": "bfloat16", "fp8": "fp8", "block-fp8": "fp8_block", "fp4": "nvfp4",
    "bf16-int4": "int4_wo", "bf16-fp4": "w4a16_mxfp4", "fp8-fp4": "w4a8_mxfp4_mxfp8",
}  # fmt: skip
MXFP = EXPERT_TYPES["fp8-fp4"]
"""Rows of vLLM and TensorRT-LLM go together here: both run TensorRT-LLM's generated kernels, on
shapes of which each has few."""
ODD = "nongated|deepgemm|modeloptfp8moe_flashinfer_cutlass"
"""Kernels left out: experts of two matrices; TensorRT-LLM's DeepGEMM backend on Blackwell, whose
TRTLLM backend, the one for low latency, has the kernels of vLLM's tables; and one of vLLM that was
measured without tuning, at several times the time of 16-bit experts."""
PREFERRED = ("gptoss", "min_latency")
"""Kernels that stand for a format where there are several: what native fp4 models take, and
TensorRT-LLM's TRTLLM backend on Blackwell."""
SHAPE = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")
OTHER = ("moe_dtype", "num_tokens", "moe_ep_size", "distribution", "kernel_source")
FITTED_SKEW, HELD_OUT_SKEW = "power_law_1.01", "power_law_1.2"
UNTUNED = 2.5
STEEPEST = 200
"""Hundredths of the first tile's time up to which ``tiling`` is sought."""


@dataclass(frozen=True)
class Layers:
    """Rows of tables: one layer's experts each."""

    rows: pd.DataFrame
    key: str
    device: Device

    @property
    def tokens(self) -> Floats:
        """Tokens of the step."""
        return self._column("num_tokens")

    @property
    def load(self) -> Floats:
        """Mean tokens of an expert."""
        return self.tokens * self._column("topk") / self._column("num_experts")

    def args(self, load: Floats, reached: Floats) -> tuple[Floats | float, ...]:
        """Arguments of the form for experts that get ``load`` tokens, when this share of them is
        reached; (rows,) or (rows, any)."""
        _, experts, top_k, hidden, width = self._sizes(load)
        moved, flops = routing.work(
            load * experts / top_k, reached * experts, top_k=top_k, hidden=hidden, width=width,
            matrices=3, weight_bytes=stored_bytes(self.key), input_bytes=input_bytes(self.key),
        )  # fmt: skip
        return moved, flops, 0.0, self.device.bandwidth, self.device.peak(self.key)

    def at(self, load: Floats) -> dict[str, Floats]:
        """Sizes that corrections depend on."""
        load, experts, _, hidden, width = self._sizes(load)
        return {"tokens_per_expert": load, "experts": experts, "hidden": hidden, "width": width}

    def dealt(self) -> tuple[Floats, Floats]:
        """Loads of experts and whether they are reached, (rows, points), as the tables deal tokens
        out: popularity spans 1 to 0.8 tokens a step, or 0.01 to 2 where not all experts can be
        reached, and is rounded."""
        tokens, experts, top_k = (self._column(n) for n in ("num_tokens", "num_experts", "topk"))
        skew = np.where(tokens * top_k > experts, np.maximum(0.8 * tokens, 1.0), 200.0)
        load = routing.loads(tokens, experts, top_k, skew)
        return load, np.minimum(load, 1.0)

    def cold(self, reached: Floats) -> Layers:
        """Rows whose weights do not fit the cache: the tables replay one layer."""
        _, experts, _, hidden, width = self._sizes(reached)
        weights = reached * experts * 3 * hidden * width * stored_bytes(self.key)
        return Layers(self.rows[weights > 1.3 * self.device.cache], self.key, self.device)

    def _column(self, name: str) -> Floats:
        return columns(self.rows, name)[0]

    def _sizes(self, load: Floats) -> tuple[Floats, ...]:
        """The load, experts, experts a token, hidden and intermediate width, in one shape."""
        width = self._column("inter_size") / self._column("moe_tp_size")
        sizes = [self._column(n) for n in ("num_experts", "topk", "hidden_size")] + [width]
        column = (-1,) + (1,) * (load.ndim - 1)
        return tuple(np.broadcast_arrays(load, *(size.reshape(column) for size in sizes)))


@dataclass(frozen=True)
class ExpertsSample(Sample):
    """Rows with balanced routing, and those with skewed routing beside them."""

    skewed: tuple[Layers, ...] = ()

    def solve_tiling(self, coefficients: dict[str, Any]) -> Fit:
        """The coefficient for unequal loads from rows of one skew, and errors of these and of the
        rows of the other one."""
        form = ExpertsEfficiency.model_validate(coefficients)
        parts = [_parts(layers, form) for layers in self.skewed]
        tilings = np.arange(STEEPEST + 1) / 100
        mixed, more, target = parts[0]
        errors = [float(np.abs(np.log(mixed * (1 + s * more) / target)).mean()) for s in tilings]
        tiling = float(tilings[int(np.argmin(errors))])
        fitted, held_out = (
            np.log(target / (mixed * (1 + tiling * more))) for mixed, more, target in parts
        )
        return Fit(
            {**coefficients, "tiling": tiling},
            median_error(fitted), median_error(held_out), quantiles(held_out),
        )  # fmt: skip


def _parts(layers: Layers, form: ExpertsEfficiency) -> tuple[Floats, Floats, Floats]:
    """Seconds without further tiles, further tiles over the first, measured seconds."""

    def balanced(load: Floats) -> Floats:
        args = layers.args(load, np.minimum(load, 1.0))
        return form.seconds(*args, form.factor(**layers.at(load)))  # type: ignore[arg-type]

    load, reached = layers.dealt()
    mixed = routing.seconds(balanced, load, reached, 0.0)
    more = routing.seconds(balanced, load, reached, 1.0) / mixed - 1.0
    return mixed, more, measured(layers.rows)


def samples(tables: Tables) -> Iterator[ExpertsSample]:
    """Routed experts of one layer on one expert-parallel rank."""
    import pandas as pd

    rows = tables.get("moe", "moe", (*SHAPE, *OTHER))
    if rows is None:
        return
    if tables.base and "fp4" in tables.device.peaks:
        more = tables.get("moe", "moe", (*SHAPE, *OTHER), "trtllm")
        rows = rows if more is None else pd.concat([rows, more[more.moe_dtype == MXFP]])
    rows = rows[(rows.moe_ep_size == 1) & ~rows.kernel_source.str.contains(ODD)]
    for key, name in EXPERT_TYPES.items():
        d = rows[rows.moe_dtype == name]
        for kernel in PREFERRED:
            chosen = d.kernel_source.str.contains(kernel)
            d = d[chosen] if chosen.any() else d
        if len(d):
            yield _sample(d, key, tables.device)


def _tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Without rows that took ``UNTUNED`` times as long as balanced ones of the same shape: the
    kernel's tuning has missed some shapes under skewed routing."""
    same = [*SHAPE, "num_tokens"]
    even = rows[rows.distribution == "balanced"].groupby(same).latency.median().rename("even")
    return rows[~(rows.latency > UNTUNED * rows.join(even, on=same).even)]


def _sample(rows: pd.DataFrame, key: str, device: Device) -> ExpertsSample:
    layers = {name: Layers(d, key, device) for name, d in _tuned(rows).groupby("distribution")}
    skewed = [layers.get(name) for name in (FITTED_SKEW, HELD_OUT_SKEW)]
    even = layers.get("balanced")
    if even is None:  # the least skewed, as if balanced but for the experts that it reaches
        chosen = layers[FITTED_SKEW]
        chosen = chosen.cold(chosen.dealt()[1].mean(axis=1))
        reached, skewed = chosen.dealt()[1].mean(axis=1), []
    else:
        chosen = even.cold(np.minimum(even.load, 1.0))
        reached = np.minimum(chosen.load, 1.0)
    return ExpertsSample(
        "grouped_matmul", key, ExpertsEfficiency,
        {"compute": 0.5, "bandwidth": 0.7, "overhead_us": 20.0, "sharpness": 1.5},
        chosen.args(chosen.load, reached), measured(chosen.rows), chosen.at(chosen.load),
        EXPERT_GRIDS, groups(chosen.rows, *SHAPE),
        tuple(s.cold(s.dealt()[1].mean(axis=1)) for s in skewed if s) if all(skewed) else (),
    )  # fmt: skip
