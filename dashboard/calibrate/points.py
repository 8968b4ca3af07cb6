"""Files of measured points: the shipped ones, and those of a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.validate import Dataset, read_dataset, sample_file
from dashboard.uploads import Uploads
from simulator import UserError

MOST_MB = 2
"""Of an uploaded file."""

MOST_ROWS = 2000
"""Of an uploaded file."""


@dataclass(frozen=True)
class Points:
    """A file of measured points.

    Args:
        file: where it is.
        own: somebody uploaded it; its cells may name no files.
        key: equal for equal files of equal sessions.
    """

    file: Path
    own: bool
    key: str

    def read(self) -> Dataset:
        """What it holds.

        Raises:
            UserError: something in it is wrong; the file is called as the user calls it.
        """
        try:
            dataset = read_dataset(self.file, files=not self.own)
        except UserError as error:
            raise self.told(error) from None
        rows = len(dataset.points) + len(dataset.skipped)
        if self.own and rows > MOST_ROWS:
            raise UserError(
                f"has {rows:,} rows, and {MOST_ROWS:,} are the most here", where=self.file.name,
                hint="`simulate validate FILE` takes any number",
            )  # fmt: skip
        return dataset

    def told(self, error: UserError) -> UserError:
        """The same error without the server's folder."""
        if not self.own:
            return error
        folder = f"{self.file.parent}/"
        return UserError(
            error.what.replace(folder, ""), where=error.where.replace(folder, ""),
            hint=error.hint.replace(folder, ""),
        )  # fmt: skip


def shipped(name: str) -> Points:
    """One of the shipped files."""
    return Points(sample_file(name), own=False, key=name)


def uploaded(name: str, content: bytes, uploads: Uploads) -> Points:
    """Keeps an uploaded file.

    Args:
        name: as the user calls it.
        content: of the file.
        uploads: of the session.

    Raises:
        UserError: it is too large, or all of the session's uploads are.
    """
    name = name.removesuffix(".csv") + ".csv"
    if len(content) > MOST_MB * 1_000_000:
        raise UserError(
            f"is larger than {MOST_MB} MB", where=name,
            hint="`simulate validate FILE` takes files of any size",
        )  # fmt: skip
    file = uploads.keep(name, content)
    return Points(file, own=True, key=str(file))
