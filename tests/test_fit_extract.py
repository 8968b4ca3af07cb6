"""``simulate fit`` on an extract of real tables, and what shipped profiles promise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from calibration.fit.profile import ENGINES, fit_device, shipped_text, table_folder
from calibration.fit.table import served_table, table
from calibration.fit.tables import Tables
from simulator.cli import cli
from simulator.costs.attention import DecodeAttention
from simulator.costs.build import OperatorBuilder
from simulator.costs.operators import Collective, Experts, Matmul, Operator
from simulator.costs.stretches import DecodeTable
from simulator.errors import UserError
from simulator.hardware import load_hardware
from simulator.models import load_model
from simulator.models.layout import Layout
from tests.rig import decode_shape, precision, prompt_shape

EXTRACT = Path(__file__).parent / "kernel_tables"
FITTED = ("h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "l40s")
ON_FITTED = pytest.mark.parametrize("name", FITTED)


def _copy(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    shutil.copytree(EXTRACT, folder)
    return folder


def test_the_command_reproduces_a_profile_bit_for_bit(tmp_path: Path) -> None:
    tables = _copy(tmp_path)
    command = ["fit", str(tables), "--device", "h100-sxm", "--profiles", str(tables)]
    said = CliRunner().invoke(cli, command)
    assert said.exit_code == 0, said.output
    assert "holds exactly this" in said.output
    profile = tables / "h100-sxm.yaml"
    before = shipped_text(profile)
    profile.write_text(profile.read_text().replace("compute: 0.8", "compute: 0.1", 1))
    assert "differs" in CliRunner().invoke(cli, command).output
    CliRunner().invoke(cli, [*command, "--write"])
    assert shipped_text(profile) == before


def test_other_data_has_another_hash_and_other_coefficients(tmp_path: Path) -> None:
    tables = _copy(tmp_path)
    path = next(tables.glob("h100_sxm/gemm/vllm/*/gemm_perf.parquet"))
    rows = pd.read_parquet(path)
    rows.assign(latency=rows.latency * 1.5).to_parquet(path)
    kept = load_hardware(str(EXTRACT / "h100-sxm.yaml")).efficiency
    block = fit_device(tables, tables / "h100-sxm.yaml")
    assert block["provenance"]["data_sha256"] != kept.provenance.data_sha256
    slow = block["matmul"]["bf16"]
    assert slow["overhead_us"] > 1.3 * kept.matmul["bf16"].overhead_us
    assert block["decode_attention"]["bf16"]["bandwidth"] == (
        kept.decode_attention["bf16"].bandwidth
    )


def test_missing_tables_and_columns_are_sentences(tmp_path: Path) -> None:
    tables = _copy(tmp_path)
    with pytest.raises(UserError, match=r"has no kernel tables of l40s; it has h100_sxm"):
        table_folder(tables, "l40s")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        table_folder(tables / "nowhere", "l40s")
    profile = tables / "h100-sxm.yaml"
    path = next(tables.glob("h100_sxm/gemm/vllm/*/gemm_perf.parquet"))
    pd.read_parquet(path).drop(columns="k").to_parquet(path)
    with pytest.raises(UserError, match=r"gemm_perf.parquet: lacks the column 'k'; a table of"):
        fit_device(tables, profile)
    path.write_text("no table")
    with pytest.raises(UserError, match=r"gemm_perf.parquet: is no Parquet table"):
        fit_device(tables, profile)
    shutil.rmtree(tables / "h100_sxm" / "gemm")
    with pytest.raises(UserError, match="holds no table to fit matmul from"):
        fit_device(tables, profile)
    profile.write_text("name: x")
    with pytest.raises(UserError, match="the marker lines around the generated part are missing"):
        shipped_text(profile)
    said = CliRunner().invoke(cli, ["fit", str(tables), "--device", "h100-sxn"])
    assert said.exit_code == 2


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    tables = _copy(tmp_path)
    gemm = tables / "h100_sxm" / "gemm" / "vllm"
    shutil.copytree(gemm / "0.24.0", gemm / "0.9.2")
    found = Tables(None)  # type: ignore[arg-type]
    object.__setattr__(found, "device", type("Here", (), {"folder": tables / "h100_sxm"})())
    found.get("gemm", "gemm", ("m", "n", "k"))
    assert [path.parts[-2] for path in found.read] == ["0.24.0"]


# --- shipped profiles ----------------------------------------------------------------------------


def _operators(
    device: str, model: str, numbers: str, tp: int, engine: str = "vllm"
) -> list[Operator]:
    kv = "fp8" if numbers == "fp8" else "bf16"
    return OperatorBuilder(
        load_model(model),
        load_hardware(device),
        engine,
        precision(numbers, numbers, kv=kv),
        Layout(tp),
    ).build()


@ON_FITTED
@pytest.mark.parametrize("engine", ["vllm", *ENGINES])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("tp", [1, 8])
def test_no_shipped_profile_beats_its_datasheet(
    name: str, engine: str, model: str, tp: int
) -> None:
    hardware = load_hardware(name)
    for numbers in ("bf16", "fp8") if hardware.computes("fp8") else ("bf16",):
        peak = max(f.value for f in hardware.peak_tflops.values()) * 1e12
        for operator in _operators(name, model, numbers, tp, engine):
            for step in (
                *(decode_shape(n, n * c, n * c) for n in (1, 7, 64, 900) for c in (3, 700, 2e5)),
                *(prompt_shape(n, local_pairs=n) for n in (1, 130, 4096)),
                prompt_shape(512, past=60_000, local_pairs=512),
            ):
                demand = operator.demand(step)
                took = float(demand.seconds[0]) * (1 + 1e-12)
                assert took >= demand.flops[0] / peak
                if isinstance(operator, Collective):
                    assert took >= demand.link[0] / (hardware.link_bytes_per_s or 1)
                else:
                    assert took >= demand.moved[0] / hardware.bandwidth_bytes_per_s


@ON_FITTED
@pytest.mark.parametrize("engine", ["vllm", *ENGINES])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "gemma-2-9b", "deepseek-v3"])
def test_decode_attention_never_falls_as_the_context_grows(
    name: str, engine: str, model: str
) -> None:
    for tp in (1, 8):
        operators = _operators(name, model, "bf16", tp, engine)
        found = [op for op in operators if isinstance(op, DecodeAttention)]
        table = DecodeTable(found)
        for sequences in (1, 2, 33, 256, 1000):
            ends, starts, values, slopes = table.bends(sequences)
            assert min(slopes) >= 0
            assert np.all(np.diff(values) >= 0)
            assert starts[1:] == ends[:-1]


MEDIANS = {
    "h100-sxm": {"matmul bf16": 4.0, "decode_attention bf16": 2.5, "prefill_attention bf16": 5.0},
    "h200-sxm": {"matmul bf16": 4.0, "decode_attention bf16": 2.5, "prefill_attention bf16": 5.0},
    "b200-sxm": {"matmul bf16": 4.9, "decode_attention bf16": 4.0, "prefill_attention bf16": 4.0},
    "a100-sxm-80gb": {"matmul bf16": 5.2, "decode_attention bf16": 6.0},
    "l40s": {"matmul bf16": 8.0, "decode_attention bf16": 8.0, "prefill_attention bf16": 4.0},
}


@ON_FITTED
def test_held_out_errors_do_not_creep_up(name: str) -> None:
    efficiency = load_hardware(name).efficiency
    for family, most in MEDIANS[name].items():
        assert efficiency.provenance.held_out_median_pct[family] <= most, family
    for told in (efficiency.provenance, *(e.provenance for e in efficiency.engines.values())):
        for family, (low, middle, high) in told.residual_quantiles.items():
            assert -0.6 < low < middle < high < 0.6, family
            assert abs(middle) < (0.07 if "skewed" in family else 0.03), family
        assert set(told.residual_quantiles) == set(told.residual_median_pct)


def test_an_engine_has_its_own_kernels_where_it_was_measured() -> None:
    profile = load_hardware("h200")
    base, own = profile.efficiency, profile.efficiency.engines["tensorrt-llm"]
    seen = base.seen_by("tensorrt-llm")
    assert seen.matmul["fp8"] == own.matmul["fp8"] != base.matmul["fp8"]
    assert seen.matmul["block-fp8"] is base.matmul["block-fp8"]
    assert seen.decode_for("fp8", latent=True) is base.decode_for("fp8", latent=True)
    assert seen.collective == own.collective
    assert seen.all_gather is base.all_gather
    assert (
        seen.provenance.residual_median_pct.keys()
        == base.provenance.residual_median_pct.keys() | (own.provenance.residual_median_pct.keys())
    )
    assert base.seen_by("vllm") is base.seen_by("sglang") is base
    step = decode_shape(64, 64 * 2000)
    times = [
        sum(
            float(op.demand(step).seconds[0])
            for op in _operators("h200", "llama-3.1-70b", "fp8", 4, e)
        )
        for e in ("tensorrt-llm", "vllm")
    ]
    assert 0.6 < times[0] / times[1] < 0.95


def test_relatives_take_the_engines_along_within_an_architecture() -> None:
    near, far = load_hardware("h100-pcie").efficiency, load_hardware("mi300x").efficiency
    assert near.engines["tensorrt-llm"].provenance.method == "inherited"
    assert not far.engines
    on_pcie = load_hardware("a40").efficiency.engines["tensorrt-llm"]
    assert on_pcie.collective is None
    assert set(on_pcie.provenance.residual_quantiles) == {
        "matmul bf16", "grouped_matmul bf16", "prefill_attention bf16", "decode_attention bf16",
    }  # fmt: skip


@pytest.mark.parametrize(("model", "key"), [("deepseek-r1", "block-fp8"), ("mixtral-8x7b", "fp8")])
def test_checkpoints_with_block_scales_take_the_kernels_for_them(model: str, key: str) -> None:
    efficiency = load_hardware("b200").efficiency
    found = {op.name: op for op in _operators("b200", model, "fp8", 8)}
    product, experts = found["o_proj"], found["experts"]
    assert isinstance(product, Matmul)
    assert isinstance(experts, Experts)
    assert product.efficiency is efficiency.matmul[key]
    assert experts.efficiency is efficiency.grouped_matmul[key]


def test_one_kind_of_fp8_stands_in_for_the_other() -> None:
    e = load_hardware("h100").efficiency
    assert e.experts_for("fp8", "fp8") is e.grouped_matmul["block-fp8"]
    only = e.model_copy(update={"matmul": {"bf16": e.matmul["bf16"], "fp8": e.matmul["fp8"]}})
    assert only.matmul_for("fp8", "fp8", blocks=True) is e.matmul["fp8"]
    wide = e.matmul_for("fp8", "bf16", blocks=True)
    assert wide.corrections is e.matmul["bf16"].corrections


def test_scales_that_the_checkpoint_brings_are_not_looked_for(tmp_path: Path) -> None:
    tables = _copy(tmp_path)
    kept = load_hardware(str(EXTRACT / "h100-sxm.yaml")).efficiency.engines["tensorrt-llm"]
    shutil.rmtree(tables / "h100_sxm" / "quantize")
    block = fit_device(tables, tables / "h100-sxm.yaml")["engines"]["tensorrt-llm"]
    assert block["matmul"]["fp8"]["overhead_us"] > kept.matmul["fp8"].overhead_us + 5
    assert block["matmul"]["bf16"]["overhead_us"] == kept.matmul["bf16"].overhead_us


def test_the_table_in_the_docs_is_that_of_the_profiles() -> None:
    page = Path(__file__).parent.parent / "docs" / "calibration.md"
    for engine in ("", *ENGINES):
        assert table(engine) in page.read_text(encoding="utf-8"), engine
    assert served_table() in page.read_text(encoding="utf-8")
