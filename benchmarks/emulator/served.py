"""``simulate serve`` as a process of its own, watched from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A server that answers.

    Args:
        args: of ``simulate serve``, but for host and port.
        log: file for what it says.
    """

    def __init__(self, args: list[str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "simulator", "serve", *args, "--port", str(self.port)]
        with log.open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said)
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the server does not answer: {log.read_text()}")

    def get(self, path: str) -> str:
        """The body of a page."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) / 1024

    @property
    def busy_s(self) -> float:
        """Processor time that the process has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def late_ms(self, share: float = 0.99) -> float:
        """How late that share of the server's writes was at most, by its histogram."""
        buckets = re.findall(
            r'^servecast:emulator_lateness_seconds_bucket\{le="(.+)"\} (.+)$',
            self.get("/metrics"), re.MULTILINE,
        )  # fmt: skip
        most = float(buckets[-1][1])
        return 1e3 * next(float(le) for le, count in buckets if float(count) >= share * most)

    def stop(self) -> int:
        """Ends it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        return self.process.wait()


@contextlib.contextmanager
def served(args: list[str], log: Path) -> Iterator[Served]:
    """A server for the block."""
    server = Served(args, log)
    try:
        yield server
    finally:
        server.stop()
