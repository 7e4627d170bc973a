"""Long work under way and how far it is, told by a thread of its own: one long step is no silence."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta


class Work:
    """One long work. total: its steps, None where unknown. line: how far it is; by default `in_words`."""

    def __init__(self, description: str, total: int | None = None, line: Callable[[], str] | None = None) -> None:
        self.description, self.total, self.done = description, total, 0
        self.began = time.monotonic()
        self.line = line or self.in_words
        self.changed: Callable[[Work], object] = lambda work: None
        self._lock = threading.Lock()

    def advance(self, description: str | None = None) -> None:
        """One more step is done; any thread may say so."""
        with self._lock:
            self.done += 1
            self.description = description or self.description
        self.changed(self)

    def in_words(self) -> str:
        """`decoding images: 310 of 2000, 0.5 s each, 0:14:05 left`."""
        done, spent = self.done, time.monotonic() - self.began
        so_far = f"{clock(spent)} so far"
        if self.total is None:
            return f"{self.description}: {f'{done} done, ' if done else ''}{so_far}"
        if not 0 < done < self.total:
            return f"{self.description}: {done} of {self.total}, {so_far}"
        each = spent / done
        pace = f"{seconds(each)} each" if each >= 0.1 else f"{1 / max(each, 1e-9):.0f} a second"
        return f"{self.description}: {done} of {self.total}, {pace}, {clock(each * (self.total - done))} left"


class Rate:
    """Steps a second, of the last `span` seconds or so. now: seconds, for tests."""

    def __init__(self, span: float = 2.0, now: Callable[[], float] = time.monotonic) -> None:
        self._span, self._now = span, now
        self._marks: deque[tuple[float, int]] = deque([(now(), 0)])
        self._steps = 0

    def step(self) -> float:
        """One more step is done; the rate now."""
        self._steps += 1
        moment = self._now()
        # Ten marks of a span are enough.
        if moment - self._marks[-1][0] >= self._span / 10:
            self._marks.append((moment, self._steps))
        while len(self._marks) > 1 and moment - self._marks[1][0] >= self._span:
            self._marks.popleft()
        began, before = self._marks[0]
        return (self._steps - before) / max(moment - began, 1e-9)


def clock(duration: float) -> str:
    """Seconds -> `0:02:10`."""
    return str(timedelta(seconds=round(duration)))


def seconds(duration: float) -> str:
    """`1.4 s`, `0.04 s`."""
    return f"{duration:.1f} s" if duration >= 0.95 else f"{duration:.2g} s"


class Teller:
    """Tells about the works under way from a daemon thread, which ends with the last of them.

    tell: gets them, outermost first, and is never called without any, nor after the last has ended. due: the time
    (of time.monotonic) of the next telling.
    """

    def __init__(self, tell: Callable[[Sequence[Work]], object], due: Callable[[Sequence[Work]], float]) -> None:
        self._tell, self._due = tell, due
        self._works: list[Work] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, work: Work) -> None:
        with self._lock:
            self._works.append(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alignrank-heartbeat", daemon=True)
            self._thread.start()

    def end(self, work: Work) -> None:
        with self._lock:  # a telling under way is finished first
            self._works.remove(work)
            over = not self._works
        if over and self._thread is not None:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._over.wait(wait):
            with self._lock:
                if not self._works:
                    return
                if time.monotonic() >= self._due(self._works):
                    with suppress(Exception):  # a closed stream, a device that failed: the work itself will say so
                        self._tell(self._works)
                wait = max(self._due(self._works) - time.monotonic(), 0.01)
