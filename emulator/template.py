"""Chat templates of models: Jinja text that comes with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from emulator.messages import Message
from simulator.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MOST_BYTES = 4 << 20

Render = Callable[[Sequence[Message]], str]
"""The text of a conversation, ready for the answer."""


def read_template(folder: Path) -> Render | None:
    """The chat template of a model's folder, or None if it has none.

    Raises:
        UserError: it is no such template, or the package ``jinja2`` is missing.
    """
    config = _config(folder / _CONFIG)
    file = folder / _TEMPLATE
    text = _read(file) if file.is_file() else _default(config.get("chat_template"))
    if text is None:
        return None
    where = file if file.is_file() else folder / _CONFIG
    # Templates name the marks of their model, such as bos_token.
    marks = {
        name: mark if isinstance(mark, str) else mark["content"]
        for name, mark in config.items()
        if name.endswith("_token") and (isinstance(mark, str) or _marked(mark))
    }
    return _Conversation(_compile(text, where), marks, where).render


def _default(templates: object) -> str | None:
    """Of several templates by name, the one for conversations."""
    if isinstance(templates, list):
        named = {t.get("name"): t.get("template") for t in templates if isinstance(t, dict)}
        templates = named.get("default")
    return templates if isinstance(templates, str) else None


def _marked(mark: object) -> bool:
    return isinstance(mark, dict) and isinstance(mark.get("content"), str)


def _read(file: Path) -> str:
    if file.stat().st_size > _MOST_BYTES:
        raise UserError("is too large for what it should be", where=str(file))
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(file)) from None


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=str(file)) from None
    if not isinstance(config, dict):
        raise UserError("is not the settings of a tokenizer", where=str(file))
    return config


class _Conversation:
    """A template that has been tried."""

    def __init__(self, template: Template, marks: dict[str, str], where: Path) -> None:
        self._template, self._marks = template, marks
        try:
            self.render([Message("user", "Hello")])
        except UserError as error:
            raise UserError(
                f"the chat template fails on a plain message: {error.what}",
                where=str(where),
                hint="mend it, or give the tokenizer.json alone",
            ) from None

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation.

        Raises:
            UserError: the template refuses it, as many do where roles do not alternate.
        """
        told = []
        for message in messages:
            name = {"name": message.name} if message.name else {}
            told.append({"role": message.role, "content": message.content, **name})
        try:
            return self._template.render(
                messages=told,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._marks,
            )
        except Exception as error:  # templates are programs, and any line of them may fail
            raise UserError(f"the model's chat template: {error}", where="messages") from None


def _compile(text: str, where: Path) -> Template:
    """Compiles a template in a sandbox, with what templates for the package ``transformers`` may
    use: loop controls, ``raise_exception``, ``strftime_now``, ``tojson`` and generation blocks."""
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        from emulator.template_blocks import GenerationBlock
    except ImportError:
        raise UserError(
            "the chat template needs the package jinja2",
            where=str(where),
            hint="pip install jinja2, or give the tokenizer.json alone",
        ) from None

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def as_json(value: object, **how: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **how})

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", GenerationBlock],
    )
    sandbox.filters["tojson"] = as_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda how: datetime.now().strftime(how)
    try:
        return sandbox.from_string(text)
    except jinja2.TemplateError as error:
        raise UserError(
            f"is no chat template: {error}",
            where=str(where),
            hint="mend it, or give the tokenizer.json alone",
        ) from None
