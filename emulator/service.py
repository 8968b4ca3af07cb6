"""What the endpoints are about: the deployment, its names, tokens, metrics, and requests on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar
from uuid import uuid4

from emulator.answers import Answer, Answers, Lengths, Wanted
from emulator.clock import Clock
from emulator.errors import ApiError, internal, leaving, wrong_value
from emulator.metrics import Metrics
from emulator.names import Names, Served, Sessions
from emulator.options import Options
from emulator.recording import Recording
from emulator.replies import Reply, Told
from emulator.schema import (
    MOST_CHOICES,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from emulator.streams import CHAT, TEXT, Head
from emulator.tokens import Tokenizer, block_keys, by_rule, chat_tokens
from simulator import UserError
from simulator.live import Asked, LiveDeployment

T = TypeVar("T")

BIG_TEXT = 1 << 16
"""Characters from which on a text is cut into tokens beside the loop, not in it."""

MOST_BYTES_A_TOKEN = 512
"""No tokenizer has longer tokens, so a prompt of more of them is too long without counting."""


@dataclass(slots=True)
class Counts:
    """Requests for answers, by how they ended."""

    served: int = 0
    cancelled: int = 0
    refused: int = 0
    failed: int = 0


class Service:
    """See the module.

    Args:
        deployment: what is served.
        options: how clients are treated.
        tokenizer: of prompts; default: by rule.
        recording: hears of every request; None: nobody does.
    """

    def __init__(
        self,
        deployment: LiveDeployment,
        options: Options | None = None,
        tokenizer: Tokenizer | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.deployment = deployment
        self.options = options or Options()
        self.tokenizer = tokenizer or by_rule()
        self.names = Names(deployment, self.options.names)
        own = self.options.names[0] if self.options.names else None
        self.metrics = Metrics(deployment, own, speed=self.options.speed)
        self.clock = Clock(deployment, self.options.speed, self.metrics.lateness)
        self.clock.on_failure = lambda: self.cut(internal())
        self.counts = Counts()
        self.leaving = False
        self.scenario_name = deployment.scenario.name
        lengths = Lengths(deployment.traffic, deployment.scenario.measurement.seed)
        self._answers = Answers(lengths, self.tokenizer)
        self._sessions = Sessions()
        self._replies: set[Reply] = set()
        self._recording = recording
        self._epoch = 0
        # By class: lengths of prompt and answer that fit together.
        self._fits: dict[int, tuple[int, int]] = {}
        self._created = int(time.time())

    # --- what it is ------------------------------------------------------------------------------

    def card(self, served: Served) -> dict[str, Any]:
        """A model as ``/v1/models`` tells of it."""
        return {
            "id": served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "servecast",
            "root": served.root,
            "parent": served.root if served.adapter >= 0 else None,
            "max_model_len": served.max_model_len,
        }

    def reset_prefix_cache(self) -> None:
        """No later request finds what earlier ones have left."""
        self._epoch += 1

    # --- requests --------------------------------------------------------------------------------

    async def chat(self, body: ChatRequest, headers: Mapping[str, str]) -> tuple[Head, Reply]:
        """A conversation goes to the deployment.

        Raises:
            ApiError: it cannot be served, with the reason.
        """
        served = self.names.find(body.model)
        tokens = await self._chat_tokens(body.messages, served)
        return self._ask(CHAT, body, served, [tokens], [], headers)

    async def complete(
        self, body: CompletionRequest, headers: Mapping[str, str]
    ) -> tuple[Head, Reply]:
        """Prompts go to the deployment; see ``chat``."""
        served = self.names.find(body.model)
        prompts = body.prompts
        if not prompts:
            raise wrong_value("There is no prompt.", "prompt")
        if len(prompts) * body.answers > MOST_CHOICES:
            raise wrong_value(
                f"There may be {MOST_CHOICES:,} answers at most to all prompts together.", "prompt"
            )
        tokens = [
            await self._prompt_tokens(each, served) if isinstance(each, str) else each
            for each in prompts
        ]
        echo = []
        if body.echo:
            echo = [each if isinstance(each, str) else self._text(each) for each in prompts]
        return self._ask(TEXT, body, served, tokens, echo, headers)

    def _ask(
        self,
        form: Any,
        body: ChatRequest | CompletionRequest,
        served: Served,
        prompts: Sequence[list[int]],
        echo: list[str],
        headers: Mapping[str, str],
    ) -> tuple[Head, Reply]:
        if self.leaving:
            raise leaving()
        if self.clock.failure is not None:
            raise internal()
        class_id = self.names.class_of(served, headers.get("x-traffic-class"))
        session = self._sessions.number(headers.get("x-session-id") or body.user)
        requests: list[tuple[Asked, Answer]] = []
        for prompt in prompts:
            requests += self._asked(body, served, prompt, class_id, session)
        count = sum(len(prompt) for prompt in prompts)
        number, created = headers.get("x-request-id") or uuid4().hex, int(time.time())
        each = body.answers
        echoes = [text for text in echo for _ in range(each)]
        head = Head(form, number[:128], created, served.name, count, echoes)
        reply = Reply(self.clock, bool(body.stream), lambda told: self._ended(told, body))
        self._replies.add(reply)
        try:
            reply.send(requests)
        except RuntimeError:
            self._replies.discard(reply)
            raise internal() from None
        if self._recording is not None:
            for asked, _ in requests:
                self._recording.sent(self.deployment.now_s, asked)
        return head, reply

    def _asked(
        self,
        body: ChatRequest | CompletionRequest,
        served: Served,
        prompt: list[int],
        class_id: int,
        session: int,
    ) -> list[tuple[Asked, Answer]]:
        """A prompt's answers as the deployment is asked for them."""
        if body.truncate_prompt_tokens is not None:
            prompt = prompt[-body.truncate_prompt_tokens :]
        room = self._room(body, served, len(prompt))
        wanted = Wanted(body.most_tokens, body.min_tokens or 0, bool(body.ignore_eos), body.stops,
                        body.seed)  # fmt: skip
        size, salt = self.deployment.block_size, ""
        if size:
            salt = f"{self._epoch} {served.root} {served.adapter} {body.cache_salt or ''}"
        known = block_keys(prompt, size, salt) if size else ()
        found = []
        answers = self._answers.to(
            prompt, wanted, room=room, class_id=class_id, answers=body.answers,
            chat=isinstance(body, ChatRequest),
        )  # fmt: skip
        for place, answer in enumerate(answers):
            tokens = len(answer.pieces)
            asked = Asked(
                len(prompt), tokens, class_id, session, served.adapter,
                block_keys(prompt + answer.tokens, size, salt, known) if size else None,
                place > 0 and self.deployment.several_answers,
            )  # fmt: skip
            self._check(asked)
            found.append((asked, answer))
        return found

    def _room(
        self, body: ChatRequest | CompletionRequest, served: Served, prompt_tokens: int
    ) -> int:
        """Tokens that an answer may have.

        Raises:
            ApiError: none, or fewer than asked for.
        """
        param = "messages" if isinstance(body, ChatRequest) else "prompt"
        if prompt_tokens == 0:
            raise wrong_value("The prompt has no tokens.", param)
        most, wanted = served.max_model_len, max(body.most_tokens or 1, body.min_tokens or 1)
        if prompt_tokens + wanted > most:
            raise too_long(
                f"The model's context is {most:,} tokens, and you asked for {prompt_tokens:,} in"
                f" the {param} and {wanted:,} in the answer. Ask for less.", param,
            )  # fmt: skip
        return most - prompt_tokens

    def _check(self, asked: Asked) -> None:
        """Raises an ApiError if a request can never be served.

        What is smaller than something that fits, fits as well.
        """
        prompt, answer = self._fits.get(asked.class_id, (0, 0))
        if asked.input_tokens <= prompt and asked.output_tokens <= answer:
            return
        try:
            self.deployment.check(asked)
        except UserError as error:
            raise too_long(f"{error}.", None) from None
        both = max(asked.input_tokens, prompt), max(asked.output_tokens, answer)
        with suppress(UserError):
            self.deployment.check(Asked(*both, asked.class_id))
            self._fits[asked.class_id] = both

    def _ended(self, told: Told, body: ChatRequest | CompletionRequest) -> None:
        self.metrics.ended(told.ending, told.finish_reason, max_tokens=body.most_tokens)

    def closed(self, reply: Reply, answers: int) -> None:
        """A reply's client has been told all, or is gone; so many answers were to each prompt."""
        self._replies.discard(reply)
        endings = [choice.ending for choice in reply.choices if choice.ending is not None]
        for first in range(0, len(endings), answers):
            some = endings[first : first + answers]
            if all(ending.outcome == "completed" for ending in some):
                longest = max(ending.output_tokens for ending in some)
                self.metrics.answered(some[0].replica, len(some), longest)
        if reply.gone:
            self.counts.cancelled += 1
        elif reply.error is None:
            self.counts.served += 1
        elif reply.error.status == 429:
            self.counts.refused += 1
        else:
            self.counts.failed += 1

    def cut(self, error: ApiError) -> None:
        """All answers under way end with this."""
        for reply in list(self._replies):
            reply.fail(error)

    # --- tokens ----------------------------------------------------------------------------------

    async def _chat_tokens(self, messages: list[dict[str, Any]], served: Served) -> list[int]:
        size = sum(len(str(message.get("content") or "")) for message in messages)
        self._check_size(size, served, "messages")
        try:
            return await _beside(size, chat_tokens, messages, self.tokenizer)
        except UserError as error:
            raise wrong_value(str(error), error.where or "messages") from None

    async def _prompt_tokens(self, text: str, served: Served) -> list[int]:
        self._check_size(len(text), served, "prompt")
        return await _beside(len(text), self.tokenizer.prompt, text)

    @staticmethod
    def _check_size(size: int, served: Served, param: str) -> None:
        least = ceil(size / MOST_BYTES_A_TOKEN)
        if least > served.max_model_len:
            raise too_long(
                f"The model's context is {served.max_model_len:,} tokens, and the {param} has at"
                f" least {least:,}.", param,
            )  # fmt: skip

    def _text(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.tokenizer.piece, tokens))

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """See vLLM's endpoint of that name."""
        served = self.names.find(body.model)
        if body.messages is not None:
            tokens = await self._chat_tokens(body.messages, served)
        else:
            tokens = await self._prompt_tokens(body.prompt or "", served)
        pieces = list(map(self.tokenizer.piece, tokens)) if body.return_token_strs else None
        return {
            "count": len(tokens),
            "max_model_len": served.max_model_len,
            "tokens": tokens,
            "token_strs": pieces,
        }

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, Any]:
        """See vLLM's endpoint of that name."""
        self.names.find(body.model)
        return {"prompt": await _beside(len(body.tokens), self._text, body.tokens)}


def too_long(message: str, param: str | None) -> ApiError:
    """A request that can never fit."""
    return ApiError(400, message, "context_length_exceeded", param)


async def _beside(size: int, work: Callable[..., T], *args: Any) -> T:
    """Work on a text: at once if it is short, beside the loop if it is long."""
    if size < BIG_TEXT:
        return work(*args)
    return await asyncio.to_thread(work, *args)
