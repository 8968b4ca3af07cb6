"""The requests that came, written down as a trace that ``simulate run`` replays."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from simulator import UserError
from simulator.live import Asked

LOG = logging.getLogger("servecast")


class Recording:
    """JSON lines in the order of arrival: when each request was sent, in simulated seconds
    to the last bit, and its lengths. Several answers to a prompt are a line each.

    Args:
        file: is written anew.
        classes: names of the traffic classes; told only where there are several.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, file: Path, classes: Sequence[str]) -> None:
        self._classes = classes if len(classes) > 1 else None
        self._whole = True
        try:
            self._file = file.open("w", buffering=1, encoding="utf-8")  # a line at a time
        except OSError as error:
            raise UserError(
                f"cannot be written: {error.strerror or error}", where=str(file)
            ) from None

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what could not be written was told
            self._file.close()

    def sent(self, at_s: float, asked: Asked) -> None:
        """A request went to the deployment."""
        line: dict[str, object] = {
            "arrival_s": at_s,
            "input_tokens": asked.input_tokens,
            "output_tokens": asked.output_tokens,
        }
        if self._classes is not None:
            line["class"] = self._classes[asked.class_id]
        if not self._whole:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._whole = False
            LOG.error("The recording ends here, because it cannot be written: %s", error)
