"""The picture in a request: its body, or the one file of a multipart form, read within limits and kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from alignrank.errors import InputError
from alignrank.serve.options import Limits
from alignrank.serve.service import BusyError

FORM = "multipart/form-data"
PLAIN = ("application/octet-stream", "")
# Of a form: enough to say what is wrong with one that has too many.
_MAX_PARTS = 8


class Uploads:
    """Reads the pictures of all requests, and knows how many bytes of them are held at the moment."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    @asynccontextmanager
    async def picture(self, request: Request) -> AsyncIterator[bytes]:
        """The bytes of an image file. They count as held until the block ends.

        Raises HTTPException with the status that fits, BusyError where all bodies together are too many bytes,
        InputError for a form that is not of one file, ClientDisconnect.
        """
        kind = _checked_kind(request)
        before = _Counted(self)
        try:
            body = await self._body(request, before)
            if not body:
                raise InputError("the request has no body; send the bytes of an image")
            yield await _file_of(request, body) if kind == FORM else body
        finally:
            self.held -= before.bytes

    async def _body(self, request: Request, count: _Counted) -> bytes:
        limits = self.limits
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limits.body:
            raise _too_large(limits)
        began = asyncio.get_running_loop().time()
        chunks: list[bytes] = []
        stream = request.stream()
        try:
            async with asyncio.timeout(limits.body_seconds) as patience:
                async for chunk in stream:
                    count.add(len(chunk))
                    if count.bytes > limits.body:
                        raise _too_large(limits)
                    chunks.append(chunk)
                    patience.reschedule(began + limits.body_seconds + count.bytes / limits.rate)
        except TimeoutError:
            # A client that has fallen silent is not waited for any longer.
            raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
        finally:
            await stream.aclose()
        return b"".join(chunks)


class _Counted:
    """Bytes of one body."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads, self.bytes = uploads, 0

    def add(self, more: int) -> None:
        """Raises BusyError where all bodies together are too many."""
        self.bytes += more
        self._uploads.held += more
        if self._uploads.held > self._uploads.limits.held:
            raise BusyError


def _checked_kind(request: Request) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and not kind.startswith("image/") and kind not in PLAIN:
        raise HTTPException(
            415, f"content type {kind[:80]!r} is not taken; send an image as the body (image/jpeg, ...), or as one "
            f"file of {FORM}",
        )  # fmt: skip
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(415, f"content encoding {encoding[:80]!r} is not taken; send the image as it is")
    return kind


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the body has more bytes than the limit of {limits.body}")


class _InMemory(MultiPartParser):
    """Nothing of a form goes to the disk: it is in memory already."""

    spool_max_size = 2**40


async def _file_of(request: Request, body: bytes) -> bytes:
    """The one file of a form. Raises InputError for other forms, HTTPException for what is none."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = _InMemory(request.headers, stream(), max_files=_MAX_PARTS, max_fields=_MAX_PARTS)
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"form: {error.message}") from None
    except FormParserError:  # older releases of Starlette let it through
        raise HTTPException(400, "form: is no valid multipart data") from None
    try:
        return await _only_file(form)
    finally:
        await form.close()


async def _only_file(form: FormData) -> bytes:
    items = form.multi_items()
    files = [value for _, value in items if isinstance(value, UploadFile)]
    fields = [name for name, value in items if not isinstance(value, UploadFile)]
    if fields:
        raise InputError(f"form: takes one file and nothing else, got the field {fields[0][:80]!r}")
    if len(files) != 1:
        raise InputError(f"form: takes one file, got {len(files)}")
    content = await files[0].read()
    if not content:
        raise InputError("form: the file is empty")
    return content
