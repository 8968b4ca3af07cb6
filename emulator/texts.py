"""Texts of requests as tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, TypeVar

from emulator.errors import too_long, wrong_value
from emulator.names import Names, Served
from emulator.rule import RuleTokenizer
from emulator.schema import DetokenizeRequest, TokenizeRequest
from emulator.tokens import Tokenizer, by_rule, chat_tokens
from simulator import UserError

T = TypeVar("T")

BIG = 1 << 16
"""Characters from which on a text is cut into tokens beside the loop, not in it."""

LONGEST_BY_RULE, LONGEST = 8, 512
"""Characters of a token, at most; so a prompt of many more is too long without counting."""


class Texts:
    """See the module.

    Args:
        names: of the models.
        tokenizer: of prompts; default: by rule.
    """

    def __init__(self, names: Names, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer or by_rule()
        self._names = names
        by_rule_ = isinstance(self.tokenizer, RuleTokenizer)
        self._longest = LONGEST_BY_RULE if by_rule_ else LONGEST

    async def chat(self, messages: list[dict[str, Any]], served: Served) -> list[int]:
        """Tokens of a conversation.

        Raises:
            ApiError: it is malformed, or far too long.
        """
        size = sum(len(str(message.get("content") or "")) for message in messages)
        self._check(max(size, self._longest * len(messages)), served, "messages")
        try:
            return await _beside(size, chat_tokens, messages, self.tokenizer)
        except UserError as error:
            raise wrong_value(f"{error}.", "messages") from None

    async def prompt(self, text: str, served: Served) -> list[int]:
        """Tokens of a prompt without roles; see ``chat``."""
        self._check(len(text), served, "prompt")
        return await _beside(len(text), self.tokenizer.prompt, text)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return "".join(map(self.tokenizer.piece, tokens))

    def _check(self, size: int, served: Served, param: str) -> None:
        least = ceil(size / self._longest)
        if least > served.max_model_len:
            raise too_long(
                f"The model's context is {served.max_model_len:,} tokens, and the {param} has at"
                f" least {least:,}.", param,
            )  # fmt: skip

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """See vLLM's endpoint of that name."""
        served = self._names.find(body.model)
        if body.messages is not None:
            tokens = await self.chat(body.messages, served)
        else:
            tokens = await self.prompt(body.prompt or "", served)
        pieces = list(map(self.tokenizer.piece, tokens)) if body.return_token_strs else None
        return {
            "count": len(tokens),
            "max_model_len": served.max_model_len,
            "tokens": tokens,
            "token_strs": pieces,
        }

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, Any]:
        """See vLLM's endpoint of that name."""
        self._names.find(body.model)
        return {"prompt": await _beside(len(body.tokens), self.text, body.tokens)}


async def _beside(size: int, work: Callable[..., T], *args: Any) -> T:
    """Work on a text: at once if it is short, beside the loop if it is long."""
    if size < BIG:
        return work(*args)
    return await asyncio.to_thread(work, *args)
