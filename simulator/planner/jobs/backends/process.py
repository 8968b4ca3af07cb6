"""Worker processes, from both sides: tasks go to their standard input, outcomes come from their
output, and each has a thread at both ends, so that neither ever waits for the other to read."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import BinaryIO, cast

from simulator.planner.jobs.doing import THREADS, do_task
from simulator.planner.jobs.tasks import Task

READY = "ready"
"""First message of a worker."""

_COMMAND = "from simulator.planner.jobs.backends.process import work; work()"
_LENGTH = struct.Struct("<Q")
_PATIENCE_S = 10.0


class Worker:
    """A process that does tasks, as the one that started it sees it.

    A program of its own rather than a copy of this one: nothing is inherited but the environment,
    and ``__main__`` is not run again.

    Args:
        messages: where its messages are put, with the worker: ``READY``, an outcome for each task
            in their order, an exception that is ours, and None when it has gone.

    Attributes:
        tasks: given to it and not answered.
        ready: whether it has said so.
    """

    def __init__(self, messages: SimpleQueue[tuple[Worker, object]]) -> None:
        self.tasks: deque[Task] = deque()
        self.ready = False
        paths = [path or os.getcwd() for path in sys.path]
        environment = {**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join(paths)}
        with _interrupts_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            )  # fmt: skip
        self._input = cast(BinaryIO, self._process.stdin)
        self._output = cast(BinaryIO, self._process.stdout)
        self._listener = Thread(target=self._listen, args=(messages,), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def give(self, task: Task) -> None:
        """Sends a task."""
        self.tasks.append(task)
        with suppress(OSError):  # it has gone, which the listener will tell
            _send(self._input, task)

    def end(self, *, gone: bool = False) -> str:
        """Ends the process and says how it ended; ``gone``: by itself."""
        if gone:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        self._process.kill()
        status = self._process.wait()
        self._listener.join()
        with suppress(OSError):  # what was not sent
            self._input.close()
        self._output.close()
        if status >= 0:
            return f"ended with exit status {status}"
        if status == -signal.SIGKILL:
            return "was killed, as happens when memory runs out"
        return f"was ended by {signal.Signals(-status).name}"

    def _listen(self, messages: SimpleQueue[tuple[Worker, object]]) -> None:
        with suppress(EOFError, OSError):
            while True:
                messages.put((self, pickle.loads(_receive(self._output))))
        messages.put((self, None))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: whoever started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the process ------------------------------------------------------------------------------


def work() -> None:
    """Answers every task with its outcome, or with the error that is ours, until nobody asks."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_take_in, args=(sys.stdin.buffer, asked), daemon=True).start()
    with suppress(OSError):  # nobody hears
        _send(answers, READY)
        while True:
            try:
                answer: object = do_task(pickle.loads(asked.get()))
            except Exception as error:
                answer = sendable(error)
            _send(answers, answer)
    os._exit(0)


def _take_in(stream: BinaryIO, asked: SimpleQueue[bytes]) -> None:
    """Takes in tasks while one is done; when whoever asks has gone, so has this process, at once
    and in the middle of a task."""
    with suppress(EOFError, OSError):
        while True:
            asked.put(_receive(stream))
    os._exit(0)


def sendable(error: Exception) -> Exception:
    """The error with its traceback in a note, or what it said where it cannot travel."""
    told = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In the process that simulated it:\n{told}")
    return copy


def _send(stream: BinaryIO, message: object) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes:
    (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    return _exactly(stream, size)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
