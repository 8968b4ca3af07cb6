"""What a kernel is compiled for, said without a GPU: a check can then compile all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction


@dataclass(frozen=True, slots=True)
class Specialization:
    """One way in which a kernel is launched.

    ``signature`` gives each argument that is no constant its Triton type (``*bf16``, ``i32``,
    ``fp32``); ``multiples_of_16`` names the integers among them that are taken to be such (all
    pointers are), as the launcher would find out; ``uses_matrix_units`` says that the compiled code
    must contain matrix instructions.
    """

    name: str
    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, object]
    num_warps: int = 4
    num_stages: int = 3
    uses_matrix_units: bool = False
    multiples_of_16: tuple[str, ...] = ()

    def source(self) -> ASTSource:
        """For ``triton.compile``, with the alignments that wide and asynchronous loads need."""
        known = dict(self.signature) | dict.fromkeys(self.constants, "constexpr")
        names = self.kernel.arg_names
        ordered = {name: known[name] for name in names}
        aligned = [
            (place,)
            for place, name in enumerate(names)
            if ordered[name].startswith("*") or name in self.multiples_of_16
        ]
        return ASTSource(
            self.kernel,
            ordered,
            self.constants,
            {place: [["tt.divisibility", 16]] for place in aligned},
        )

    def options(self) -> dict[str, int]:
        """The options of ``triton.compile``."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}
