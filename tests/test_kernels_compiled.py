"""Every kernel compiled for the GPUs it has to run on, none of which is needed for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tests.triton_support  # noqa: F401  # before kernels, which the last test imports here

ROOT = Path(__file__).parents[1]
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes a program may have."""


def run(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("arch", SHARED_LIMITS)
def test_kernels_fit_and_use_the_matrix_units(arch: int, tmp_path: Path) -> None:
    command = ("-m", "calibration.kernels.gpu.compiled", "--arch", str(arch), "--few", "--json")
    said = run(tmp_path, *command).stdout
    kernels = [SimpleNamespace(**json.loads(line)) for line in said.splitlines()]
    assert {kernel.arch for kernel in kernels} == {arch}
    for kernel in kernels:
        assert kernel.shared_bytes <= SHARED_LIMITS[arch], kernel
        assert kernel.registers is None or kernel.registers <= 255, kernel
        assert bool(kernel.matrix) == kernel.uses_matrix_units, kernel
    names = {kernel.name.split()[0] for kernel in kernels}
    assert {"product", "experts", "route", "decode", "prefill"} <= names
    assert {"rms_norm", "qk_norm", "rope_kv_write", "silu_mul", "sample"} <= names
    assert any("fp8" in kernel.name for kernel in kernels) == (arch > 80)
    expected = {80: "mma", 90: "wgmma", 100: "tcgen05"}[arch]
    for name in ("prefill", "product", "experts"):
        large = [kernel for kernel in kernels if kernel.name.split()[0] == name]
        assert any(kernel.matrix == [expected] for kernel in large), name
    for kernel in kernels:
        if kernel.name.startswith(("product", "experts")):
            assert "128x128" not in kernel.name or kernel.matrix == [expected], kernel
            assert not kernel.stack_bytes or kernel.stack_bytes <= 32, kernel


def test_a_table_by_default(tmp_path: Path) -> None:
    code = (
        "import sys; from calibration.kernels.gpu import activation, compiled;"
        "compiled.representatives = activation.specializations; compiled.main()"
    )
    lines = run(tmp_path, "-c", code, "--arch", "80", "90", "--few").stdout.splitlines()
    assert lines[0].split() == ["sm", "warps", "shared", "regs", "stack", "matrix"]
    rows = [line.split() for line in lines[1:]]
    assert [row[:4] for row in rows] == [["silu_mul", arch, "4", "0"] for arch in ("80", "90")]
    assert {row[6] for row in rows} == {"none"}


def test_interpreted_kernels_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from calibration.kernels.gpu import compiled

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET is set: there is nothing to compile"):
        compiled.check(90, [])
