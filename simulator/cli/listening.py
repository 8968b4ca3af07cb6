"""Where servers listen: on a socket that is bound first, so that what is wrong with the address is
told in a sentence."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from simulator.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that nobody but this machine reaches."""

OWN_NAMES = frozenset({*LOOPBACK, "[::1]"})
"""How they are called in the address of a page."""

PORTS_TRIED = 20
"""So many that follow are looked at for a free one."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: there is no such address, it is no address of this machine, or it is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UserError(
            f"there is no address '{host}'", where="--host",
            hint="127.0.0.1 is this machine alone, 0.0.0.0 every address of it",
        ) from None  # fmt: skip
    family, kind, protocol, _, address = sorted(found, key=lambda one: one[0] != socket.AF_INET)[0]
    try:
        return _bound(family, kind, protocol, address)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"'{host}' is no address of this machine", where="--host") from None
        if error.errno == errno.EACCES:
            raise UserError(
                f"port {port} is not open to this user", where="--port", hint="1024 and above are"
            ) from None
        if error.errno != errno.EADDRINUSE:
            raise UserError(f"cannot listen on {host}: {error.strerror}", where="--host") from None
    for other in range(port + 1, min(port + 1 + PORTS_TRIED, 65536)):
        try:
            _bound(family, kind, protocol, (address[0], other, *address[2:])).close()
        except OSError:
            continue
        raise UserError(
            f"port {port} is taken", where="--port", hint=f"{other} is free: --port {other}"
        )
    raise UserError(f"port {port} is taken, and so are those after it", where="--port")


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would take the port away from whoever has it
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def address_of(host: str, port: int) -> str:
    """What to write into a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
