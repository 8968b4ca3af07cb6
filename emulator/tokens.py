"""Tokens of prompts: how texts become numbers, and numbers the keys of KV blocks."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from emulator.messages import Message, read_messages
from emulator.rule import RuleTokenizer

_SECRET = secrets.token_bytes(16)
"""Makes keys that no client can find two texts for. Only their equality is ever looked at."""


class Tokenizer(Protocol):
    """Turns text into tokens. Tokens are numbers from 0 to below 2⁶³.

    Attributes:
        name: what is told to the user.
    """

    name: str

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Tokens of a prompt without roles, with what the model wants at its beginning."""
        ...

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the answer begins."""
        ...

    def piece(self, token: int) -> str:
        """The text of a token; the replacement character for one that is none by itself."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens that stand together."""
        ...

    def words(self) -> list[str]:
        """Words of the vocabulary that answers may be written with, if usual ones are not in it."""
        ...


def by_rule() -> Tokenizer:
    """The tokenizer that needs no file."""
    return RuleTokenizer()


def from_file(path: Path) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``, or of a model's folder, with its chat template.

    Raises:
        UserError: it cannot be read, or the package ``tokenizers`` (for a chat template also
            ``jinja2``) is missing.
    """
    from emulator.tokenizer_file import read_tokenizer

    return read_tokenizer(path)


def chat_tokens(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> list[int]:
    """Tokens of a conversation in the shape of OpenAI's chat API, up to where the answer begins.

    Raises:
        UserError: a message is malformed, or the model's chat template refuses it; ``where`` is
            its place.
    """
    return tokenizer.chat(read_messages(messages))


def block_keys(
    tokens: Sequence[int],
    block_size: int,
    salt: str,
    known: tuple[tuple[int, int], ...] = (),
) -> tuple[tuple[int, int], ...]:
    """Keys of the full KV blocks of a text, for ``Asked.keys``.

    A block's key depends on its tokens and all before it, as vLLM chains the hashes of blocks.

    Args:
        tokens: of the prompt, or of the prompt and the answer, each from 0 to below 2⁶³.
        block_size: tokens a block, at least 1.
        salt: texts with different salts share nothing: model, adapter, tenant.
        known: keys of the first blocks, from an earlier call for the same beginning, which need
            not be computed again.

    Returns:
        (number below 2⁶³, place of the block) for each full block.

    Raises:
        OverflowError: a token is no such number.
    """
    size, first = 8 * block_size, len(known)
    packed = memoryview(array("q", tokens[first * block_size :])).cast("B")
    if known:
        number = known[-1][0]
    else:
        secret = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8, key=_SECRET)
        number = int.from_bytes(secret.digest(), "big")
    keys = list(known)
    for place in range(first, len(tokens) // block_size):
        at = (place - first) * size
        chained = blake2b(number.to_bytes(8, "big"), digest_size=8)
        chained.update(packed[at : at + size])
        number = int.from_bytes(chained.digest(), "big") >> 1
        keys.append((number, place))
    return tuple(keys)
