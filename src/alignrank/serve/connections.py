"""Connections of clients that are slow, silent or many: what uvicorn itself waits for without an end.

uvicorn limits neither the time for a request's headers nor how long a client may go on sending a body that was refused.
`GuardedProtocol` adds both to its protocol, and makes room where there are too many connections.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from alignrank.serve.options import Limits

# Seconds that the rest of a refused request is read and thrown away. Closed at once, the connection would be reset, and
# a client that is still sending would lose the answer.
LINGER = 5.0


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a limit of time for all that a client owes. `limits` is set by `guarded`."""

    limits = Limits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._owed: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._unread: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way: none has come, or its headers are not complete."""
        return self._refused or self.conn.their_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its headers must come in time; among too many connections those that wait longest make room."""
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            others = [other for other in self.connections if isinstance(other, GuardedProtocol) and other.idle]
            oldest = min(others, key=lambda other: other.since, default=self)
            oldest.transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is owed any more."""
        self._owe(None, 0)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """A client that does not read its answers is left."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """What comes after a refusal is thrown away."""
        if not self._refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """The next request, or the rest of this one, must come in time."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP request, or one with a head of more than h11 takes, 16 kB."""
        self._refuse(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request, or its head is too long")

    def timeout_keep_alive_handler(self) -> None:
        """Also ends a connection whose client does not read its answer."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER, self.transport.abort)

    def _watch(self) -> None:
        """Start the clock for what the client owes now. A body under way is timed by the application."""
        if self._refused or self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE:
            self._owe("head", self.limits.head_seconds)
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._owe("rest", LINGER)
        else:
            self._owe(None, 0)

    def _owe(self, what: str | None, seconds: float) -> None:
        if what == self._owed:
            return  # bytes that trickle in win no time
        if self._timer is not None:
            self._timer.cancel()
        self._owed = what
        self._timer = None if what is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._owed == "head" and self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the headers did not come in time")
        else:
            self.transport.abort()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer without the application, read what is still sent for a while, close."""
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self._refused = True
        self.transport.write(head.encode() + body)
        self._owe("close", LINGER)
        if self.transport.can_write_eof():
            self.transport.write_eof()


def guarded(limits: Limits) -> type[GuardedProtocol]:
    """The protocol with these limits."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})
