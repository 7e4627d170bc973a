"""A file that is whole after each piece that is added, however the next one ends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class GrowingFile:
    """UTF-8 text: `head`, pieces with `between` between them, `tail`. A piece that cannot be written (the disk is full)
    raises OSError and leaves what was there before it. count: pieces.
    """

    def __init__(self, path: Path, *, head: str = "", between: str = "", tail: str = "") -> None:
        self.path, self.count = path, 0
        self._between, self._tail = _encoded(between), _encoded(tail)
        self._file = path.open("wb", buffering=0)
        self._end = self._end_before = 0
        self._append(_encoded(head))

    def add(self, piece: str) -> None:
        """Append a piece."""
        self._append((self._between if self.count else b"") + _encoded(piece))
        self.count += 1

    def back_to(self, count: int) -> None:
        """Take the last piece away if there are more than `count`."""
        if self.count > count:
            self.count, self._end = count, self._end_before
            self._close_off()

    def close(self) -> None:
        self._file.close()

    def _append(self, content: bytes) -> None:
        try:
            self._write(content + self._tail)
        except BaseException:
            self._close_off()
            raise
        self._end_before, self._end = self._end, self._end + len(content)

    def _write(self, content: bytes) -> None:
        self._file.seek(self._end)
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _close_off(self) -> None:
        with suppress(OSError):
            self._file.truncate(self._end)
            self._write(self._tail)


def _encoded(text: str) -> bytes:
    # A file name need not be UTF-8, but results are.
    return text.encode("utf-8", errors="backslashreplace")
