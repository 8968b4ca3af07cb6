"""The profile of a machine: ceilings as its peaks, fitted kernels, and the engine's overheads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from calibration.engine.build import NAME as ENGINE
from calibration.fit.machine import operators, steps
from calibration.fit.profile import MARKERS, Line, block_text
from calibration.fit.solve import Fit, median_error, quantiles, solve
from calibration.measure.rows import FILE, load_rows
from simulator.deployment import Limits
from simulator.engines import load_engine
from simulator.errors import UserError
from simulator.hardware.profile import HardwareProfile
from simulator.scenario.policies import ContinuousPolicy
from simulator.yamlio import dump_yaml

_PRIOR_LINK = {"bandwidth": 0.5, "latency_us": 30.0, "per_peer_us": 1.0}


@dataclass(frozen=True)
class Own:
    """Facts about a machine that no measurement tells."""

    name: str
    title: str
    tdp_w: float
    idle_w: float


class MachineFit:
    """What was measured in a folder of ``simulate calibrate``.

    Args:
        folder: of the measurements.
        hardware: the profile whose peaks the coefficients are relative to; None: the ceilings
            measured are the peaks.

    Raises:
        UserError: there are no measurements, or none of operators.
    """

    def __init__(self, folder: Path, hardware: HardwareProfile | None = None) -> None:
        self.rows, self.machine = load_rows(folder)
        self.models = operators.models_of(self.rows, folder)
        self.date = date.fromisoformat(self.machine["date"][:10])
        path = folder / FILE if folder.is_dir() else folder
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if not any(row.what == "operator" for row in self.rows):
            raise UserError("holds no measured operators", where=str(folder))
        self.on_host = self.machine["kind"] == "cpu"
        self._best: dict[str, float] = {}
        if hardware is None:
            hardware = self._blank()
            self._best = operators.best_rates(
                operators.measured(self.rows, self.models, hardware, ENGINE)
            )
            hardware = self._blank()
        self.hardware = hardware

    # --- fitting ---------------------------------------------------------------------------------

    def engine_block(self, say: Callable[[Line], None]) -> dict[str, Any]:
        """Coefficients of the micro-engine on this machine: what a hardware profile has under
        ``efficiency.engines``."""
        found = operators.measured(self.rows, self.models, self.hardware, ENGINE)
        block: dict[str, Any] = {}
        fits: dict[str, Fit] = {}
        for sample in operators.samples(found, self.hardware):
            fit = fits[sample.label] = solve(sample)
            say(Line(ENGINE, sample.label, len(sample.measured), len(set(sample.groups)), fit))
            kind = sample.family == "elementwise"
            family = "elementwise_kinds" if kind else sample.family
            block.setdefault(family, {})[sample.key] = fit.coefficients
        block = {"provenance": self._provenance(fits), **block}
        if "probe_s" in self.machine:
            block["probe_s"] = float(f"{self.machine['probe_s']:.6g}")
        if not any(row.what == "step" and not row.idle for row in self.rows):
            return block  # measuring was stopped before; the engine's profile has overheads
        return {**block, "overheads": self._overheads(block, say)}

    def _provenance(self, fits: dict[str, Fit]) -> dict[str, Any]:
        about = self.machine
        return {
            "method": "fitted",
            "detail": f"`simulate calibrate` on {about['device']}, torch {about['torch']}"
            + (f", triton {about['triton']}" if not self.on_host else ""),
            "date": self.date,
            "engine": f"{ENGINE} {about['program']}",
            "data_sha256": self.sha256,
            "residual_median_pct": {k: round(100 * f.median, 1) for k, f in fits.items()},
            "held_out_median_pct": {k: round(100 * f.held_out, 1) for k, f in fits.items()},
            "residual_quantiles": {k: f.quantiles for k, f in fits.items()},
        }

    def _overheads(self, block: dict[str, Any], say: Callable[[Line], None]) -> dict[str, Any]:
        engine = load_engine(ENGINE)
        hardware = self._with({ENGINE: block})
        found = steps.steps_of(self.rows, self.models, hardware, engine, self._limits())
        host, launches = steps.fit_steps(found, on_host=self.on_host)
        logs = steps.left_out(found, on_host=self.on_host)
        fitted = np.log(found.measured / steps.fitted_seconds(found, host, launches))
        spread = {
            name: [quantiles(logs[chosen])[i] for i in (0, 2)]
            for name, chosen in (("ttft_ms", found.prompts), ("tpot_ms", ~found.prompts))
            if chosen.any()
        }
        whole = Fit({}, median_error(fitted), median_error(logs), quantiles(logs))
        say(Line(ENGINE, "steps", len(logs), len(set(found.burst)), whole))
        return {
            "host": host.model_dump(),
            "launches": launches.model_dump(),
            "front_end": {"request_ms": 0.0, "response_ms": 0.0},
            "source": f"steps of bursts on {self.machine['device']} beyond what their operators "
            "take",
            "fit": {
                "newest": self.date,
                "data_sha256": self.sha256,
                "rows": len(logs),
                "groups": sorted(set(found.burst.tolist())),
                "fitted_median_pct": steps.errors(fitted, found.prompts),
                "fitted_bias": {"step_ms": round(float(np.exp(-np.median(fitted))), 3)},
                "left_out_spread": spread,
                "held_out_rows": len(logs),
                "held_out_median_pct": steps.errors(logs, found.prompts),
            },
        }

    def _limits(self) -> Limits:
        engine = load_engine(ENGINE)
        return Limits(
            policy=ContinuousPolicy(), max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens, max_model_len=1 << 20,
            block_size=engine.block_size, prefix_caching=True,
            cuda_graphs=not self.on_host, async_scheduling=not self.on_host,
        )  # fmt: skip

    # --- a whole profile -------------------------------------------------------------------------

    def profile(self, facts: Own, say: Callable[[Line], None]) -> dict[str, Any]:
        """A hardware profile of its own, as a file holds it."""
        engine = self.engine_block(say)
        own = {"provenance": engine["provenance"]}
        own |= {name: engine.pop(name) for name in ("overheads", "probe_s") if name in engine}
        block = self._filled(engine)
        block["engines"] = {ENGINE: own}
        return self._facts(facts) | {"efficiency": block}

    def profile_text(self, own: Own, say: Callable[[Line], None]) -> str:
        """The file of that profile."""
        data = HardwareProfile.model_validate(self.profile(own, say)).model_dump(
            mode="json", exclude_none=True, exclude_defaults=True
        )
        block = data.pop("efficiency")
        sources = data.pop("sources")
        return (
            "# Made by `simulate calibrate` and `simulate fit --measured`: the peaks are what was\n"
            "# measured here, and everything else is relative to them.\n\n"
            f"{dump_yaml(data)}\n{MARKERS.begin}\n{block_text(block)}{MARKERS.end}\n\n"
            f"{dump_yaml({'sources': sources})}"
        )

    def _with(self, engines: dict[str, Any]) -> HardwareProfile:
        """The profile with these kernels in place."""
        data = self.hardware.model_dump(mode="python")
        data["efficiency"]["engines"] = {**data["efficiency"]["engines"], **engines}
        return HardwareProfile.model_validate(data)

    def _blank(self) -> HardwareProfile:
        """A profile with the ceilings and no coefficients worth anything."""
        prior = {"provenance": {"method": "prior", "detail": "not fitted yet", "date": self.date}}
        facts = self._facts(Own("blank", "blank", 2.0, 1.0))
        return HardwareProfile.model_validate(facts | {"efficiency": self._filled(prior)})

    def _filled(self, block: dict[str, Any]) -> dict[str, Any]:
        """The block with what every profile needs; what was not measured takes the coefficients of
        what was, or round figures."""
        plain = {"compute": 0.5, "bandwidth": 0.5, "overhead_us": 20.0}
        products = block.get("matmul") or {"bf16": plain | {"sharpness": 1.5}}
        attention = {
            "prefill_attention": {"bf16": plain | {"half_head_dim": 40.0}},
            "decode_attention": {"bf16": plain | {"per_unit_us": 1.0}},
        }
        experts = block.get("grouped_matmul") or {"bf16": plain | {"sharpness": 1.0}}
        return {
            **block,
            "matmul": _with_bf16(products),
            "grouped_matmul": _with_bf16(experts),
            **{name: _with_bf16(block.get(name) or rest) for name, rest in attention.items()},
            "elementwise": _middle(block.get("elementwise_kinds", {})),
            "collective": _PRIOR_LINK,
        }

    def _facts(self, own: Own) -> dict[str, Any]:
        about = self.machine
        rates = {
            row.activations: row.amount / row.seconds for row in self.rows if row.name == "gemm"
        }
        peaks = {
            name: {"value": _rounded(max(rate, self._best.get(name, 0.0)) / 1e12), "source": "here"}
            for name, rate in rates.items()
        }
        copy = next(row for row in self.rows if row.name == "copy")
        memory = about["memory_gib"] if self.on_host else about["device_memory_gib"]
        threads = f" ({about['threads']} thread)" if self.on_host else ""
        given = "given to `simulate fit`, not measured"
        return {
            "name": own.name,
            "title": own.title,
            "vendor": about["device"].split()[0],
            "kind": "cpu" if self.on_host else "gpu",
            "architecture": about.get("instructions") or _architecture(about["capability"]),
            "peak_tflops": peaks,
            "memory": {
                "capacity_gib": {"value": memory, "source": "here"},
                "bandwidth_gb_per_s": {
                    "value": _rounded(copy.amount / copy.seconds / 1e9), "source": "here",
                },
            },
            "link": {"kind": "none"},
            "node": {"devices": 1},
            "power": {
                "tdp_w": {"value": own.tdp_w, "source": "estimate", "note": given},
                "idle_w": {"value": own.idle_w, "source": "estimate", "note": given},
                "curve": {
                    "active": 1.0, "compute": 0.0, "memory": 0.0,
                    "provenance": {
                        "method": "prior", "date": self.date,
                        "detail": "a step draws all of tdp_w: power was not measured",
                    },
                },
            },
            "sources": {
                "here": f"measured by `simulate calibrate` on {about['device']}{threads}, "
                f"{self.date.isoformat()}",
                "estimate": "figures that cannot be measured there",
            },
        }  # fmt: skip


def _architecture(capability: str) -> str:
    return f"sm_{capability.replace('.', '')}"


def _with_bf16(entries: dict[str, Any]) -> dict[str, Any]:
    """The entry that formats without one fall back to."""
    return entries if "bf16" in entries else {"bf16": next(iter(entries.values())), **entries}


def _middle(kinds: dict[str, Any]) -> dict[str, Any]:
    """What kinds without an entry take: the middle of those measured by what they reach."""
    if not kinds:
        return {"bandwidth": 0.5, "overhead_us": 10.0}
    ordered = sorted(kinds.values(), key=lambda kind: float(kind["bandwidth"]))
    middle: dict[str, Any] = ordered[len(ordered) // 2]
    return middle


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
