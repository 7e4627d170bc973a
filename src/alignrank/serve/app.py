"""What is answered at which path; errors are `{"error": "..."}` everywhere, and name nothing of this machine."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from alignrank.data.decode import PixelLimitError
from alignrank.errors import InputError, nearest
from alignrank.serve.metrics import CONTENT_TYPE
from alignrank.serve.pages import Page, api_page, main_page
from alignrank.serve.service import BusyError, Service
from alignrank.serve.uploads import FORM, Uploads
from alignrank.version import __version__

# Seconds after which who was sent away may come again.
RETRY_AFTER = "1"
# Older releases of FastAPI know no such option and leave it alone.
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


class Wanted(BaseModel):
    """The query of `/predict`."""

    model_config = ConfigDict(extra="forbid")

    conf: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="lowest score shown; else the server's"
    )
    classes: list[str] | None = Field(
        None, description="only these, names or numbers, with commas between them or one each time; else the server's"
    )
    max_dets: int | None = Field(None, ge=1, le=10_000, description="boxes at most; else the server's")


class Found(BaseModel):
    """What was found in an image, best first."""

    source: str = Field(description="always `image`")
    path: None = Field(description="always null")
    size: list[int] = Field(description="height and width of the image, px", min_length=2, max_length=2)
    boxes: list[list[float]] = Field(description="x0, y0, x1, y1 of each, px of the image")
    scores: list[float] = Field(description="of each, 0 to 1")
    labels: list[int] = Field(description="class number of each")
    names: list[str] = Field(description="class name of each")


class Failed(BaseModel):
    """Why there is no answer."""

    error: str


class State(BaseModel):
    """How the server is."""

    status: str


_bearer = HTTPBearer(auto_error=False, description="the server's token, where it has one")
router = APIRouter()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def admitted(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> None:
    """Raises HTTPException unless the server has no token, or the request has the same."""
    token = _service(request).options.token
    if token is None:
        return
    sent = "" if given is None else given.credentials
    if not hmac.compare_digest(sent.encode(), token.encode()):
        raise HTTPException(
            401, "the server's token is wanted, in a header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )  # fmt: skip


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "no valid form",
        401: "the token is missing or wrong",
        408: "the body did not come in time",
        413: "more bytes or pixels than the limits",
        415: "neither an image nor a form with a file",
        422: "not an image, or a query that cannot be used",
        503: "the queue is full, or the server is about to end",
    }
    return {status: {"model": Failed, "description": said[status]} for status in statuses}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IN_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
        "additionalProperties": False,
    }
}


@router.post(
    "/predict",
    response_model=Found,
    response_description="what was found",
    dependencies=[Depends(admitted)],
    responses=_failures(400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": {"required": True, "content": {"image/*": _BINARY, FORM: _IN_FORM}}},
)
async def predict(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
    """Detect objects in an image, which is the body, or the one file of a form."""
    service: Service = _service(request)
    uploads: Uploads = request.app.state.uploads
    asked = service.asked(wanted.conf, wanted.classes, wanted.max_dets)
    service.check_room()  # before the body is read; `detect` looks again
    async with uploads.picture(request) as content:
        detections = await service.detect(content, asked)
    return JSONResponse(detections.to_dict())


@router.get("/healthz", response_model=State, response_description="it is")
async def healthz() -> Response:
    """Whether the process is alive."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", response_model=State, response_description="they are", responses=_failures(503))
async def readyz(request: Request) -> Response:
    """Whether new requests are welcome: the network is loaded, and the server is not about to end."""
    if not _service(request).ready:
        raise HTTPException(503, "the server is about to end")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    dependencies=[Depends(admitted)],
    responses=_failures(401),
    response_class=Response,
    response_description="the figures",
)
async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text form."""
    return Response(_service(request).metrics.text(), media_type=CONTENT_TYPE)


async def index(request: Request) -> Response:
    """The page."""
    return _html(request.app.state.page)


async def docs(request: Request) -> Response:
    """The API in words."""
    return _html(api_page(request.app.openapi()))


def _html(page: Page) -> Response:
    return HTMLResponse(page.text, headers={"Content-Security-Policy": page.policy, "Cache-Control": "no-cache"})


def make_app(service: Service) -> FastAPI:
    """The application of a service."""
    # FastAPI's own pages load their scripts from the network.
    app = FastAPI(
        title="AlignRank", version=__version__, docs_url=None, redoc_url=None, telemetry=NO_TELEMETRY,
        description="Object detection: send an image, get boxes, scores and classes.",
    )  # fmt: skip
    app.state.service, app.state.uploads = service, Uploads(service.options.limits)
    app.state.page = main_page(service.pipeline)
    app.include_router(router)
    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


def _error(status: int, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _on_http(request: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail), error.headers)


async def _on_query(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    name = str(first["loc"][1]) if len(first["loc"]) > 1 else "query"
    if first["type"] == "extra_forbidden":
        return _error(422, f"query: unknown parameter {name[:80]!r}; {nearest(name[:80], Wanted.model_fields)}")
    return _error(422, f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {str(first['input'])[:80]!r}")


async def _on_input(request: Request, error: Any) -> Response:
    return _error(413 if isinstance(error, PixelLimitError) else 422, str(error))


async def _on_busy(request: Request, error: Any) -> Response:
    return _error(503, "too many requests at once; try again", {"Retry-After": RETRY_AFTER})


async def _on_disconnect(request: Request, error: Any) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx counts them so


async def _on_fault(request: Request, error: Any) -> Response:
    return _error(500, "the server failed at this request; its log says why")


_ANSWERS: dict[Any, Any] = {
    StarletteHTTPException: _on_http,
    RequestValidationError: _on_query,
    InputError: _on_input,
    BusyError: _on_busy,
    ClientDisconnect: _on_disconnect,
    Exception: _on_fault,
}
