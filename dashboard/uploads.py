"""Files that the user of one session sent: a folder that goes when the session does."""

from __future__ import annotations

import re
import shutil
import weakref
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from simulator import UserError

MOST_BYTES = 200_000_000
"""Of all uploads of a session together."""


class Uploads:
    """The folder; it is removed when nobody holds this object any more, or at the end.

    Attributes:
        folder: where the files are.
    """

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="servecast-")).resolve()
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def keep(self, name: str, data: bytes) -> Path:
        """Writes a file; equal contents under the same name once.

        Args:
            name: what the user calls it; no more than its last part, in plain letters, is kept.
            data: its contents.

        Raises:
            UserError: all files together would be too large.
        """
        path = self.folder / sha256(data).hexdigest()[:12] / _plain(name)
        if path.exists():
            return path
        before = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if before + len(data) > MOST_BYTES:
            raise UserError(
                f"all uploads together may hold {MOST_BYTES // 1_000_000} MB", where=name,
                hint="open a new tab, or send a part of the file",
            )  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path


def _plain(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip(".-")[-100:] or "upload"
