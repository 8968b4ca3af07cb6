"""The fit of recurrent layers' kernels: finds known coefficients, and holds at measured points."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.fit import recurrent
from calibration.fit.solve import predict, solve
from calibration.fit.tables import Device, Tables
from simulator.hardware import load_hardware
from simulator.hardware.forms import ScanEfficiency, UpdateEfficiency
from simulator.models.recurrent import GatedDeltaNet
from simulator.models.spec import LayerGroup
from tests.rig import FULL, cost_model, decode_shape, demands, model, precision, shape

BW, PEAK = 3.35e12, 989e12
UPDATE = UpdateEfficiency(bandwidth=0.85, overhead_us=4.0)
SCAN = ScanEfficiency(bandwidth=0.6, compute=0.4, serial_ns=45.0, overhead_us=9.0)
COLUMNS = (
    "kernel_source", "phase", "batch_size", "seq_len", "num_k_heads", "head_k_dim", "num_v_heads",
    "head_v_dim", "d_conv", "latency",
)  # fmt: skip


def rows() -> pd.DataFrame:
    """What a machine with these coefficients would have measured."""
    found = []
    for heads, n in product((4, 8, 16, 32, 48, 64), (1, 8, 64, 512)):
        state, io = heads * 128 * 128, (2 * 16 + 2 * heads) * 128 + 2 * heads
        moved = n * (8 * state + 2 * io)
        seconds = UPDATE.seconds(float(moved), 7.0 * n * state, BW, PEAK)
        sizes = (16, 128, heads, 128, 4)
        found.append(("fused_recurrent_x", "generation", n, 1, *sizes, seconds * 1e3))
        for length in (8, 64, 512, 4096):
            tokens = n * length
            flops = tokens * (6 * state + heads * 64 * 5 * 128)
            seconds = SCAN.seconds(
                float(tokens * io * 2 + 8 * n * state), float(flops), float(length), BW, PEAK
            )
            found.append(("chunk_x", "context", n, length, *sizes, seconds * 1e3))
    return pd.DataFrame(found, columns=list(COLUMNS))


def tables(folder: Path, framework: str = "vllm") -> Tables:
    place = folder / "linear_attention" / framework / "1.0"
    place.mkdir(parents=True)
    rows().to_parquet(place / "gdn_perf.parquet")
    device = Device(folder, {"bf16": 989.0}, BW, 450e9, 50e6)
    return Tables(device, framework)


def test_known_coefficients_are_found(tmp_path: Path) -> None:
    samples = {sample.label: sample for sample in recurrent.samples(tables(tmp_path))}
    assert set(samples) == {"recurrent_update gdn", "recurrent_scan gdn"}
    for sample in samples.values():
        fit = solve(sample)
        assert fit.held_out < 0.01
        assert np.allclose(predict(sample, fit.coefficients), sample.measured, rtol=0.03)
    assert (samples["recurrent_scan gdn"].at["length"] >= 16).all()


def test_rows_that_lie_in_the_cache_are_left_out(tmp_path: Path) -> None:
    sample = next(iter(recurrent.samples(tables(tmp_path))))
    stored = sample.at["moved"] / 2
    assert not ((stored > 1.4 * 50e6 / 1.3) & (stored < 50e6)).any()
    assert len(sample.measured) < 24


def test_one_framework_serves_all_engines(tmp_path: Path) -> None:
    assert not list(recurrent.samples(tables(tmp_path, "trtllm")))


# vLLM 0.24 on H100 SXM, milliseconds (NVIDIA AIConfigurator 0.12.0): 16 key and 32 value heads.
UPDATES = [(64, 0.0952), (128, 0.1847), (256, 0.3639), (1024, 1.4400)]
SCANS = [
    (1, 512, 0.0331),
    (1, 8192, 0.3909),
    (8, 1024, 0.1256),
    (8, 8192, 0.8752),
    (64, 256, 0.3194),
]


@pytest.mark.parametrize("name", ["h100-sxm"])
def test_measured_points(name: str) -> None:
    spec = model(LayerGroup(1, None, FULL, None, recurrent=GatedDeltaNet(16, 32, 128, 128)))
    numbers = precision()
    numbers = type(numbers)(numbers.weights, numbers.activations, numbers.kv_cache, "fp32")
    operators = cost_model(spec, hardware=load_hardware(name), numbers=numbers).operators
    for sequences, milliseconds in UPDATES:
        took = demands(operators, decode_shape(sequences, 1))["recurrent_state_update"][0]
        assert took.seconds[0] * 1e3 == pytest.approx(milliseconds, rel=0.06)
    for sequences, length, milliseconds in SCANS:
        step = shape(tokens=sequences * length, prefill=sequences * length, chunks=sequences)
        took = demands(operators, step)["recurrent_state_scan"][0]
        assert took.seconds[0] * 1e3 == pytest.approx(milliseconds, rel=0.08)


def test_kinds_without_a_table_are_estimates() -> None:
    efficiency = load_hardware("h100-sxm").efficiency
    assert efficiency.residual_range(efficiency.update_for("gdn")) is not None
    borrowed = efficiency.update_for("mamba2")
    assert borrowed == efficiency.update_for("gdn")
    assert efficiency.residual_range(borrowed) is None
    assert efficiency.residual_range(efficiency.scan_for("mamba2")) is None
    none = load_hardware("a100-sxm-80gb").efficiency
    assert not none.recurrent_update
    assert none.update_for("gdn").bandwidth == 0.7
