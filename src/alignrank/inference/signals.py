"""Ctrl-C and SIGTERM while results are written: between two images, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from alignrank.errors import TERMINATED


class Signals:
    """While it is entered, Ctrl-C raises KeyboardInterrupt and SIGTERM SystemExit(143), but at the end of what is
    `held`. Only in the main thread; a signal that was ignored before stays so.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._received: int | None = None
        self._depth = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes within the block takes effect after it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._received is not None and not self._depth:
            self._stop()

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        if not self._depth:
            self._stop()

    def _stop(self) -> None:
        number, self._received = self._received, None
        raise SystemExit(TERMINATED) if number == signal.SIGTERM else KeyboardInterrupt
