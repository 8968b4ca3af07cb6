"""The messages of a conversation, as clients send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.errors import UserError

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and the key of it."""


_LONGEST_NAME = 256
"""Characters of a role or a name."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Args:
        role: who speaks.
        content: what is said, all parts together.
        name: of the speaker, if there are several with that role.
    """

    role: str
    content: str
    name: str = ""


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages in the shape of OpenAI's chat API: text, or parts of it.

    Raises:
        UserError: one is something else; ``where`` is its place.
    """
    return [_read(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _read(message: Mapping[str, Any], where: str) -> Message:
    role, name = message.get("role"), message.get("name")
    if not isinstance(role, str) or not role:
        raise UserError("a message needs a role", where=f"{where}.role", hint='such as "user"')
    if name is not None and not isinstance(name, str):
        raise UserError("a name is a string", where=f"{where}.name")
    if len(role) > _LONGEST_NAME or len(name or "") > _LONGEST_NAME:
        raise UserError(f"roles and names have {_LONGEST_NAME} characters at most", where=where)
    content = message.get("content")
    if not isinstance(content, str):
        content = _joined(content, f"{where}.content")
    return Message(role, content, name or "")


def _joined(content: object, where: str) -> str:
    if content is None:
        return ""
    if not isinstance(content, (list, tuple)):
        raise UserError("a content is a string or a list of parts", where=where)
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get(_TEXTS.get(str(kind), "")) if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise UserError(
                f"a part of type {str(kind)[:40]!r} is no text",
                where=f"{where}[{place}]",
                hint='give {"type": "text", "text": "..."}',
            )
        texts.append(text)
    return "".join(texts)
