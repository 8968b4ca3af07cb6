"""Runs ``simulate dashboard`` as a user does: as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A dashboard that answers. ``stop`` ends it as Ctrl-C does."""

    def __init__(self, *args: str) -> None:
        self.folder = TemporaryDirectory()  # of what it keeps
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "simulator", "dashboard", "--no-browser", "--port"]
        self.process = subprocess.Popen(
            [*command, str(self.port), *args], text=True, cwd=self.folder.name, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        began = time.monotonic()
        self.said = self.process.stdout.readline()
        self.start_s = time.monotonic() - began

    def stop(self) -> tuple[int, str]:
        """Exit code, and what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        try:
            _, errors = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, errors


@contextmanager
def serving(*args: str) -> Iterator[Server]:
    """A dashboard for the block."""
    server = Server(*args)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()
        server.folder.cleanup()
