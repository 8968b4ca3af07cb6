"""The bodies of requests: which fields there are, and what becomes of each."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from emulator.errors import ApiError, not_emulated, wrong_value

MOST_ANSWERS = 128
"""Answers to one prompt."""

MOST_CHOICES = 1024
"""Answers to all prompts of a request."""

_NEUTRAL = """
temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty length_penalty
logit_bias bad_words allowed_token_ids skip_special_tokens spaces_between_special_tokens
logits_processors prompt_cache_key prompt_cache_retention safety_identifier service_tier store
metadata request_id return_tokens_as_token_ids include_reasoning parallel_tool_calls verbosity
truncation_side
"""

NEUTRAL = frozenset(_NEUTRAL.split())
"""They choose among tokens, or are about things that an emulator does not have: taken, and the
answer is the same."""

REFUSED = {
    "logprobs": "there are no logits",
    "top_logprobs": "there are no logits",
    "prompt_logprobs": "there are no logits",
    "tools": "answers are made-up text and call nothing",
    "tool_choice": "answers are made-up text and call nothing",
    "functions": "answers are made-up text and call nothing",
    "function_call": "answers are made-up text and call nothing",
    "response_format": "answers are made-up text of no format",
    "structured_outputs": "answers are made-up text of no format",
    "guided_json": "answers are made-up text of no format",
    "guided_regex": "answers are made-up text of no format",
    "guided_choice": "answers are made-up text of no format",
    "guided_grammar": "answers are made-up text of no format",
    "audio": "there is only text",
    "modalities": "there is only text",
    "mm_processor_kwargs": "there is only text",
    "prediction": "the scenario says how many drafted tokens are accepted (engine.speculative)",
    "reasoning_effort": "the scenario says how long models think",
    "thinking_token_budget": "the scenario says how long models think",
    "suffix": "the models of scenarios only go on with a text",
    "use_beam_search": "engines are simulated with sampling",
    "stop_token_ids": "answers are made-up text whose tokens mean nothing",
    "include_stop_str_in_output": "stop sequences are left out of answers",
    "priority": "the scenario gives priorities to traffic classes; name one by X-Traffic-Class",
    "return_token_ids": "tokens are not returned",
    "kv_transfer_params": "the scenario says where KV blocks go",
    "documents": "there are no chat templates",
    "chat_template": "there are no chat templates",
    "chat_template_kwargs": "there are no chat templates",
    "web_search_options": "nothing is searched",
    "vllm_xargs": "they belong to extensions of vLLM",
    "prompt_embeds": "there are no weights",
}
"""They would change what an answer is; why that cannot be had."""

MEANS_NOTHING: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "use_beam_search": (False,),
    "suffix": ("",),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "priority": (0,),
    "return_token_ids": (False,),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "vllm_xargs": ({},),
}
"""Values with which they ask for nothing."""

Count = Annotated[int, Field(ge=1, le=1 << 40)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 63)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]

# What is wrong with the first of millions is enough: each complaint takes 100 times the memory of
# what it is about.
Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[TokenId], Field(fail_fast=True)]
Prompts = Annotated[list[Tokens], Field(fail_fast=True)]
Messages = Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]


class _Body(BaseModel):
    """Fields that are not given and fields that are null are the same."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str | None = None


class StreamOptions(BaseModel):
    """What a stream tells besides its tokens."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Generation(_Body):
    """What both kinds of requests have."""

    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0, le=1 << 40)] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=64, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    user: str | None = None
    cache_salt: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None

    @property
    def most_tokens(self) -> int | None:
        """Tokens that an answer may have at most, thinking included; None: not said."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop sequences."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def answers(self) -> int:
        """To each prompt."""
        return self.n or 1

    @property
    def usage_at_end(self) -> bool:
        """A last event with the counts is wanted."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_always(self) -> bool:
        """Counts with every event are wanted."""
        return self.usage_at_end and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def check(self) -> None:
        """Raises an ApiError if fields contradict one another, or ask for what cannot be."""
        if self.stream_options is not None and not self.stream:
            raise wrong_value(
                "Stream options can only be given with stream: true.", "stream_options"
            )
        if self.best_of is not None and self.best_of != self.answers:
            raise not_emulated("best_of", "answers have no likelihood; give n")
        if self.most_tokens is not None and (self.min_tokens or 0) > self.most_tokens:
            raise wrong_value("min_tokens is more than max_tokens.", "min_tokens")
        _check_extra(self)


class CompletionRequest(_Generation):
    """``POST /v1/completions``."""

    prompt: str | Texts | Tokens | Prompts
    echo: bool | None = None
    add_special_tokens: bool | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Each a text or its tokens; at least one, none of them empty lists."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return cast("list[list[int]]", [prompt])
        return cast("list[str] | list[list[int]]", prompt)


class ChatRequest(_Generation):
    """``POST /v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: Count | None = None
    echo: Literal[False] | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None
    add_special_tokens: bool | None = None

    @property
    def most_tokens(self) -> int | None:
        """See ``_Generation``; the newer name counts if both are given."""
        return self.max_completion_tokens or self.max_tokens


class TokenizeRequest(_Body):
    """``POST /tokenize``: a prompt or a chat."""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raises an ApiError unless there is one of both."""
        if (self.prompt is None) == (self.messages is None):
            raise wrong_value("Give either prompt or messages.", "prompt")
        _check_extra(self)


class DetokenizeRequest(_Body):
    """``POST /detokenize``."""

    tokens: Tokens

    def check(self) -> None:
        """Raises an ApiError if there are other fields."""
        _check_extra(self)


def _check_extra(body: _Body) -> None:
    """Fields that are not in the models: known and neutral, known and refused, or unknown."""
    for name, value in (body.model_extra or {}).items():
        if value is None or name in NEUTRAL:
            continue
        if name not in REFUSED:
            raise ApiError(
                400, f"Unrecognized request argument supplied: {name[:200]}",
                "unknown_parameter", name[:200],
            )  # fmt: skip
        if not any(value == nothing and type(value) is type(nothing)
                   for nothing in MEANS_NOTHING.get(name, ())):  # fmt: skip
            raise not_emulated(name, REFUSED[name])


B = TypeVar("B", CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest)


def parse(kind: type[B], body: bytes) -> B:
    """The request in a body.

    Raises:
        ApiError: it is not JSON, or not such a request.
    """
    try:
        document = json.loads(body, parse_constant=_no_number)
        if b"\\ud" in body.lower():  # halves of characters that may lack the other half
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiError(400, "The body is nested too deep.", "invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", "invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, "The body must be a JSON object.", "invalid_json")
    try:
        request = kind.model_validate(document)
    except ValidationError as error:
        raise _told(error.errors(include_url=False, include_input=False)) from None
    request.check()
    return request


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _told(errors: list[ErrorDetails]) -> ApiError:
    """Of all that is wrong, what is told first; unions tell one for each of their kinds."""
    first = errors[0]
    field = str(first["loc"][0]) if first["loc"] else None
    same = [each for each in errors if each["loc"][:1] == first["loc"][:1]]
    # The deepest complaint is about the kind that the client meant.
    meant = max(same, key=lambda each: len(each["loc"]))
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    if "_type" in first["type"]:
        code = "invalid_type"
    place = ".".join(
        str(step) for step in meant["loc"]
        if isinstance(step, int) or step.isidentifier()
    )  # fmt: skip
    return ApiError(400, f"{place or 'body'}: {meant['msg']}", code, field)
