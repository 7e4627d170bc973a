"""Around the application: counts answers, and tells clients of a server that will end to close their connections."""

from __future__ import annotations

import time
from typing import Any

from alignrank.serve.service import Service

# Others share one name in the figures: clients could make up any number.
_PATHS = ("/", "/predict", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_CLOSE = (b"connection", b"close")


class Edge:
    """An ASGI application around another."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the application does."""
        began, status = time.monotonic(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), *_HEADERS]
                if self._service.draining and _CLOSE not in headers:
                    headers.append(_CLOSE)
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self._service.metrics.answered(path, status, time.monotonic() - began)
