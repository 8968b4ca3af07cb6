"""The scenarios that a session holds side by side; the address of every page has them as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlencode

import streamlit as st

from dashboard import session
from dashboard.choice import Choice
from simulator import UserError

MOST = 6
MOST_TITLE = 60
"""Letters of a name."""

WITH, TITLE = "with", "title"
"""Parameter of the address, once for each scenario, and the one inside that is its name."""

_ENTRIES = "_compared"


@dataclass(frozen=True)
class Entry:
    """One scenario of the comparison.

    Args:
        title: what the user calls it.
        choice: the scenario.
    """

    title: str
    choice: Choice

    @property
    def slot(self) -> str:
        """Names its work, whatever its place in the list and its title."""
        asked = urlencode(self.choice.to_query(), doseq=True)
        return f"compare {sha256(asked.encode()).hexdigest()[:16]}"

    def to_value(self) -> str:
        """As the address has it: parameters of an address of its own."""
        return urlencode({**self.choice.to_query(), TITLE: self.title}, doseq=True)

    @classmethod
    def from_value(cls, value: str) -> Entry:
        """What ``to_value`` gave.

        Raises:
            UserError: it is no address that this program made.
        """
        query = parse_qs(value)
        choice = Choice.from_query(query, uploads=session.uploads().folder)
        title = "".join(query.get(TITLE, ()))[:MOST_TITLE].strip()
        return cls(title or choice.name, choice)


def entries() -> tuple[Entry, ...]:
    """Those of this session; at first those that the address asks for.

    Raises:
        UserError: the address is damaged, or asks for too many, or for one twice.
    """
    if _ENTRIES not in st.session_state:
        asked = [Entry.from_value(value) for value in st.query_params.get_all(WITH)]
        if len(asked) > MOST:
            raise UserError(
                f"asks for {len(asked)} scenarios side by side", where=f"the address, {WITH}=",
                hint=f"at most {MOST}",
            )  # fmt: skip
        if len({entry.choice for entry in asked}) < len(asked):
            raise UserError("asks for the same scenario twice", where=f"the address, {WITH}=")
        _keep(asked)
    found: tuple[Entry, ...] = st.session_state[_ENTRIES]
    return found


def add(title: str, choice: Choice) -> None:
    """Puts a scenario at the end of the list.

    Raises:
        UserError: there are enough, or this one is there already; or it is wrong.
    """
    before = entries()
    there = next((entry for entry in before if entry.choice == choice), None)
    if there is not None:
        raise UserError(f"the same scenario is in the list already, as '{there.title}'")
    if len(before) >= MOST:
        raise UserError(
            f"{MOST} scenarios side by side are the most", hint="remove one to add another"
        )
    choice.scenario  # noqa: B018 - raises if it is wrong
    _keep([*before, Entry(title[:MOST_TITLE], choice)])


def remove(place: int) -> None:
    """Takes one out of the list."""
    _keep([entry for at, entry in enumerate(entries()) if at != place])


def rename(place: int, title: str) -> None:
    """Calls one something else.

    Raises:
        UserError: the name is empty.
    """
    title = title.strip()[:MOST_TITLE]
    if not title:
        raise UserError("a scenario needs a name", hint="it keeps the one it had")
    _keep([
        replace(entry, title=title) if at == place else entry
        for at, entry in enumerate(entries())
    ])  # fmt: skip


def write_address() -> None:
    """Makes the address say what the list holds."""
    values = [entry.to_value() for entry in entries()]
    if values and st.query_params.get_all(WITH) != values:
        st.query_params[WITH] = values
    elif not values and WITH in st.query_params:
        del st.query_params[WITH]


def titles(chosen: Sequence[Entry]) -> list[str]:
    """Their names, those that come again with a number."""
    found: list[str] = []
    for entry in chosen:
        title, number = entry.title, 2
        while title in found:
            title, number = f"{entry.title} ({number})", number + 1
        found.append(title)
    return found


def _keep(new: Any) -> None:
    st.session_state[_ENTRIES] = tuple(new)
