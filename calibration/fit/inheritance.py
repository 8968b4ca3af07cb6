"""Efficiencies of devices that have no kernel tables: from the nearest relative, or a prior."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from simulator.yamlio import load_yaml

AS_OF = date(2026, 11, 21)
BEST_RATES = "best measured matmul rates of stas00/ml-engineering@744d01e1 (2026-08-22)"


@dataclass(frozen=True)
class Heir:
    """Whose coefficients a device takes, and by what its matmul compute share is scaled.

    ``best`` is (TFLOP/s reached in public by the device's best bf16 matmul, the parent's).
    Corrections, which follow a chip's tiles and number of multiprocessors, are kept within an
    architecture only.
    """

    parent: str
    why: str
    best: tuple[float, float] | None = None
    link_from: str | None = None

    @property
    def near(self) -> bool:
        """Whether it is the same chip or architecture."""
        return self.why.startswith("same")

    @property
    def wider(self) -> float:
        """By what the parent's residuals are multiplied: 1.5 for the same chip, 2 within an
        architecture, 3 elsewhere; round figures."""
        if self.why.startswith("same chip"):
            return 1.5
        return 2.0 if self.near else 3.0


AMD = "no public kernel tables; Hopper is the nearest device by bandwidth and generation"
GA10 = "same architecture; GDDR6 memory and PCIe"
INHERITED: dict[str, Heir] = {
    "h100-pcie": Heir("h100-sxm", "same chip at a lower power limit"),
    "h100-nvl": Heir("h100-sxm", "same chip at a lower power limit"),
    "gh200": Heir("h100-sxm", "same chip", (828.6, 794.5)),
    "b300-sxm": Heir("b200-sxm", "same architecture", (1769.0, 1745.0)),
    "gb200": Heir("b200-sxm", "same chip", (1822.0, 1745.0)),
    "gb300": Heir("b200-sxm", "same architecture"),
    "a100-sxm-40gb": Heir("a100-sxm-80gb", "same chip"),
    "a100-pcie-80gb": Heir("a100-sxm-80gb", "same chip", (252.9, 271.2), "l40s"),
    "a40": Heir("a100-sxm-80gb", GA10, None, "l40s"),
    "a10g": Heir("a100-sxm-80gb", GA10, None, "l40s"),
    "rtx-a6000": Heir("a100-sxm-80gb", GA10, None, "l40s"),
    "rtx-3090": Heir("a100-sxm-80gb", GA10, None, "l40s"),
    "jetson-orin-nano-super": Heir("a100-sxm-80gb", "an Ampere GPU on shared LPDDR memory"),
    "t4": Heir("a100-sxm-80gb", "Turing, one generation before", None, "l40s"),
    "l4": Heir("l40s", "same architecture"),
    "rtx-4090": Heir("l40s", "same architecture"),
    "rtx-5090": Heir("l40s", "the architecture after Ada, also GDDR memory and PCIe"),
    "rtx-pro-6000-blackwell": Heir("l40s", "the architecture after Ada, also GDDR memory and PCIe"),
    "mi300x": Heir("h100-sxm", AMD, (668.4, 794.5)),
    "mi325x": Heir("h100-sxm", AMD, (784.9, 794.5)),
    "mi355x": Heir("h100-sxm", AMD, (1565.0, 794.5)),
    "gaudi-2": Heir("", "accelerator"),
    "gaudi-3": Heir("", "accelerator"),
    "tpu-v5e": Heir("", "accelerator"),
    "tpu-v5p": Heir("", "accelerator"),
    "tpu-v6e": Heir("", "accelerator"),
    "trainium1": Heir("", "accelerator"),
    "trainium2": Heir("", "accelerator"),
    "inferentia2": Heir("", "accelerator"),
    "apple-m4-max": Heir("", "accelerator"),
    "xeon-6980p-2s": Heir("", "cpu"),
}

ACCELERATOR = (
    "no public kernel measurements: round figures a little below those fitted for Hopper and "
    "Ampere, as compilers for these devices are younger; expect errors of tens of percent"
)
CPU = (
    "no kernel tables: matrix products at half of the AMX peak and three quarters of the memory "
    "bandwidth, round figures; expect errors of tens of percent"
)


def _prior(
    why: str,
    matmul: tuple[float, float, float, float],
    grouped: tuple[float, float, float, float],
    prefill: tuple[float, float, float, float],
    decode: tuple[float, float, float, float],
    elementwise: tuple[float, float],
    collective: tuple[float, float, float],
) -> tuple[str, dict[str, Any]]:
    product = ("compute", "bandwidth", "overhead_us", "sharpness")
    fields: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
        "matmul": (product, matmul),
        "grouped_matmul": (product, grouped),
        "prefill_attention": (("compute", "bandwidth", "half_head_dim", "overhead_us"), prefill),
        "decode_attention": (("bandwidth", "compute", "per_unit_us", "overhead_us"), decode),
    }
    block: dict[str, Any] = {
        family: {"bf16": dict(zip(names, values, strict=True))}
        for family, (names, values) in fields.items()
    }
    block["elementwise"] = dict(zip(("bandwidth", "overhead_us"), elementwise, strict=True))
    names = ("bandwidth", "latency_us", "per_peer_us")
    block["collective"] = dict(zip(names, collective, strict=True))
    return why, block


PRIORS = {
    "accelerator": _prior(
        ACCELERATOR,
        matmul=(0.65, 0.75, 5.0, 2.0),
        grouped=(0.4, 0.6, 40.0, 1.0),
        prefill=(0.7, 0.3, 60.0, 15.0),
        decode=(0.7, 0.3, 0.03, 15.0),
        elementwise=(0.5, 3.0),
        collective=(0.5, 15.0, 1.0),
    ),
    "cpu": _prior(
        CPU,
        matmul=(0.5, 0.75, 15.0, 1.5),
        grouped=(0.3, 0.6, 60.0, 1.0),
        prefill=(0.3, 0.3, 60.0, 30.0),
        decode=(0.6, 0.2, 0.1, 30.0),
        elementwise=(0.5, 10.0),
        collective=(0.5, 30.0, 1.0),
    ),
}


def inherited_block(profiles: Path, name: str) -> dict[str, Any]:
    """The efficiency block of a device without tables of its own."""
    heir = INHERITED[name]
    data, _ = load_yaml(profiles / f"{name}.yaml")
    if not heir.parent:
        detail, prior = PRIORS[heir.why]
        return {"provenance": {"method": "prior", "detail": detail, "date": AS_OF}, **prior}
    parent, _ = load_yaml(profiles / f"{heir.parent}.yaml")
    block: dict[str, Any] = copy.deepcopy(parent["efficiency"])
    detail = f"from {heir.parent}: {heir.why}"
    engines: dict[str, Any] = block.pop("engines", {})
    factor = 1.0
    if heir.best:
        reached, parents = heir.best
        mine, theirs = (p["peak_tflops"]["bf16"]["value"] for p in (data, parent))
        factor = (reached / mine) / (parents / theirs)
        detail += f"; compute of matrix products × {factor:.3f} by the {BEST_RATES}"
    if heir.link_from:
        other, _ = load_yaml(profiles / f"{heir.link_from}.yaml")
        block |= {name: other["efficiency"][name] for name in ("collective", "all_gather")}
        detail += f"; collective from {heir.link_from}, also on PCIe"
        if heir.why == GA10:
            block["elementwise_kinds"] = other["efficiency"]["elementwise_kinds"]
            detail += "; elementwise as measured on A40"
    if not heir.near:
        detail += "; without its corrections, which follow its own tiles"
        _without_corrections(block)
        engines = {}
    for own in (block, *engines.values()):
        if heir.link_from and own is not block:
            own.pop("collective", None)
        _adapt_products(own, factor, data["peak_tflops"])
        own["provenance"] = {
            "method": "inherited",
            "detail": detail,
            "date": AS_OF,
            "residual_quantiles": {
                name: [round(heir.wider * q, 4) for q in quantiles]
                for name, quantiles in own["provenance"]["residual_quantiles"].items()
                if _kept(name, own)
            },
        }
    return block | ({"engines": engines} if engines else {})


def _adapt_products(block: dict[str, Any], factor: float, peaks: dict[str, Any]) -> None:
    """Scale the compute share, and leave out formats that the device does not compute in."""
    for family in {"matmul", "grouped_matmul"} & set(block):
        block[family] = {
            key: {**entry, "compute": min(1.0, round(entry["compute"] * factor, 4))}
            for key, entry in block[family].items()
            if _runs(key, peaks)
        }


def _without_corrections(block: dict[str, Any]) -> None:
    for family, entries in block.items():
        if family not in ("provenance", "elementwise", "elementwise_kinds"):
            for entry in (entries,) if "latency_us" in entries else entries.values():
                entry.pop("corrections", None)


def _kept(label: str, block: dict[str, Any]) -> bool:
    family, _, key = label.removesuffix(" skewed").partition(" ")
    return key in block[family] if key else family in block


def _runs(key: str, peaks: dict[str, Any]) -> bool:
    computed = key.removeprefix("block-").split("-")[0]
    return computed in peaks or (computed == "bf16" and "fp16" in peaks)
