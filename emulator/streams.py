"""What goes over the wire of an answer: events of a stream, and whole answers.

A stream has one event for each token. All that does not change within a stream is encoded once; of
an event, only its text is.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from emulator.answers import Answer
from emulator.replies import Choice, Reply

DONE = b"data: [DONE]\n\n"


class Format:
    """How the answers to one kind of request are written.

    Args:
        chunk: ``object`` of an event.
        whole: ``object`` of a whole answer.
        prefix: what numbers of requests begin with.
    """

    def __init__(self, chunk: str, whole: str, prefix: str) -> None:
        self.chunk = chunk
        self.whole = whole
        self.prefix = prefix


CHAT = Format("chat.completion.chunk", "chat.completion", "chatcmpl-")
TEXT = Format("text_completion", "text_completion", "cmpl-")


class Head:
    """What all events and the whole of one reply begin with.

    Args:
        form: of the answers.
        number: of the reply, without the format's prefix.
        created: seconds since 1970.
        model: as the client is told.
        prompt_tokens: of all prompts, each counted once.
        echo: prompts that answers begin with, by the answer's index; empty: they do not.
    """

    def __init__(
        self, form: Format, number: str, created: int, model: str, prompt_tokens: int,
        echo: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.form = form
        self.fields: dict[str, Any] = {"id": form.prefix + number, "object": form.chunk,
                                       "created": created, "model": model}  # fmt: skip
        self.prompt_tokens = prompt_tokens
        self.echo = echo or []

    def echoed(self, choice: Choice) -> str:
        """The text that an answer begins with."""
        return self.echo[choice.index] if self.echo else ""

    @property
    def event(self) -> str:
        """An event up to the value of ``choices``."""
        return "data: " + json.dumps(self.fields, separators=(",", ":"))[:-1] + ',"choices":'

    def usage(self, reply: Reply) -> dict[str, Any]:
        """The counts of a reply as far as it was told."""
        return self.usage_of(
            sum(choice.told for choice in reply.choices),
            sum(min(choice.told, choice.answer.thinking) for choice in reply.choices),
            reply.cached_tokens,
        )

    def usage_of(self, told: int, thinking: int, cached: int) -> dict[str, Any]:
        """Counts as OpenAI writes them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": told,
            "total_tokens": self.prompt_tokens + told,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thinking},
        }


class Events:
    """The events of one answer.

    Args:
        head: of its reply.
        choice: the answer.
        counts: with every event, how many tokens there were.
    """

    __slots__ = ("_begin", "_choice", "_counts", "_end", "_first", "_tail", "_think")

    def __init__(self, head: Head, choice: Choice, counts: bool) -> None:
        self._choice = choice
        self._counts = head.prompt_tokens if counts else -1
        answer = choice.answer
        self._end = f'"{answer.finish_reason}","stop_reason":{json.dumps(answer.stop_reason)}'
        begin = f'{head.event}[{{"index":{choice.index},'
        if head.form is CHAT:
            role = '"delta":{"role":"assistant",'
            self._begin = begin + '"delta":{"content":'
            self._think = begin + '"delta":{"reasoning_content":'
            self._first = begin + role + '"content":', begin + role + '"reasoning_content":', ""
            self._tail = '},"logprobs":null,"finish_reason":'
        else:
            self._begin = self._think = begin + '"text":'
            self._first = self._begin, self._begin, head.echoed(choice)
            self._tail = ',"logprobs":null,"finish_reason":'

    def take(self, most: int) -> str:
        """The events of tokens that have come and were not told, but not of more than ``most``; of
        thinking that the client does not get there are none."""
        choice = self._choice
        answer, told = choice.answer, choice.told
        heard = min(choice.heard, told + most)
        pieces, thinking, last = answer.pieces, answer.thinking, len(answer.pieces) - 1
        tail, events = self._tail, []
        choice.told = heard
        shown = min(thinking, last) if answer.hidden else 0
        for place in range(max(told, shown), heard):
            text = pieces[place]
            begin = self._begin if place >= thinking else self._think
            if place == shown:
                begin, text = self._opening(place, answer)
            reason = "null" if place < last else self._end
            counts = "" if self._counts < 0 else self._counted(place + 1)
            events.append(f"{begin}{quoted(text)}{tail}{reason}}}]{counts}}}\n\n")
        return events[0] if len(events) == 1 else "".join(events)

    def _opening(self, place: int, answer: Answer) -> tuple[str, str]:
        """The first event says who speaks, or repeats the prompt."""
        content, think, echo = self._first
        if place >= answer.thinking:
            return content, echo + answer.pieces[place]
        if answer.hidden:  # the answer ended while it thought
            return content, echo
        return think, echo + answer.pieces[place]

    def _counted(self, told: int) -> str:
        prompt = self._counts
        return (
            f',"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt + told},'
            f'"completion_tokens":{told}}}'
        )


def last_event(head: Head, reply: Reply) -> bytes:
    """The event with the counts."""
    usage = json.dumps(head.usage(reply), separators=(",", ":"))
    return f'{head.event}[],"usage":{usage}}}\n\n'.encode()


def whole(head: Head, reply: Reply) -> bytes:
    """An answer that is not a stream."""
    for choice in reply.choices:
        choice.told = choice.heard
    choices = [_whole_choice(head, choice) for choice in reply.choices]
    document = head.fields | {"object": head.form.whole, "choices": choices,
                              "usage": head.usage(reply)}  # fmt: skip
    return json.dumps(document, separators=(",", ":")).encode()


def _whole_choice(head: Head, choice: Choice) -> dict[str, Any]:
    answer = choice.answer
    thought = "" if answer.hidden else answer.thought
    end = {"logprobs": None, "finish_reason": answer.finish_reason,
           "stop_reason": answer.stop_reason}  # fmt: skip
    if head.form is TEXT:
        return {"index": choice.index, "text": head.echoed(choice) + thought + answer.text, **end}
    message = {"role": "assistant", "content": answer.text}
    if thought:
        message["reasoning_content"] = thought
    return {"index": choice.index, "message": message, **end}
