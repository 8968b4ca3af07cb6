"""Compiles every kernel without a GPU and says what came out.

``python -m calibration.kernels.gpu.compiled [--arch 80 90 100] [--few] [--json]``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import triton
from triton.backends.compiler import GPUTarget

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

    from calibration.kernels.gpu.specialization import Specialization

MODULES = (
    "norms",
    "rotary",
    "decode_attention",
    "prefill_attention",
    "activation",
    "matmul",
    "experts",
    "sampling",
)
ARCHITECTURES = (80, 90, 100)
FP8_FROM = 89
"""The first architecture that converts to and from e4m3."""
INSTRUCTIONS = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": "mma.sync"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel as compiled for one architecture.

    ``shared_bytes`` a program; ``registers`` and ``stack_bytes`` (of spilled registers) a thread,
    None where Triton brings no cuobjdump along; ``matrix``: the kinds of matrix instructions among
    ``INSTRUCTIONS``.
    """

    name: str
    arch: int
    num_warps: int
    uses_matrix_units: bool
    shared_bytes: int
    registers: int | None
    stack_bytes: int | None
    matrix: tuple[str, ...]


def specializations() -> Iterator[Specialization]:
    """Those of all modules."""
    for name in MODULES:
        yield from import_module(f"calibration.kernels.gpu.{name}").specializations()


def representatives() -> Iterator[Specialization]:
    """One of each kernel and types of arguments, of all modules: the last; with matrix units the
    first, too."""
    kinds: dict[object, list[Specialization]] = {}
    for kernel in specializations():
        kind = (kernel.kernel, tuple(sorted(kernel.signature.items())))
        kinds.setdefault(kind, []).append(kernel)
    for same in kinds.values():
        if same[0].uses_matrix_units and len(same) > 1:
            yield same[0]
        yield same[-1]


def check(arch: int, kernels: Iterable[Specialization] | None = None) -> list[Compiled]:
    """Compiles ``kernels``, all by default, for ``sm_<arch>``. Those with e4m3 are left out where
    the architecture has none.

    Raises:
        RuntimeError: kernels are interpreted in this process.
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: there is nothing to compile")
    chosen = [
        kernel
        for kernel in (specializations() if kernels is None else kernels)
        if arch >= FP8_FROM or "*fp8e4nv" not in kernel.signature.values()
    ]
    return [_compile(kernel, arch) for kernel in chosen]


def _compile(kernel: Specialization, arch: int) -> Compiled:
    target = GPUTarget("cuda", arch, 32)
    result = triton.compile(kernel.source(), target=target, options=kernel.options())
    ptx = result.asm["ptx"]
    registers, stack = _resources(result)
    return Compiled(
        kernel.name, arch, result.metadata.num_warps, kernel.uses_matrix_units,
        result.metadata.shared, registers, stack,
        tuple(name for name, mnemonic in INSTRUCTIONS.items() if mnemonic in ptx),
    )  # fmt: skip


def _resources(result: CompiledKernel) -> tuple[int | None, int | None]:
    """Registers and bytes of stack a thread."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (None, None)


def main() -> None:
    """Prints a row, or an object, for each kernel and architecture."""
    parser = argparse.ArgumentParser(description="Compiles every kernel without a GPU.")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--json", action="store_true", help="objects, one a line")
    parser.add_argument("--few", action="store_true", help="one or two of each kernel")
    chosen = parser.parse_args()
    if not chosen.json:
        sys.stdout.write(_ROW.format("", "sm", "warps", "shared", "regs", "stack", "matrix"))
    for arch in chosen.arch:
        for kernel in check(arch, representatives() if chosen.few else None):
            sys.stdout.write(json.dumps(asdict(kernel)) + "\n" if chosen.json else _row(kernel))


_ROW = "{:34} {:>4} {:>5} {:>8} {:>5} {:>6}  {}\n"


def _row(kernel: Compiled) -> str:
    return _ROW.format(
        kernel.name, kernel.arch, kernel.num_warps, kernel.shared_bytes,
        *("?" if number is None else number for number in (kernel.registers, kernel.stack_bytes)),
        " ".join(kernel.matrix) or "none",
    )  # fmt: skip


if __name__ == "__main__":
    main()
