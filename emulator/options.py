"""How the server treats its clients."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """See ``simulate serve --help``.

    Args:
        speed: simulated seconds a second.
        api_key: what requests must carry; None: nothing.
        names: of the model, instead of its own; empty: that.
        max_body_bytes: of a request.
        max_connections: at once; more are answered by 503.
        client_timeout_s: so long a client may take to send a request, or to take anything of what
            was sent to it.
        keep_alive_s: so long a connection may be idle between two requests.
        drain_s: so long open answers may go on after Ctrl-C.
        progress_s: so often what goes on is told; 0: never.
        faults_by_header: requests may ask for what goes wrong with them, and with replicas.
        hosts: names under which it may be reached, in lower case; None: any.
    """

    speed: float = 1.0
    api_key: str | None = None
    names: tuple[str, ...] = ()
    max_body_bytes: int = 16 << 20
    max_connections: int = 4096
    client_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    drain_s: float = 30.0
    progress_s: float = 0.0
    faults_by_header: bool = False
    hosts: frozenset[str] | None = None
