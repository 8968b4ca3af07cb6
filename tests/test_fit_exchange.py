"""Fitting how tokens travel to experts: rows made from known coefficients give them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.fit import exchange
from calibration.fit.solve import solve
from calibration.fit.tables import Device, Tables
from simulator.costs.expert_ranks import ranks_reached
from simulator.hardware import load_hardware
from simulator.hardware.efficiency import EXCHANGE_PRIOR
from simulator.hardware.forms import AllToAllEfficiency

LINK, NETWORK, HIDDEN = 450e9, 50e9, 7168
TRUE = {"bandwidth": 0.5, "network": 0.8, "latency_us": 20.0, "per_doubling_us": 6.0}


def tables(folder: Path, network: float | None = NETWORK) -> Tables:
    """Both tables, with the same coefficients for all kernels."""
    form = AllToAllEfficiency.model_validate(TRUE)
    rows: dict[str, list[dict[str, float]]] = {"ll": [], "normal": []}
    for n in (1, 2, 4, 8):
        for tokens in (1, 8, 64, 256, 1024, 8192):
            common = {"node_num": n, "hidden_size": HIDDEN, "num_token": tokens, "num_topk": 8,
                      "num_experts": 256}  # fmt: skip
            times = {}
            for way, size in (("dispatch", HIDDEN), ("combine", 2 * HIDDEN)):
                devices, nodes = ranks_reached(256, 8, 8 * n), ranks_reached(256, 8, n)
                for kind, near, far in (
                    ("ll", 8 * 7 / (8 * n), 8 * (n - 1) / n),
                    ("normal", devices * 7 / 8, nodes * (n - 1) / n),
                ):
                    times[kind, way] = 1e6 * form.seconds(
                        tokens * size * near, tokens * size * far, np.log2(n), LINK, NETWORK
                    )
            if tokens <= 1024:
                low = {f"{way}_avg_t_us": times["ll", way] for way in ("dispatch", "combine")}
                rows["ll"].append({**common, **low})
            for sms in (8, 20):
                wide = {}
                for way in ("dispatch", "combine"):
                    wide[f"{way}_sms"] = sms
                    wide[f"{way}_transmit_us"] = times["normal", way] * 20 / sms - 1.0
                    wide[f"{way}_notify_us"] = 1.0
                rows["normal"].append({**common, **wide})
    place = folder / "comm" / "sglang" / "1.0"
    place.mkdir(parents=True)
    for name, found in rows.items():
        pd.DataFrame(found).to_parquet(place / f"wideep_deepep_{name}_perf.parquet")
    return Tables(Device(folder, {"bf16": 1.0}, 1.0, LINK, 1.0, network))


def test_known_coefficients_come_back(tmp_path: Path) -> None:
    found = {sample.key: solve(sample) for sample in exchange.samples(tables(tmp_path))}
    assert set(found) == set(EXCHANGE_PRIOR)
    for fit in found.values():
        assert fit.coefficients == pytest.approx(TRUE, rel=0.01)
        assert fit.held_out < 0.005


def test_rows_are_those_that_the_form_can_tell(tmp_path: Path) -> None:
    for sample in exchange.samples(tables(tmp_path)):
        nodes = 4 if sample.key.startswith("throughput") else 8
        assert sample.args[2].max() == np.log2(nodes)
        assert len(sample.groups) == len(sample.measured) == len(set(sample.groups))


def test_no_network_no_fit(tmp_path: Path) -> None:
    assert not list(exchange.samples(tables(tmp_path, network=None)))


@pytest.mark.parametrize("name", ["h100-sxm", "h200-sxm"])
def test_what_is_shipped_is_near_what_is_taken_elsewhere(name: str) -> None:
    shipped = load_hardware(name).efficiency
    assert set(shipped.exchange) == set(EXCHANGE_PRIOR)
    for kind, prior in EXCHANGE_PRIOR.items():
        own = shipped.exchange_for(kind)
        for field in ("bandwidth", "network", "latency_us", "per_doubling_us"):
            assert getattr(prior, field) == pytest.approx(getattr(own, field), rel=0.03)
        assert shipped.residual_range(own) is not None
    assert (
        load_hardware("l40s").efficiency.exchange_for("low-latency-dispatch")
        is (EXCHANGE_PRIOR["low-latency-dispatch"])
    )
