"""What a request asks of the deployment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from emulator.answers import Answer, Answers, Lengths, Wanted
from emulator.errors import too_long, wrong_value
from emulator.names import Served
from emulator.schema import ChatRequest, CompletionRequest
from emulator.tokens import Tokenizer, block_keys
from simulator import UserError
from simulator.live import Asked, LiveDeployment

MOST_TOKENS = 1 << 20
"""Of all prompts and answers of a request together, each answer with its prompt, unless the model's
context is longer: they are made at once."""


class Asking:
    """See the module.

    Args:
        deployment: which is asked.
        tokenizer: of prompts and answers.
    """

    def __init__(self, deployment: LiveDeployment, tokenizer: Tokenizer) -> None:
        self._deployment = deployment
        lengths = Lengths(deployment.traffic, deployment.scenario.measurement.seed)
        self._answers = Answers(lengths, tokenizer)
        self._epoch = 0
        # By class: lengths of prompt and answer that fit together.
        self._fits: dict[int, tuple[int, int]] = {}

    def forget_prefixes(self) -> None:
        """No later request finds what earlier ones have left."""
        self._epoch += 1

    def requests(
        self,
        body: ChatRequest | CompletionRequest,
        served: Served,
        prompts: Sequence[list[int]],
        class_id: int,
        session: int,
    ) -> list[tuple[Asked, Answer]]:
        """All answers to all prompts, those to the same prompt one after the other.

        Raises:
            ApiError: one of them can never be served, or it is too much for one request.
        """
        self._check_lengths(body, served, prompts)
        found = []
        for prompt in prompts:
            found += self._answers_to(body, served, prompt, class_id, session)
        return found

    @staticmethod
    def _check_lengths(
        body: ChatRequest | CompletionRequest, served: Served, prompts: Sequence[list[int]]
    ) -> None:
        param = "messages" if isinstance(body, ChatRequest) else "prompt"
        most, wanted = served.max_model_len, max(body.most_tokens or 1, body.min_tokens or 1)
        total = 0
        for prompt in prompts:
            if not prompt:
                raise wrong_value("The prompt has no tokens.", param)
            if len(prompt) + wanted > most:
                raise too_long(
                    f"The model's context is {most:,} tokens, and you asked for {len(prompt):,} in"
                    f" the {param} and {wanted:,} in the answer. Ask for less.", param,
                )  # fmt: skip
            least = body.min_tokens or 1
            if body.ignore_eos:
                least = body.most_tokens or most - len(prompt)
            total += body.answers * (len(prompt) + least)
        if total > max(MOST_TOKENS, most):
            raise wrong_value(
                f"All answers with their prompts have {total:,} tokens; a request may ask for"
                f" {max(MOST_TOKENS, most):,}.", "n" if body.answers > 1 else param,
            )  # fmt: skip

    def _answers_to(
        self,
        body: ChatRequest | CompletionRequest,
        served: Served,
        prompt: list[int],
        class_id: int,
        session: int,
    ) -> list[tuple[Asked, Answer]]:
        """A prompt's answers as the deployment is asked for them."""
        room = served.max_model_len - len(prompt)
        wanted = Wanted(body.most_tokens, body.min_tokens or 0, bool(body.ignore_eos), body.stops,
                        body.seed)  # fmt: skip
        size, salt = self._deployment.block_size, ""
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
                place > 0 and self._deployment.several_answers,
            )  # fmt: skip
            self._check(asked)
            found.append((asked, answer))
        return found

    def _check(self, asked: Asked) -> None:
        """Raises an ApiError if a request can never be served.

        What is smaller than something that fits, fits as well.
        """
        prompt, answer = self._fits.get(asked.class_id, (0, 0))
        if asked.input_tokens <= prompt and asked.output_tokens <= answer:
            return
        try:
            self._deployment.check(asked)
        except UserError as error:
            raise too_long(f"{error}.", None) from None
        both = max(asked.input_tokens, prompt), max(asked.output_tokens, answer)
        with suppress(UserError):
            self._deployment.check(Asked(*both, asked.class_id))
            self._fits[asked.class_id] = both
