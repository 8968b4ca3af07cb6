"""Tokenizers of models, from the files that come with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.messages import Message
from emulator.template import Render, read_template
from simulator.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Cutter

_FILE = "tokenizer.json"
_MOST_BYTES = 128 << 20
"""Those of models have up to some 35 MB."""

_WORD_STARTS = "Ġ▁"
"""What vocabularies write for the space before a word."""

_HARD = "the qzx 中 \U0001f600 \u0301 " + "the" * 1000
"""What vocabularies may lack, which some tokenizers are not prepared for."""

_MOST_IDS = 1 << 32
"""The package takes no number beyond."""

_START, _END = "<|im_start|>", "<|im_end|>"


class FileTokenizer:
    """A tokenizer as the package ``tokenizers`` reads it.

    Args:
        cutter: the package's, which cuts whole texts.
        name: what is told to the user.
        render: the model's chat template, if it has one.
    """

    def __init__(self, cutter: Cutter, name: str, render: Render | None) -> None:
        self.name = name
        self._render = render
        self._cutter = cutter
        self._marks = cutter.token_to_id(_START) is not None

    def _cut(self, text: str, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            # Halves of characters that lack the other half, which the package cannot take.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # Of its ways to cut, this one is the fastest and lets other threads run.
        [cut] = self._cutter.encode_batch_fast([text], add_special_tokens=special)
        tokens: list[int] = cut.ids
        return tokens

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        return self._cut(text, special=False)

    def prompt(self, text: str) -> list[int]:
        """Tokens of a prompt without roles, with what the file adds at the beginning and the end
        (for most models one token at the beginning)."""
        return self._cut(text, special=True)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, ready for the answer: by the model's chat template, otherwise
        as ChatML writes it if the vocabulary has its marks, otherwise each message below a line
        with its role.

        Raises:
            UserError: the chat template refuses it.
        """
        if self._render is not None:
            return self.encode(self._render(messages))
        start, end = (_START, f"{_END}\n") if self._marks else ("", "\n")
        tokens: list[int] = []
        for message in messages:
            speaker = f"{message.role} {message.name}" if message.name else message.role
            tokens += self.encode(f"{start}{speaker}\n")
            tokens += self.encode(message.content)
            tokens += self.encode(end)
        return tokens + self.encode(f"{start}assistant\n")

    def piece(self, token: int) -> str:
        """The text of a token, as far as it has one by itself: pieces of some tokenizers are parts
        of characters."""
        if not 0 <= token < _MOST_IDS:
            return "\ufffd"
        text: str = self._cutter.decode([token], skip_special_tokens=False)
        return text or self._cutter.id_to_token(token) or "\ufffd"

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that stand together, which may share characters."""
        if any(not 0 <= token < _MOST_IDS for token in tokens):
            return "".join(map(self.piece, tokens))
        text: str = self._cutter.decode(list(tokens), skip_special_tokens=False)
        return text

    def words(self) -> list[str]:
        """Words of the vocabulary in plain letters, by their numbers."""
        vocabulary = self._cutter.get_vocab(with_added_tokens=False)
        bare = (word.lstrip(_WORD_STARTS) for word, _ in sorted(vocabulary.items(), key=_number))
        return list(dict.fromkeys(word for word in bare if word.isascii() and word.isalpha()))


def _number(entry: tuple[str, int]) -> int:
    return entry[1]


def read_tokenizer(path: Path) -> FileTokenizer:
    """The tokenizer of a file, or of a folder that holds one and its chat template.

    Raises:
        UserError: the package is missing, or the file is no tokenizer.
    """
    file = path / _FILE if path.is_dir() else path
    try:
        size = file.stat().st_size if file.is_file() else None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if size is None:
        raise UserError(
            "there is no such file",
            where=str(file),
            hint=f"give the {_FILE} of a model, or the folder it is in",
        )
    if size > _MOST_BYTES:
        raise UserError(
            f"is too large for a tokenizer: {size / 1e6:,.0f} MB of at most "
            f"{_MOST_BYTES / 1e6:,.0f}",
            where=str(file),
            hint=f"give the {_FILE} of a model",
        )
    try:
        from tokenizers import Tokenizer as Cutter
    except ImportError:
        raise UserError(
            "reading a tokenizer needs the package tokenizers",
            where=str(file),
            hint="pip install tokenizers, or leave the tokenizer out: tokens are then counted by "
            "rule",
        ) from None
    try:
        cutter = Cutter.from_str(file.read_text(encoding="utf-8"))
        cutter.no_truncation()
        cutter.no_padding()
        cutter.encode(_HARD)
    except Exception as error:  # the package raises this very class
        raise UserError(
            f"is no tokenizer that the package tokenizers reads ({_short(error)})",
            where=str(file),
            hint=f"give the {_FILE} of a model",
        ) from None
    return FileTokenizer(cutter, str(path), read_template(path) if path.is_dir() else None)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
