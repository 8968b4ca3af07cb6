"""Generated parts of a profile's file: what stands between two marker lines."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from simulator.errors import UserError


class Markers(NamedTuple):
    """The lines around a generated part."""

    begin: str
    end: str

    def read(self, file: Path) -> str:
        """What stands between them.

        Raises:
            UserError: a marker line is missing.
        """
        return self._parts(file)[1]

    def write(self, file: Path, text: str) -> None:
        """Replace what stands between them; the rest of the file stays.

        Raises:
            UserError: a marker line is missing, or the file cannot be written.
        """
        head, _, tail = self._parts(file)
        try:
            file.write_text(f"{head}{self.begin}\n{text}{self.end}{tail}", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(file)) from None

    def _parts(self, file: Path) -> tuple[str, str, str]:
        head, begin, rest = file.read_text(encoding="utf-8").partition(self.begin + "\n")
        text, end, tail = rest.partition(self.end)
        if not (begin and end):
            raise UserError(
                "the marker lines around the generated part are missing",
                where=str(file),
                hint=f"put '{self.begin}' and '{self.end}' around it",
            )
        return head, text, tail
