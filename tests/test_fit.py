"""The fit of efficiency coefficients: recovers known ones, keeps the file, repeats itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hardware_profiles
from calibration.fit.inheritance import INHERITED, inherited_block
from calibration.fit.profile import MARKERS, fit_device, write_block
from calibration.fit.solve import Sample, solve
from simulator.hardware import load_hardware, profile_names
from simulator.hardware.efficiency import Efficiency
from simulator.hardware.forms import (
    CollectiveEfficiency,
    DecodeAttentionEfficiency,
    MatmulEfficiency,
    PrefillAttentionEfficiency,
)

FOLDER = Path(hardware_profiles.__file__).parent
BW, PEAK = 3.35e12, 989e12


def _grid(*axes: list[int]) -> list[np.ndarray]:
    return [a.ravel().astype(float) for a in np.meshgrid(*axes)]


M, N, K = _grid([1, 16, 64, 256, 1024, 8192], [1024, 4096, 14336], [1024, 4096, 16384])
B, CONTEXT, HEADS = _grid([1, 8, 64, 256], [16, 128, 1024, 8192], [1, 4, 8])
S, DIM, Q = _grid([64, 512, 2048, 8192], [64, 128, 256], [4, 32, 96])
G, MESSAGE = _grid([2, 4, 8], [2**10, 2**16, 2**20, 2**26])


@pytest.mark.parametrize(
    ("truth", "start", "args"),
    [
        (
            MatmulEfficiency(compute=0.81, bandwidth=0.86, overhead_us=3.5, sharpness=2.6),
            {"compute": 0.5, "bandwidth": 0.5, "overhead_us": 1.0, "sharpness": 1.5},
            (2 * (N * K + M * (N + K)), 2 * M * N * K, 0.0, BW, PEAK),
        ),
        (
            MatmulEfficiency(
                compute=0.7, bandwidth=0.9, overhead_us=6.0, sharpness=1.5, conversion=0.3
            ),
            {"compute": 0.5, "bandwidth": 0.5, "overhead_us": 1.0, "sharpness": 2.0,
             "conversion": 0.8},
            (N * K + M * (2 * N + K), 2 * M * N * K, 3 * M * K, BW, 2 * PEAK),
        ),
        (
            PrefillAttentionEfficiency(
                compute=0.9, bandwidth=0.35, half_head_dim=60.0, overhead_us=13.0
            ),
            {"compute": 0.6, "bandwidth": 0.6, "half_head_dim": 10.0, "overhead_us": 5.0},
            (S * DIM * Q * 6, 2 * S * S * DIM * Q, DIM, BW, PEAK),
        ),
        (
            DecodeAttentionEfficiency(
                bandwidth=0.9, compute=0.25, per_unit_us=0.02, overhead_us=11.0
            ),
            {"bandwidth": 0.6, "compute": 0.1, "per_unit_us": 0.1, "overhead_us": 5.0},
            (B * HEADS, 0.0 * B, B * CONTEXT * HEADS * 512, B * CONTEXT * 192 * 512, BW, PEAK),
        ),
        (
            CollectiveEfficiency(bandwidth=0.6, latency_us=4.2, per_peer_us=0.2),
            {"bandwidth": 0.3, "latency_us": 10.0, "per_peer_us": 1.0},
            (G, 2 * (G - 1) / G * MESSAGE, 450e9),
        ),
    ],
)  # fmt: skip
def test_the_fit_recovers_the_coefficients_that_made_the_table(
    truth: MatmulEfficiency, start: dict[str, float], args: tuple[np.ndarray | float, ...]
) -> None:
    noise = 1 + 0.01 * np.sin(np.arange(len(np.atleast_1d(args[0]))) * 2.7)
    measured = truth.seconds(*args) * noise  # type: ignore[arg-type]
    groups = tuple(str(row % 12) for row in range(len(measured)))
    sample = Sample("family", "bf16", type(truth), start, args, measured, groups=groups)
    found = solve(sample)
    assert found.median < 0.02
    assert found.held_out < 0.02
    for name in start:
        assert found.coefficients[name] == pytest.approx(getattr(truth, name), rel=0.06), name
    assert solve(sample) == found


def test_far_off_rows_do_not_move_the_fit() -> None:
    truth = MatmulEfficiency(compute=0.8, bandwidth=0.85, overhead_us=4.0, sharpness=3.0)
    args = (2 * (N * K + M * (N + K)), 2 * M * N * K, 0.0, BW, PEAK)
    measured = truth.seconds(*args)
    measured[::9] *= 5
    start = {"compute": 0.5, "bandwidth": 0.5, "overhead_us": 1.0, "sharpness": 2.0}
    groups = tuple(map(str, N.tolist()))
    sample = Sample("matmul", "bf16", MatmulEfficiency, start, args, measured, groups=groups)
    found = solve(sample).coefficients
    assert found["compute"] == pytest.approx(0.8, rel=0.05)
    assert found["bandwidth"] == pytest.approx(0.85, rel=0.05)


def _table(folder: Path, op: str, name: str, **columns: object) -> None:
    path = folder / "a100_sxm" / op / "vllm" / "9.9"
    path.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_parquet(path / f"{name}_perf.parquet")


def _tables(folder: Path) -> None:
    """Small tables of an imaginary A100 whose kernels follow the forms exactly."""
    bandwidth, peak = 2039e9, 312e12
    dense = MatmulEfficiency(compute=0.8, bandwidth=0.8, overhead_us=5.0, sharpness=2.0)
    t = dense.seconds(2 * (N * K + M * (N + K)), 2 * M * N * K, 0.0, bandwidth, peak)
    _table(folder, "gemm", "gemm", gemm_dtype="bfloat16", m=M, n=N, k=K, latency=t * 1e3)

    tokens, experts = _grid([1, 8, 64, 512, 4096], [8, 64, 128])
    moved = np.minimum(experts, tokens * 2) * 3 * 4096 * 1408 * 2
    moved = moved + tokens * 4096 * 2 + tokens * 2 * (4096 * 2 + 1408 * 6)
    t = dense.seconds(moved, 6 * tokens * 2 * 4096 * 1408, 0.0, bandwidth, peak)
    _table(
        folder, "moe", "moe", moe_dtype="bfloat16", moe_ep_size=1, moe_tp_size=1, topk=2,
        distribution="balanced", num_tokens=tokens, num_experts=experts, hidden_size=4096,
        inter_size=1408, kernel_source="triton", latency=t * 1e3,
    )  # fmt: skip

    prefill = PrefillAttentionEfficiency(
        compute=0.7, bandwidth=0.4, half_head_dim=30.0, overhead_us=12.0
    )
    flops = 4 * S * (S + 1) / 2 * Q * DIM
    t = prefill.seconds(S * DIM * (4 * Q + 2 * 4 * 2), flops, DIM, bandwidth, peak)
    common: dict[str, object] = {"kernel_source": "flash", "kv_cache_dtype": "bfloat16"}
    _table(
        folder, "attention", "context_attention", batch_size=1, isl=S, head_dim=DIM, num_heads=Q,
        step=0, num_key_value_heads=4, latency=t * 1e3, **common,
    )  # fmt: skip
    decode = DecodeAttentionEfficiency(
        bandwidth=0.75, compute=0.3, per_unit_us=0.03, overhead_us=15.0
    )
    io, stored = 4 * B * HEADS * 4 * 128, B * CONTEXT * HEADS * 512
    flops = 4 * B * CONTEXT * HEADS * 4 * 128
    t = decode.seconds(B * HEADS, io, stored, flops, bandwidth, peak)
    _table(
        folder, "attention", "generation_attention", batch_size=B, step=CONTEXT - 1, head_dim=128,
        isl=1,
        num_heads=HEADS * 4, num_key_value_heads=HEADS, latency=t * 1e3, **common,
    )  # fmt: skip
    reduce = CollectiveEfficiency(bandwidth=0.5, latency_us=5.0, per_peer_us=0.3)
    t = reduce.seconds(G, 2 * (G - 1) / G * MESSAGE, 300e9)
    _table(
        folder, "comm", "custom_allreduce", backend="vllm_graph", num_gpus=G,
        message_size=MESSAGE / 2, latency=t * 1e3,
    )  # fmt: skip


def test_the_command_rewrites_one_block_and_nothing_else(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    file = profiles / "a100-sxm-80gb.yaml"
    shutil.copy(FOLDER / file.name, file)
    _tables(tmp_path)
    write_block(file, fit_device(tmp_path, file))
    once = file.read_text()
    write_block(file, fit_device(tmp_path, file))
    assert file.read_text() == once
    shipped = (FOLDER / file.name).read_text()
    assert once.partition(MARKERS.begin)[0] == shipped.partition(MARKERS.begin)[0]
    assert once.partition(MARKERS.end)[2] == shipped.partition(MARKERS.end)[2]
    e = load_hardware(str(file)).efficiency
    assert e.provenance.method == "fitted"
    assert e.provenance.engine == "vllm 9.9"
    assert set(e.provenance.residual_median_pct) == {
        "matmul bf16", "grouped_matmul bf16", "prefill_attention bf16", "decode_attention bf16",
        "collective",
    }  # fmt: skip
    assert max(e.provenance.residual_median_pct.values()) < 1
    assert e.matmul["bf16"].compute == pytest.approx(0.8, rel=0.02)
    assert e.matmul["bf16"].overhead_us == pytest.approx(5.0, rel=0.02)
    assert e.prefill_attention["bf16"].half_head_dim == pytest.approx(30, rel=0.1)
    assert e.decode_attention["bf16"].bandwidth == pytest.approx(0.75, rel=0.02)
    assert e.collective.per_peer_us == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("name", sorted(INHERITED))
def test_inherited_blocks_are_what_the_command_writes(name: str) -> None:
    fresh = inherited_block(FOLDER, name)
    assert Efficiency.model_validate(fresh) == load_hardware(name).efficiency


def test_every_device_has_a_fit_or_says_whose_it_uses() -> None:
    fitted = {
        n for n in profile_names() if load_hardware(n).efficiency.provenance.method == "fitted"
    }
    assert fitted == {
        "h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "amd-epyc-zen5-1t"
    }  # fmt: skip
    assert fitted | set(INHERITED) == set(profile_names())
    for name in fitted:
        medians = load_hardware(name).efficiency.provenance.residual_median_pct
        assert medians["matmul bf16"] < 10
        assert medians["decode_attention bf16"] < 15


def test_devices_that_reach_less_in_public_are_scaled_down() -> None:
    mi300x, h100 = load_hardware("mi300x").efficiency, load_hardware("h100").efficiency
    share = (668.4 / 1307) / (794.5 / 989)
    assert mi300x.matmul["bf16"].compute == pytest.approx(
        h100.matmul["bf16"].compute * share, rel=1e-3
    )
    assert "0.637" in mi300x.provenance.detail
