"""How tokens are counted where no tokenizer is given."""

from __future__ import annotations

import re
from collections.abc import Sequence

from emulator.messages import Message

_MARK = r"!-/:-@\[-`{-~"
_PIECES = re.compile(
    rf"[ \t{_MARK}]?[A-Za-z]{{1,7}}"
    r"|[0-9]{1,3}"
    rf"|[ \t{_MARK}]?[\u0080-\u07ff]{{1,3}}"
    rf"| ?[{_MARK}]{{1,3}}[\r\n]{{0,2}}"
    r"|[ \t\r\n]{1,8}"
    r"|[\u0800-\u1fff\u3040-\u30ff\uac00-\ud7af]{1,2}"
    r"|.",
    re.DOTALL,
)
"""Nothing looks ahead, so what a piece is depends on its own characters and those before alone. No
piece has more than 8 bytes, and one of 8 begins with an ASCII character other than NUL and DEL."""

_SPECIAL = 0x7F << 56
_SPECIAL_PIECES = ("<|im_start|>", "<|im_end|>")
_START, _END = (_SPECIAL + place for place in range(len(_SPECIAL_PIECES)))
"""No text has these numbers."""

_KNOWN = 1 << 16
"""Pieces whose numbers are kept."""


class _Numbers(dict[str, int]):
    """The number of each piece: its UTF-8 bytes, read as one."""

    def __missing__(self, piece: str) -> int:
        if len(self) >= _KNOWN:
            self.clear()
        number = self[piece] = int.from_bytes(piece.encode("utf-8", "surrogatepass"), "big")
        return number


class RuleTokenizer:
    """Cuts text by a rule that needs no file: see docs/emulator.md.

    Tokens of a text that ends where a piece ends are the first tokens of any text that goes on from
    there with another piece. Tokens are numbers below 2⁶³.
    """

    name = "rule"

    def __init__(self) -> None:
        self._numbers = _Numbers()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, in time proportional to its length."""
        return list(map(self._numbers.__getitem__, _PIECES.findall(text)))

    def piece(self, token: int) -> str:
        """The text of a token; the replacement character for numbers that are none."""
        if 0 <= token - _SPECIAL < len(_SPECIAL_PIECES):
            return _SPECIAL_PIECES[token - _SPECIAL]
        size = max(1, -(-token.bit_length() // 8))
        if size > 8:
            return "\ufffd"
        try:
            return token.to_bytes(size, "big").decode("utf-8", "surrogatepass")
        except (UnicodeDecodeError, OverflowError):
            return "\ufffd"

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that stand together: their pieces."""
        return "".join(map(self.piece, tokens))

    def prompt(self, text: str) -> list[int]:
        """Tokens of a prompt without roles: those of its text."""
        return self.encode(text)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation as ChatML writes it, ready for the answer: five a message and
        three for the answer besides those of the texts."""
        line = self.encode("\n")
        tokens: list[int] = []
        for message in messages:
            speaker = f"{message.role} {message.name}" if message.name else message.role
            tokens += [_START, *self.encode(speaker), *line, *self.encode(message.content)]
            tokens += [_END, *line]
        return [*tokens, _START, *self.encode("assistant"), *line]

    def words(self) -> list[str]:
        """Words that are one token each, if the usual ones are not: none are needed."""
        return []
