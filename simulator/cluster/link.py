"""A path for bytes that several senders share: what is asked for first is carried first."""

from __future__ import annotations


class Link:
    """Carries one transfer after the other at full rate.

    Args:
        bytes_per_s: its rate, one direction.
        latency_s: from the first byte sent to the first received; does not keep the link busy.

    Attributes:
        busy_s: how long it has carried bytes.
        sent_bytes: how many.
        free_s: when it will have carried all that it was given.
    """

    def __init__(self, bytes_per_s: float, latency_s: float = 0.0) -> None:
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.busy_s = 0.0
        self.sent_bytes = 0.0
        self.free_s = 0.0

    def send(self, size: float, now: float) -> float:
        """When ``size`` bytes that are ready to go now have arrived. Calls come in the order of
        ``now``."""
        start = self.free_s if self.free_s > now else now
        took = size / self.bytes_per_s
        self.free_s = start + took
        self.busy_s += took
        self.sent_bytes += size
        return self.free_s + self.latency_s

    def book(self, size: float) -> None:
        """Counts bytes that went in the past without keeping anybody waiting."""
        self.busy_s += size / self.bytes_per_s
        self.sent_bytes += size
