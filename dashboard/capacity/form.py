"""Widgets that begin with what a plan says and remember what the user made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st


@dataclass(frozen=True)
class Form:
    """The widgets of one plan.

    Args:
        base: names what it starts from, so that each start has answers of its own.
        document: what it starts from.
    """

    base: str
    document: dict[str, Any]

    def key(self, field: str) -> str:
        """Of a widget's state."""
        return f"capacity {self.base} {field}"

    def first(self, options: Sequence[Any], wanted: Any) -> list[Any]:
        """Options with the wanted one first, as that is what a list begins with."""
        return [wanted, *(option for option in options if option != wanted)]

    def number(
        self, label: str, field: str, value: float | None, *, most: float | None = None,
        step: float | None = None, text: str = "",
    ) -> float | None:  # fmt: skip
        """A number from 0; None: left empty."""
        found = st.number_input(
            label, value=None if value is None else float(value), min_value=0.0, max_value=most,
            step=step, placeholder="any", format="%g", key=self.key(field), help=text,
            persist_state="session",
        )  # fmt: skip
        return None if found is None else float(found)

    def whole(
        self, label: str, field: str, value: int | None, *, least: int, most: int, text: str = ""
    ) -> int | None:
        """A whole number; None: left empty, which only what began empty may be."""
        found = st.number_input(
            label, value=value, min_value=least, max_value=most, step=1, key=self.key(field),
            placeholder="any", help=text, persist_state="session",
        )  # fmt: skip
        return None if found is None else int(found)

    def several(
        self, label: str, field: str, options: Sequence[Any], given: Sequence[Any] | None, *,
        text: str = "", empty: str = "",
    ) -> list[Any] | None:  # fmt: skip
        """Some of the options, which may be mappings; None: none of them.

        Args:
            label: of the widget.
            field: its name.
            options: to choose from, beside those that are given.
            given: what it begins with.
            text: what it means.
            empty: what it means to choose none.
        """
        items = {axis_word(item): item for item in [*(given or ()), *options]}
        order = list(dict.fromkeys([*map(axis_word, options), *items]))
        chosen = st.multiselect(
            label, order, default=[axis_word(item) for item in given or ()], key=self.key(field),
            help=text, placeholder=empty or "Choose", persist_state="session",
        )  # fmt: skip
        return [items[word] for word in chosen] or None

    @staticmethod
    def put(document: dict[str, Any], key: str, value: Any, default: Any = None) -> None:
        """Writes a key, or leaves it out where it would say the default."""
        if value is None or value == default:
            document.pop(key, None)
        else:
            document[key] = value


def axis_word(item: Any) -> str:
    """A value of an axis, in words: ``fp8``, ``weights fp8, kv_cache fp8``."""
    if not isinstance(item, dict):
        return str(item)
    if len(item) == 1 and next(iter(item)) in ("weights", "profile"):
        return str(next(iter(item.values())))
    return ", ".join(f"{key} {axis_word(value)}" for key, value in item.items()) or "default"
