"""How large an uploaded trace may be, before and after unpacking."""

from __future__ import annotations

import zlib

from simulator import UserError

MOST_MB = 50
"""Of one file, as it is uploaded."""

MOST_UNPACKED_MB = 200

_GZIP = b"\x1f\x8b"
_READ = 1 << 20
_MOST_MEMBERS = 1_000
"""Of a gzip file, which may be several in a row."""


def check_size(called: str, content: bytes) -> None:
    """Refuses what is too much to be read.

    Args:
        called: the file's name, for messages.
        content: CSV or JSON lines, gzipped or not.

    Raises:
        UserError: it is empty, too large, or unpacks to too much.
    """
    if not content:
        raise UserError("the file is empty", where=called)
    if len(content) > MOST_MB * 1_000_000:
        raise UserError(
            f"has {len(content) / 1e6:,.0f} MB", where=called,
            hint=f"at most {MOST_MB} MB can be uploaded; gzip it, or cut out a part",
        )  # fmt: skip
    if content.startswith(_GZIP):
        _check_unpacked(content, called)


def _check_unpacked(content: bytes, called: str) -> None:
    """Unpacks, and forgets what comes out: damage and bombs are found before anything is read."""
    size, rest, members = 0, content, 0
    try:
        while rest:
            members += 1
            if members > _MOST_MEMBERS:
                raise UserError(
                    f"is more than {_MOST_MEMBERS:,} gzip files in a row", where=called,
                    hint="unpack it and gzip it once",
                )  # fmt: skip
            reader = zlib.decompressobj(wbits=31)
            while not reader.eof and (rest or reader.unconsumed_tail):
                size += len(reader.decompress(reader.unconsumed_tail or rest, _READ))
                rest = reader.unused_data
                if size > MOST_UNPACKED_MB * 1_000_000:
                    raise UserError(
                        f"unpacks to more than {MOST_UNPACKED_MB} MB", where=called,
                        hint="cut out the part to replay",
                    )  # fmt: skip
            if not reader.eof:
                raise UserError(
                    "the gzip data ends too early", where=called, hint="save the file again"
                )
            rest = rest.lstrip(b"\0")  # padding, as gzip itself allows
    except zlib.error:
        raise UserError(
            "the gzip data is damaged", where=called, hint="save the file again"
        ) from None
