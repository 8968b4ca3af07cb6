"""Requests to change the protocol, which a server may ignore (RFC 9110, section 7.8).

The package ``httptools`` stops behind the head of such a request, body or not, and uvicorn goes on
as if there were none: a body that comes later would be the next request.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import httptools


class Heard(Protocol):
    """What the parser told of a request's head."""

    url: bytes
    headers: list[tuple[bytes, bytes]]


class PlainParser:
    """A parser that stays with HTTP/1.1: what asks for another protocol is parsed once more without
    the wish. The protocol takes no notice of heads and ends while ``should_upgrade``.

    Args:
        protocol: told of what is parsed.
    """

    def __init__(self, protocol: Heard) -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        parser = self._parser = httptools.HttpRequestParser(self._protocol)
        self.get_method = parser.get_method
        self.get_http_version = parser.get_http_version
        self.should_keep_alive = parser.should_keep_alive
        self.should_upgrade = parser.should_upgrade
        with suppress(AttributeError):  # as uvicorn does, where the package is new enough
            parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:
        """See ``httptools.HttpRequestParser``."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._plain_head() + data[upgrade.args[0] :]
                self._begin()

    def _plain_head(self) -> bytes:
        version = self.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.get_method(), self._protocol.url, version)]
        for name, value in self._protocol.headers:
            if name == b"connection":
                wishes = [wish.strip() for wish in value.split(b",")]
                value = b", ".join(wish for wish in wishes if wish.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])
