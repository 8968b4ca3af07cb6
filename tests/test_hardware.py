"""Hardware profiles: every file loads, every figure is sourced, figures are in order."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml

import hardware_profiles
from simulator.errors import DoesNotFitError, UnknownNameError, UserError
from simulator.hardware import load_hardware, profile_names
from simulator.hardware.profile import HardwareProfile
from simulator.scenario import load_scenario
from simulator.simulation import simulate

FOLDER = Path(hardware_profiles.__file__).parent
NAMES = profile_names()
REQUIRED = {
    "h100-sxm", "h100-pcie", "h200-sxm", "b200-sxm", "a100-sxm-40gb", "a100-sxm-80gb", "l40s", "l4",
    "a10g", "rtx-4090", "mi300x", "tpu-v5e", "tpu-v6e", "gaudi-3", "trainium2", "inferentia2",
    "amd-epyc-zen5-1t",
    "xeon-6980p-2s",
}  # fmt: skip


def test_the_devices_people_ask_for_are_there() -> None:
    assert set(NAMES) >= REQUIRED
    assert sorted(NAMES) == NAMES
    assert len(NAMES) == len(list(FOLDER.glob("*.yaml")))


@pytest.mark.parametrize("name", NAMES)
def test_profile(name: str) -> None:
    profile = load_hardware(name)
    assert profile.name == name
    cited = dict(profile.cited())
    assert {"memory.capacity_gib", "memory.bandwidth_gb_per_s", "power.tdp_w"} <= set(cited)
    assert all(profile.sources[source].strip() for source in cited.values())
    peaks = {key: figure.value for key, figure in profile.peak_tflops.items()}
    half = peaks.get("bf16", peaks.get("fp16", 0.0))
    assert peaks.get("fp8", half) >= half
    assert peaks.get("int8", half) >= half
    assert peaks.get("fp4", peaks.get("fp8", half)) >= peaks.get("fp8", half)
    assert peaks.get("fp32", 0.0) <= half
    assert profile.power.idle_w.value < profile.power.tdp_w.value
    for price in profile.prices:
        assert date(2024, 1, 1) < price.as_of <= date.today()
        assert price.cloud


@pytest.mark.parametrize("name", NAMES)
def test_no_form_beats_the_roofline(name: str) -> None:
    profile = load_hardware(name)
    bandwidth, e = profile.bandwidth_bytes_per_s, profile.efficiency
    for key in e.matmul:
        computed, _, stored = key.removeprefix("block-").partition("-")
        peak = profile.peak_flops_per_s(computed)
        for grouped in (False, True):
            form = (e.experts_for if grouped else e.matmul_for)(stored or computed, computed)
            for moved, flops in ((1e3, 1e6), (1e9, 1e6), (1e9, 1e15)):
                for factor in (1.0, 0.01):
                    assert form.seconds(moved, flops, 0.0, bandwidth, peak, factor) >= max(
                        moved / bandwidth, flops / peak
                    )
    peak = profile.peak_flops_per_s("bf16")
    for kv in ("bf16", "fp8"):
        for latent in (False, True):
            decode = e.decode_for(kv, latent=latent)
            prefill = e.prefill_for(kv, latent=latent)
            for factor in (1.0, 0.01):
                assert decode.seconds(8, 1e6, 1e9, 1e9, bandwidth, peak, factor) >= 1e9 / bandwidth
                assert decode.seconds(8, 1e3, 1e3, 1e15, bandwidth, peak, factor) >= 1e15 / peak
                assert prefill.seconds(1e9, 1e12, 128, bandwidth, peak, factor) >= 1e12 / peak
    if profile.link_bytes_per_s:
        assert (
            e.collective.seconds(2, 1e9, profile.link_bytes_per_s) >= 1e9 / profile.link_bytes_per_s
        )


def test_names_and_aliases_mean_one_device() -> None:
    seen: dict[str, str] = {}
    for name in NAMES:
        for word in (name, *load_hardware(name).aliases):
            assert seen.setdefault(word, name) == name
    assert load_hardware("H100") is load_hardware("h100-sxm")
    assert load_hardware("A100_80GB").name == "a100-sxm-80gb"


def test_an_unknown_name_is_an_error_with_the_closest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'h100-sxm'"):
        load_hardware("h100-sxn")
    with pytest.raises(UnknownNameError, match="known are a100-pcie-80gb, "):
        load_hardware("zzz")


def test_a_device_says_what_it_cannot_compute() -> None:
    a100, t4 = load_hardware("a100"), load_hardware("t4")
    assert not a100.computes("fp8")
    assert t4.computes("bf16")  # by its fp16 units
    assert t4.peak_flops_per_s("bf16") == 65e12
    with pytest.raises(UserError, match="A100 SXM 80 GB has no fp8 matrix units"):
        a100.peak_flops_per_s("fp8")


def test_formats_without_an_entry_fall_back() -> None:
    e = load_hardware("h100").efficiency
    assert e.matmul_for("fp16", "fp16") is e.matmul["bf16"]
    assert e.matmul_for("int8", "int8") is e.matmul["bf16"]
    assert e.experts_for("int4", "bf16") is e.grouped_matmul["bf16-int4"]
    assert e.matmul_for("int4", "bf16").corrections is e.matmul["bf16"].corrections
    assert e.decode_for("fp8", latent=True) is e.decode_attention["latent-fp8"]
    assert load_hardware("a100").efficiency.decode_for("fp8").bandwidth > 0


def test_power_lies_between_idle_and_tdp_and_rises_with_load() -> None:
    kinds = ("compute", "memory", "attention", "widening")
    power = load_hardware("h100").power
    curve = power.curve.model_copy(update=dict.fromkeys(kinds, 0.4))
    power = power.model_copy(update={"curve": curve})
    for kind in kinds:
        low, mid, high = power.step_w({kind: np.array([0.0, 0.1, 1.0])})
        assert power.idle_w.value < low < mid < high <= power.tdp_w.value
    everything = dict.fromkeys(kinds, np.ones(1))
    assert power.step_w(everything) == power.tdp_w.value


def _own(tmp_path: Path, old: str, new: str) -> Path:
    text = (FOLDER / "h100-sxm.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_a_users_own_file(tmp_path: Path) -> None:
    path = _own(tmp_path, "value: 79.11", "value: 60")
    assert load_hardware("mine.yaml", tmp_path).memory.capacity_gib.value == 60
    path.write_text(path.read_text().replace("value: 60", "value: 61.5"))
    assert load_hardware(str(path)).memory.capacity_gib.value == 61.5


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("value: 79.11", "value: -1", "memory.capacity_gib.value: must be greater than 0, got -1"),
        ("value: 79.11", "value: .nan", "must be a finite number, got NaN"),
        ("source: torch-capacity", "source: nobody", "source 'nobody' is not a key of sources"),
        ("  devices: 8", "  devicess: 8", "node.devicess: unknown key; did you mean 'devices'"),
        ("  tdp_w:", "  tdp:", "power.tdp: unknown key; did you mean 'tdp_w' \\(watts\\)"),
        ("  bf16: {value: 989", "  bf17: {value: 989", "peak_tflops: 'bf17' is none of"),
        ("value: 70, source: nvidia-smi", "value: 700, source: nvidia-smi", "is not below tdp_w"),
        ("value: 70, source: nvidia-smi", "value: 70, source: estimate", "needs a note"),
        ("kind: nvlink", "kind: none", "kind 'none' must not have it"),
        ("kind: gpu", "kind: gpus", "kind: must be one of gpu, tpu, accelerator, cpu"),
        (
            "    bf16:\n      compute: 0",
            "    bf16:\n      compute: 1",
            "matmul.bf16.compute: must be",
        ),
        ("name: h100-sxm", "name: h100-sxm\nname: b", "key 'name' was already given on line"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    path = _own(tmp_path, old, new)
    with pytest.raises(UserError, match=sentence) as caught:
        load_hardware(str(path))
    assert str(caught.value).startswith(f"{path}:")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load_hardware("none.yaml", tmp_path)


def test_a_fit_names_its_data(tmp_path: Path) -> None:
    text = (FOLDER / "h100-sxm.yaml").read_text()
    data = yaml.safe_load(text)
    assert HardwareProfile.model_validate(data) == load_hardware("h100-sxm")
    data["efficiency"]["provenance"]["data_sha256"] = ""
    with pytest.raises(ValueError, match="a fit needs data_sha256"):
        HardwareProfile.model_validate(data)


@pytest.mark.parametrize("name", ["jetson-orin-nano-super", "apple-m4-max"])
def test_edge_devices_hold_small_models_in_four_bits(name: str) -> None:
    """One user at a time; a token takes at least the time in which the weights are read."""
    device = load_hardware(name)
    assert device.link.kind == "none"
    result = simulate(
        load_scenario("on-device-3b-jetson", [f"hardware={name}", "workload.requests=10"]),
        intervals=False,
    )
    least_ms = 1e3 * result.deployment.memory.weights_gib * 2**30 / device.bandwidth_bytes_per_s
    tpot = result.times.tpot_ms
    assert (tpot > 0.8 * least_ms).all()  # the embedding's rows are not all read
    assert (tpot < 4 * least_ms).all()


def test_four_bits_are_what_makes_room_on_a_jetson() -> None:
    with pytest.raises(DoesNotFitError):
        simulate(load_scenario("on-device-3b-jetson", ["precision.weights=bf16"]))
