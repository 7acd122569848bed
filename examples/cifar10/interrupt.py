"""SIGINT and SIGTERM as a request to stop; a second one leaves at once."""

import os
import signal
import threading
from types import FrameType, TracebackType

EXIT_STATUS = 130


class Interrupted(Exception):
    """A stop was asked for, at a point from which the run can go on later."""


class StopRequest:
    """While entered, turns SIGINT and SIGTERM into ``requested``.

    Signals reach only the main thread of a process; elsewhere this never asks to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def check(self) -> None:
        """Raise ``Interrupted`` where a stop was asked for."""
        if self.requested:
            raise Interrupted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            # The work of this moment is given up: no clean-up, which could wait for a worker or a disk.
            os.write(2, b"\ntrain.py: interrupted twice, leaving without saving\n")
            os._exit(EXIT_STATUS)
        self.requested = True
